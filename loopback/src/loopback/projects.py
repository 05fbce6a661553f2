"""The user, entities, projects, reports and workspaces."""

# ruff: noqa: S608  (table and column names come from this program; every value is bound with a ?)

import json
from functools import partial
from typing import Any

from loopback import pages, query
from loopback.common import SELECT_RUNS, USER, Info, Resolvers, id_of, project_of, row_of
from loopback.store import ENTITY, Row, Store, now

# Features that the client may use, by W&B's names. The client takes all others for absent.
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

SWEEP_FILTERS = {"name", "state", "display_name"}  # columns by which sweeps can be filtered
VIEW_COLUMNS = {  # input field -> column
    "type": "type",
    "name": "name",
    "displayName": "display_name",
    "description": "description",
    "spec": "spec",
}


def entity(_source: object, _info: Info, name: str | None = None) -> Row:
    """The entity with this name. Every name exists: one user, no teams, no organizations."""
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


def users(_source: object, _info: Info, query: str | None = None) -> pages.Connection:
    """The one user, if `query` is part of the user's name or address."""
    known = (USER["username"], USER["email"])
    return pages.one_page([USER] if any((query or "").lower() in text for text in known) else [])


def project(
    _source: object,
    info: Info,
    name: str | None = None,
    entityName: str | None = None,  # noqa: N803  the schema's name
) -> Row | None:
    """The project, or None if it does not exist."""
    return info.context.store.project(entityName, name)


def find_runs(
    store: Store, project_id: int, filters: str | None, order: str | None, offset: int, limit: int
) -> list[Row]:
    """At most `limit` rows of a project's runs that pass `filters`, in `order`, after `offset`."""
    condition, values = query.where(filters)
    sql = f"""{SELECT_RUNS} WHERE r.project_id = ? AND ({condition})
        ORDER BY {query.order_by(order)} LIMIT ? OFFSET ?"""
    return store.bounded(sql, project_id, *values, limit, offset)


def runs(
    source: Row,
    info: Info,
    filters: str | None = None,
    order: str | None = None,
    first: int | None = None,
    after: str | None = None,
    **_other: object,  # last and before: W&B's client does not use them
) -> pages.Connection:
    """A page of the project's runs, oldest first unless `order` says otherwise."""
    fetch = partial(find_runs, info.context.store, source["id"], filters, order)
    return pages.paged(fetch, first, after)


def run_count(source: Row, info: Info, filters: str | None = None) -> int:
    """How many of the project's runs pass `filters`."""
    condition, values = query.where(filters)
    sql = f"""SELECT COUNT(*) FROM runs r LEFT JOIN sweeps s ON s.id = r.sweep_id
        WHERE r.project_id = ? AND ({condition})"""
    count: int = info.context.store.value(sql, source["id"], *values)
    return count


def run(source: Row, info: Info, name: str, missingOk: bool | None = None) -> Row | None:  # noqa: N803  the schema's name
    """The project's run with this name (users call it the run id), or None."""
    sql = f"{SELECT_RUNS} WHERE r.project_id = ? AND r.name = ?"
    return info.context.store.one(sql, source["id"], name)


def sweep(source: Row, info: Info, sweepName: str) -> Row | None:  # noqa: N803  the schema's name
    """The project's sweep with this name (users call it the sweep id), or None."""
    return info.context.store.named("sweeps", source["id"], sweepName)


def sweeps(
    source: Row,
    info: Info,
    filters: str | None = None,
    first: int | None = None,
    after: str | None = None,
) -> pages.Connection:
    """A page of the project's sweeps, newest first.

    A filter is `{column: value}` with columns of SWEEP_FILTERS; ValueError for any other filter.
    """
    wanted = json.loads(filters or "{}")
    unknown = set(wanted) - SWEEP_FILTERS
    if unknown:
        raise ValueError(
            f"sweeps can be filtered by {sorted(SWEEP_FILTERS)}, not by {sorted(unknown)}"
        )
    condition = "".join(f" AND {column} = ?" for column in wanted)
    sql = f"SELECT * FROM sweeps WHERE project_id = ?{condition} ORDER BY id DESC"
    values = [source["id"], *wanted.values()]
    return pages.selected(info.context.store, sql, *values, first=first, after=after)


