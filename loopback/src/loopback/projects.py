"""Who is asking, projects, reports and workspaces."""

# ruff: noqa: S608  (table and column names are our own words; every value goes through a ?)

import base64
import json
from functools import partial

from loopback import pages, query
from loopback.store import ENTITY, NotFoundError, now

# What the client may rely on; the names are W&B's. What is not listed counts as absent.
FEATURES = (
    "LARGE_FILENAMES",
    "ARTIFACT_TAGS",
    "CLIENT_IDS",
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILES",
    "USE_ARTIFACT_WITH_ENTITY_AND_PROJECT_INFORMATION",
    "PROJECT_ARTIFACT_COLLECTION_MEMBERSHIP",
    "TOTAL_COUNT_IN_FILE_CONNECTION",
    "ARTIFACT_COLLECTIONS_FILTERING_SORTING",
    "MARK_RUN_FILES_UPLOADED",
    "SWEEPS_QUERY_FILTERING",
    "SWEEPS_LOCAL_SCHEDULER",
    "ARTIFACT_DIGEST_ALGORITHM",
)

USER = {
    "id": "User:1",
    "name": ENTITY,
    "username": ENTITY,
    "email": f"{ENTITY}@localhost",
    "photo_url": None,
    "admin": True,
    "flags": "{}",
    "entity": ENTITY,
    "deleted_at": None,
    "api_keys": pages.whole([]),
    "teams": pages.whole([{"name": ENTITY}]),
    "organizations": [],
}

KINDS = {  # what the ids of a table's rows begin with
    "agents": "Agent",
    "artifacts": "Artifact",
    "collections": "Collection",
    "files": "File",
    "manifests": "Manifest",
    "runs": "Run",
    "sweeps": "Sweep",
    "views": "View",
}

RUNS = """
SELECT r.*, s.name AS sweep_name, p.name AS project_name, p.entity AS entity_name
FROM runs r JOIN projects p ON p.id = r.project_id LEFT JOIN sweeps s ON s.id = r.sweep_id
"""


def entity(_source, _info, name=None) -> dict:
    """Any name is an entity here: one user, no teams, no organization."""
    return {
        "id": f"Entity:{name or ENTITY}",
        "name": name or ENTITY,
        "is_team": False,
        "entity_type": "user",
        "organization": None,
        "user": USER,
        "xxhash_digests_enabled": False,
        "available": False,
        "photo_url": None,
        "read_only": False,
        "read_only_admin": False,
        "private_only": False,
        "storage_bytes": 0,
        "code_saving_enabled": True,
        "default_access": "USER_READ",
        "is_paid": False,
        "members": [USER | {"pending": False, "account_type": "MEMBER", "api_key": None}],
    }


def users(_source, _info, query=None) -> dict:
    """The user, if `query` is part of the name or of the address."""
    known = (USER["username"], USER["email"])
    return pages.whole([USER] if any((query or "").lower() in text for text in known) else [])


def project(_source, info, name=None, entityName=None) -> dict | None:  # noqa: N803  GraphQL's own names
    """The project, or null, which the client reads as: does not exist."""
    return info.context.store.project(entityName, name)


def row_of(info, table: str, global_id: str) -> dict:
    """The row behind an id that `identified` made, or `Sweep:3` in clear.

    Raises NotFoundError if there is none, or if the id is one of another kind.
    """
    try:
        plain = global_id if ":" in global_id else base64.b64decode(global_id + "===").decode()
    except ValueError:
        raise NotFoundError(f"{global_id} does not exist") from None
    kind, _, number = plain.partition(":")
    if kind != KINDS[table]:
        raise NotFoundError(f"{global_id} is no id of a {KINDS[table].lower()}")
    row = info.context.store.one(f"SELECT * FROM {table} WHERE id = ?", number)
    if row is None:
        raise NotFoundError(f"{global_id} does not exist")
    return row


def identified(kind: str, source: dict, _info) -> str:
    """A row's id as the client sees it: `Run:12` in base64, which W&B's report links rely on. A text is kept."""
    if isinstance(source["id"], str):
        return source["id"]
    return base64.b64encode(f"{kind}:{source['id']}".encode()).decode()


def project_of(source: dict, info) -> dict:
    """The project that a row belongs to."""
    return info.context.store.one("SELECT * FROM projects WHERE id = ?", source["project_id"])


def find_runs(
    store, project_id: int, filters, order: str | None, offset: int, limit: int
) -> list[dict]:
    """Rows of a project's runs that pass `filters`, in `order`."""
    condition, values = query.where(filters)
    sql = f"{RUNS} WHERE r.project_id = ? AND ({condition}) ORDER BY {query.order_by(order)} LIMIT ? OFFSET ?"
    return store.bounded(sql, project_id, *values, limit, offset)


def runs(
    source, info, filters=None, order=None, first=None, after=None, last=None, before=None
) -> dict:
    """A page of runs, oldest first unless `order` says otherwise."""
    return pages.paged(
        partial(find_runs, info.context.store, source["id"], filters, order), first, after
    )


def run_count(source, info, filters=None) -> int:
    """How many runs pass `filters`."""
    condition, values = query.where(filters)
    sql = f"SELECT COUNT(*) FROM runs r LEFT JOIN sweeps s ON s.id = r.sweep_id WHERE r.project_id = ? AND ({condition})"
    return info.context.store.value(sql, source["id"], *values)


