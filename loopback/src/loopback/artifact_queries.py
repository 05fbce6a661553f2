"""Queries of artifacts: collections, versions, aliases, types, files, and the runs of a version."""

import json
import mimetypes
from functools import partial
from typing import Any

from loopback import pages
from loopback.artifacts import VERSION, entries_of, manifest, object_path
from loopback.common import (
    SELECT_RUNS,
    USER,
    Info,
    Resolvers,
    collection_of,
    id_of,
    project_of,
    row_of,
)
from loopback.store import NotFoundError, Row, Store

DIGEST_ALGORITHM = "MANIFEST_MD5"
NO_TIME_TO_LIVE = -1  # W&B's number for versions that are kept until somebody deletes them


def _collection(info: Info, project_id: int, name: str) -> Row | None:
    """A collection by its name, or None. Ignores an alias after a colon."""
    return info.context.store.named("collections", project_id, name.split(":")[0])


def project_collection(source: Row, info: Info, name: str) -> Row | None:
    """A collection of a project by its name, or None."""
    return _collection(info, source["id"], name)


def type_collection(source: Row, info: Info, name: str) -> Row | None:
    """A collection by its name in the project of an artifact type, or None."""
    return _collection(info, source["project_id"], name)


def _collections(
    info: Info, rows: list[Row], filters: str | None, first: int | None, after: str | None
) -> pages.Connection:
    """A page of collections. The only filter is `{"name": ...}`; ValueError for any other."""
    wanted = json.loads(filters or "{}")
    if set(wanted) - {"name"}:
        raise ValueError(f"collections can be filtered by name, not by {sorted(wanted)}")
    rows = [row for row in rows if wanted.get("name", row["name"]) == row["name"]]
    return pages.sliced(rows, first, after, totalCount=len(rows))


def project_collections(
    source: Row,
    info: Info,
    filters: str | None = None,
    order: str | None = None,
    first: int | None = None,
    after: str | None = None,
) -> pages.Connection:
    """A page of a project's collections, newest first."""
    sql = "SELECT * FROM collections WHERE project_id = ? ORDER BY id DESC"
    rows = info.context.store.all(sql, source["id"])
    return _collections(info, rows, filters, first, after)


def type_collections(
    source: Row,
    info: Info,
    filters: str | None = None,
    order: str | None = None,
    first: int | None = None,
    after: str | None = None,
) -> pages.Connection:
    """A page of a project's collections of one artifact type, newest first."""
    sql = "SELECT * FROM collections WHERE project_id = ? AND type = ? ORDER BY id DESC"
    rows = info.context.store.all(sql, source["project_id"], source["type"])
    return _collections(info, rows, filters, first, after)


def artifact_by_name(source: Row, info: Info, name: str) -> Row | None:
    """A project's artifact by `NAME:ALIAS`, or None. `NAME` alone is the latest version."""
    name, _, alias = name.partition(":")
    store = info.context.store
    row = store.named("collections", source["id"], name)
    return _by_alias(store, row["id"], alias or "latest") if row else None


def _by_alias(store: Store, collection_id: int, alias: str) -> Row | None:
    """The committed version that an alias points to, or None. `v3` is version 3."""
    if match := VERSION.fullmatch(alias):
        sql = """SELECT * FROM artifacts
            WHERE collection_id = ? AND version = ? AND state = 'COMMITTED'"""
        return store.one(sql, collection_id, int(match[1]))
    sql = """SELECT a.* FROM aliases l JOIN artifacts a ON a.id = l.artifact_id
        WHERE l.collection_id = ? AND l.alias = ?"""
    return store.one(sql, collection_id, alias)


def _membership(artifact: Row) -> Row:
    """An artifact as a member of its collection."""
    return {
        "id": f"Membership:{artifact['id']}",
        "created_at": artifact["created_at"],
        "artifact": artifact,
    }


def project_membership(source: Row, info: Info, name: str) -> Row | None:
    """A project's artifact by `NAME:ALIAS`, as a member of its collection, or None."""
    artifact = artifact_by_name(source, info, name)
    return _membership(artifact) if artifact else None


def collection_membership(source: Row, info: Info, aliasName: str) -> Row | None:  # noqa: N803
    """The version of a collection that an alias points to, or None."""
    artifact = _by_alias(info.context.store, source["id"], aliasName)
    return _membership(artifact) if artifact else None


def _aliases(rows: list[Row], collection: Row) -> list[Row]:
    return [
        {"id": f"Alias:{row['id']}", "alias": row["alias"], "artifact_collection": collection}
        for row in rows
    ]