def total_sweeps(source: Row, info: Info) -> int:
    """How many sweeps the project has."""
    sql = "SELECT COUNT(*) FROM sweeps WHERE project_id = ?"
    count: int = info.context.store.value(sql, source["id"])
    return count


def models(
    _source: object,
    info: Info,
    entityName: str | None = None,  # noqa: N803  the schema's name
    first: int | None = None,
    after: str | None = None,
) -> pages.Connection:
    """A page of an entity's projects, newest first."""
    sql = "SELECT * FROM projects WHERE entity = ? ORDER BY id DESC"
    name = entityName or ENTITY
    return pages.selected(info.context.store, sql, name, first=first, after=after)


def upsert_model(_source: object, info: Info, input: dict[str, Any]) -> Row:
    """Creates a project, or changes its description."""
    store, name, entity_name = info.context.store, input.get("name"), input.get("entityName")
    with store.writing():
        existed = store.project(entity_name, name) is not None
        row = store.ensure_project(entity_name, name)
        if input.get("description") is not None:
            store.update("projects", row["id"], description=input["description"])
    row = store.row("projects", row["id"])
    return {"project": row, "model": row, "inserted": not existed}


def all_views(
    source: Row,
    info: Info,
    viewType: str | None = None,  # noqa: N803  the schema's names
    viewName: str | None = None,  # noqa: N803
    userName: str | None = None,  # noqa: N803
    first: int | None = None,
    after: str | None = None,
) -> pages.Connection:
    """A page of the project's reports and saved workspaces, of one type or name if given."""
    sql = """SELECT * FROM views
        WHERE project_id = ? AND (? IS NULL OR type = ?) AND (? IS NULL OR name = ?)"""
    rows = info.context.store.all(sql, source["id"], viewType, viewType, viewName, viewName)
    return pages.sliced(rows, first, after)


def upsert_view(_source: object, info: Info, input: dict[str, Any]) -> Row:
    """Creates a report or workspace, or replaces the one with the input's id."""
    store = info.context.store
    columns = {name: input[key] for key, name in VIEW_COLUMNS.items() if input.get(key) is not None}
    with store.writing():
        if input.get("id"):
            view_id = row_of(info, "views", input["id"])["id"]
            store.update("views", view_id, **columns, updated_at=now())
        else:
            owner = store.ensure_project(input.get("entityName"), input.get("projectName"))
            stamps = {"created_at": now(), "updated_at": now()}
            view_id = store.insert("views", project_id=owner["id"], **stamps, **columns)
    return {"view": store.row("views", view_id), "inserted": not input.get("id")}


def delete_view(_source: object, info: Info, input: dict[str, Any]) -> Row:
    """Deletes a report or workspace."""
    view = row_of(info, "views", input["id"])
    info.context.store.write("DELETE FROM views WHERE id = ?", view["id"])
    return {"success": True, "pendingDrafts": False}


RESOLVERS: Resolvers = {
    "Query": {
        "viewer": lambda *_: USER,
        "users": users,
        "serverInfo": lambda *_: {
            "features": [{"name": name, "isEnabled": True} for name in FEATURES]
        },
        "entity": entity,
        "organization": lambda *_, name: None,
        "project": project,
        "model": project,
        "models": models,
        "view": lambda _source, info, id: row_of(info, "views", id),
    },
    "Entity": {
        "project": lambda source, info, name=None: project(None, info, name, source["name"])
    },
    "Project": {
        "id": partial(id_of, "Project"),
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
        "totalSweeps": total_sweeps,
        "allViews": all_views,
    },
    "View": {
        "id": partial(id_of, "View"),
        "project": project_of,
        "user": lambda *_: USER,
    },
    "Mutation": {"upsertModel": upsert_model, "upsertView": upsert_view, "deleteView": delete_view},
}