def run(source, info, name: str, missingOk=None) -> dict | None:  # noqa: N803
    """One run by its name, the id that users know; null if there is none."""
    return info.context.store.one(
        f"{RUNS} WHERE r.project_id = ? AND r.name = ?", source["id"], name
    )


def sweep(source, info, sweepName: str) -> dict | None:  # noqa: N803
    """One sweep by its name, the id that users know; null if there is none."""
    sql = "SELECT * FROM sweeps WHERE project_id = ? AND name = ?"
    return info.context.store.one(sql, source["id"], sweepName)


def sweeps(source, info, filters=None, first=None, after=None) -> dict:
    """A page of sweeps, newest first. Of the filters, equality of plain columns is understood."""
    wanted = json.loads(filters or "{}")
    known = {"name", "state", "display_name"}
    if set(wanted) - known:
        raise ValueError(
            f"sweeps can be filtered by {sorted(known)}, not by {sorted(set(wanted) - known)}"
        )
    condition = "".join(f" AND {key} = ?" for key in wanted)
    sql = f"SELECT * FROM sweeps WHERE project_id = ?{condition} ORDER BY id DESC LIMIT ? OFFSET ?"

    def fetch(offset, limit):
        return info.context.store.all(sql, source["id"], *wanted.values(), limit, offset)

    return pages.paged(fetch, first, after)


def models(_source, info, entityName=None, first=None, after=None) -> dict:  # noqa: N803
    """A page of an entity's projects."""
    sql = "SELECT * FROM projects WHERE entity = ? ORDER BY id DESC LIMIT ? OFFSET ?"
    fetch = lambda offset, limit: info.context.store.all(sql, entityName or ENTITY, limit, offset)  # noqa: E731
    return pages.paged(fetch, first, after)


def upsert_model(_source, info, input: dict) -> dict:
    """Creates a project, or changes its description."""
    store = info.context.store
    with store.writing():
        before = store.project(input.get("entityName"), input.get("name"))
        row = store.project(input.get("entityName"), input.get("name"), create=True)
        if input.get("description") is not None:
            store.update("projects", row["id"], description=input["description"])
    row = project(None, info, input.get("name"), input.get("entityName"))
    return {"project": row, "model": row, "inserted": before is None}


def all_views(
    source,
    info,
    viewType=None,
    viewName=None,
    userName=None,
    first=None,
    after=None,  # noqa: N803  the schema's names
) -> dict:
    """Reports and saved workspaces of a project."""
    sql = "SELECT * FROM views WHERE project_id = ? AND (? IS NULL OR type = ?) AND (? IS NULL OR name = ?)"
    rows = info.context.store.all(sql, source["id"], viewType, viewType, viewName, viewName)
    return pages.sliced(rows, first, after)


def upsert_view(_source, info, input: dict) -> dict:
    """Saves a report or workspace; an id says which one to replace."""
    store = info.context.store
    names = {
        "type": "type",
        "name": "name",
        "display_name": "displayName",
        "description": "description",
        "spec": "spec",
    }
    columns = {name: input[key] for name, key in names.items() if input.get(key) is not None}
    if input.get("id"):
        view_id = row_of(info, "views", input["id"])["id"]
        store.update("views", view_id, **columns, updated_at=now())
    else:
        with store.writing():
            owner = store.project(input.get("entityName"), input.get("projectName"), create=True)
            view_id = store.insert(
                "views", project_id=owner["id"], created_at=now(), updated_at=now(), **columns
            )
    return {"view": row_of(info, "views", f"View:{view_id}"), "inserted": not input.get("id")}


def delete_view(_source, info, input: dict) -> dict:
    """Forgets a report or workspace."""
    view = row_of(info, "views", input["id"])
    info.context.store.write("DELETE FROM views WHERE id = ?", view["id"])
    return {"success": True, "pendingDrafts": False}


RESOLVERS = {
    "Query": {
        "viewer": lambda _source, _info: USER,
        "users": users,
        "serverInfo": lambda *_: {
            "features": [{"name": name, "isEnabled": True} for name in FEATURES]
        },
        "entity": entity,
        "organization": lambda _source, _info, name: None,
        "project": project,
        "model": project,
        "models": models,
        "view": lambda _source, info, id: row_of(info, "views", id),
    },
    "Entity": {
        "project": lambda source, info, name=None: project(None, info, name, source["name"])
    },
    "Project": {
        "id": partial(identified, "Project"),
        "internalId": lambda source, _info: str(source["id"]),
        "entityName": lambda source, _info: source["entity"],
        "entity": lambda source, info: entity(None, info, source["entity"]),
        "views": lambda *_: "{}",
        "updatedAt": lambda source, _info: source["created_at"],
        "isBenchmark": lambda *_: False,
        "readOnly": lambda *_: False,
        "user": lambda *_: USER,
        "run": run,
        "bucket": run,
        "runs": runs,
        "runCount": run_count,
        "sweep": sweep,
        "sweeps": sweeps,
        "totalSweeps": lambda source, info: info.context.store.value(
            "SELECT COUNT(*) FROM sweeps WHERE project_id = ?", source["id"]
        ),
        "allViews": all_views,
    },
    "View": {
        "id": partial(identified, "View"),
        "project": project_of,
        "user": lambda *_: USER,
    },
    "Mutation": {"upsertModel": upsert_model, "upsertView": upsert_view, "deleteView": delete_view},
}