def aliases_of(source: Row, info: Info) -> list[Row]:
    """The aliases of an artifact, and `v3` if it is version 3."""
    collection = collection_of(source, info)
    sql = "SELECT * FROM aliases WHERE artifact_id = ? ORDER BY id"
    aliases = _aliases(info.context.store.all(sql, source["id"]), collection)
    if source["version"] is None:
        return aliases
    version = {"id": f"Version:{source['id']}", "alias": f"v{source['version']}"}
    return [*aliases, version | {"artifact_collection": collection}]


def collection_aliases(
    source: Row, info: Info, first: int | None = None, after: str | None = None
) -> pages.Connection:
    """A page of the aliases in a collection."""
    sql = "SELECT * FROM aliases WHERE collection_id = ? ORDER BY id"
    return pages.sliced(_aliases(info.context.store.all(sql, source["id"]), source), first, after)


def _committed(info: Info, collection: Row) -> list[Row]:
    """A collection's committed versions, newest first."""
    sql = """SELECT * FROM artifacts
        WHERE collection_id = ? AND state = 'COMMITTED' ORDER BY version DESC"""
    return info.context.store.all(sql, collection["id"])


def versions(
    source: Row,
    info: Info,
    filters: str | None = None,
    order: str | None = None,
    first: int | None = None,
    after: str | None = None,
) -> pages.Connection:
    """A page of a collection's committed versions, newest first."""
    rows = _committed(info, source)
    connection = pages.sliced(rows, first, after, totalCount=len(rows))
    for edge in connection["edges"]:
        edge["version"] = f"v{edge['node']['version']}"
    return connection


def latest(source: Row, info: Info) -> Row | None:
    """A collection's newest committed version, or None."""
    return next(iter(_committed(info, source)), None)


def _type(project_id: int, name: str, created_at: str) -> Row:
    """An artifact type with its project, where its collections are looked up."""
    return {
        "id": f"ArtifactType:{project_id}:{name}",
        "name": name,
        "description": None,
        "created_at": created_at,
        "type": name,
        "project_id": project_id,
    }


def _type_of(collection: Row, _info: Info) -> Row:
    return _type(collection["project_id"], collection["type"], collection["created_at"])


def artifact_types(
    source: Row,
    info: Info,
    first: int | None = None,
    after: str | None = None,
    includeAll: bool | None = None,  # noqa: N803  the schema's name
) -> pages.Connection:
    """A page of the artifact types in a project."""
    sql = """SELECT type, MIN(created_at) AS created_at FROM collections
        WHERE project_id = ? GROUP BY type"""
    found = info.context.store.all(sql, source["id"])
    rows = [_type(source["id"], row["type"], row["created_at"]) for row in found]
    return pages.sliced(rows, first, after)


def artifact_type(source: Row, info: Info, name: str) -> Row | None:
    """The project's artifact type with this name, or None."""
    sql = "SELECT MIN(created_at) FROM collections WHERE project_id = ? AND type = ?"
    created_at = info.context.store.value(sql, source["id"], name)
    return _type(source["id"], name, created_at) if created_at else None


def client_id(_source: object, info: Info, clientID: str) -> Row:  # noqa: N803  the schema's name
    """The id of the artifact that a client has created under `clientID`."""
    number = info.context.store.value("SELECT id FROM artifacts WHERE client_id = ?", clientID)
    if number is None:
        raise NotFoundError("no artifact has this client id")
    return {"serverID": f"Artifact:{number}"}


def current_manifest(source: Row, info: Info) -> Row:
    """The newest manifest of an artifact."""
    sql = "SELECT MAX(id) FROM manifests WHERE artifact_id = ?"
    return manifest(info, info.context.store.value(sql, source["id"]))


def _file(info: Info, path: str, digest: str, size: int | None) -> Row:
    """A stored file of an artifact as the schema's `File`, with its link and its type."""
    stored = object_path(digest)
    url = info.context.links.download(f"/storage/{stored}")
    return {
        "id": f"ArtifactFile:{stored}",
        "name": path,
        "display_name": path,
        "url": url,
        "direct_url": url,
        "size_bytes": size,
        "digest": digest,
        "md5": digest,
        "storage_path": stored,
        "updated_at": None,
        "mimetype": mimetypes.guess_type(path)[0] or "application/octet-stream",
    }


def membership_files(
    source: Row,
    info: Info,
    names: list[str] | None = None,
    first: int | None = None,
    after: str | None = None,
) -> pages.Connection:
    """A page of an artifact's files by name. Without references: their bytes are elsewhere."""
    entries = entries_of(info.context.store, source["artifact"])
    rows = [
        _file(info, path, entry["digest"], entry.get("size"))
        for path, entry in sorted(entries.items())
        if not entry.get("ref") and (not names or path in names)
    ]
    return pages.sliced(rows, first, after, totalCount=len(rows))


def files_by_entries(
    _source: Row, info: Info, entries: list[dict[str, Any]] | None = None, **_layout: object
) -> pages.Connection:
    """Links to files that the client knows from a manifest, in the order of `entries`."""
    rows = [
        _file(info, entry.get("path") or entry["name"], entry["digest"], None)
        for entry in entries or []
    ]
    return pages.one_page(rows, totalCount=len(rows))


def _of_run(
    sql: str, source: Row, info: Info, first: int | None = None, after: str | None = None
) -> pages.Connection:
    rows = info.context.store.all(sql, source["id"])
    return pages.sliced(rows, first, after, totalCount=len(rows))


MADE_BY_RUN = "SELECT * FROM artifacts WHERE run_id = ? AND state = 'COMMITTED' ORDER BY id"
USED_BY_RUN = """SELECT a.* FROM uses u JOIN artifacts a ON a.id = u.artifact_id
    WHERE u.run_id = ? AND a.state = 'COMMITTED' ORDER BY a.id"""


def used_by(source: Row, info: Info) -> pages.Connection:
    """The runs that have used an artifact."""
    sql = f"{SELECT_RUNS} JOIN uses u ON u.run_id = r.id WHERE u.artifact_id = ?"
    return pages.one_page(info.context.store.all(sql, source["id"]))


def created_by(source: Row, info: Info) -> Row:
    """The run that has made an artifact, or the user."""
    run = info.context.store.one(f"{SELECT_RUNS} WHERE r.id = ?", source["run_id"])
    return run | {"__typename": "Run"} if run else USER | {"__typename": "User"}


RESOLVERS: Resolvers = {
    "Query": {
        "artifact": lambda _source, info, id: row_of(info, "artifacts", id),
        "artifactCollection": lambda _source, info, id: row_of(info, "collections", id),
        "clientIDMapping": client_id,
    },
    "Project": {
        "artifact": artifact_by_name,
        "artifactType": artifact_type,
        "artifactTypes": artifact_types,
        "artifactCollection": project_collection,
        "artifactCollections": project_collections,
        "artifactCollectionMembership": project_membership,
    },
    "ArtifactCollection": {"__type": lambda *_: "ArtifactSequence"},
    "ArtifactCreator": {"__type": lambda value, *_: value["__typename"]},
    "ArtifactSequence": {
        "id": partial(id_of, "Collection"),
        "state": lambda *_: "READY",
        "project": project_of,
        "defaultArtifactType": _type_of,
        "tags": lambda *_: pages.one_page([]),
        "aliases": collection_aliases,
        "artifacts": versions,
        "artifactMembership": collection_membership,
        "latestArtifact": latest,
        "digestAlgorithm": lambda *_: DIGEST_ALGORITHM,
    },
    "ArtifactType": {
        "artifactCollection": type_collection,
        "artifactCollections": type_collections,
    },
    "ArtifactCollectionMembership": {
        "versionIndex": lambda source, _info: source["artifact"]["version"],
        "aliases": lambda source, info: aliases_of(source["artifact"], info),
        "artifactCollection": lambda source, info: collection_of(source["artifact"], info),
        "files": membership_files,
    },
    "Artifact": {
        "id": partial(id_of, "Artifact"),
        "digestAlgorithm": lambda *_: DIGEST_ALGORITHM,
        "versionIndex": lambda source, _info: source["version"],
        "ttlDurationSeconds": lambda *_: NO_TIME_TO_LIVE,
        "ttlIsInherited": lambda *_: True,
        "tags": lambda source, _info: [
            {"id": f"Tag:{tag}", "name": tag} for tag in json.loads(source["tags"])
        ],
        "commitHash": lambda *_: None,
        "aliases": aliases_of,
        "artifactType": lambda source, info: _type_of(collection_of(source, info), info),
        "artifactSequence": collection_of,
        "artifactMemberships": lambda source, _info: pages.one_page([_membership(source)]),
        "currentManifest": current_manifest,
        "filesByManifestEntries": files_by_entries,
        "createdBy": created_by,
        "usedBy": used_by,
    },
    "Run": {
        "inputArtifacts": partial(_of_run, USED_BY_RUN),
        "outputArtifacts": partial(_of_run, MADE_BY_RUN),
    },
}
