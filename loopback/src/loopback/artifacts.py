"""Artifacts: create, commit, change and delete versions, and store their files.

A file is stored under the MD5 of its bytes, so equal files of different artifacts are stored once.
In W&B's terms, a collection holds the versions of one artifact name, and a manifest is the list of
a version's files. The queries are in artifact_queries.py.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable
from typing import Any

from loopback import pages
from loopback.common import Info, Resolvers, collection_of, row_of
from loopback.store import Row, Store, dumps, now

VERSION = re.compile(r"v(\d+)")

Entries = dict[str, dict[str, Any]]  # of a manifest: path in the artifact -> digest, size, ref


def object_path(md5: str) -> str:
    """The file with this base64 MD5: `objects/AB/ABCD...`, in hexadecimal.

    Raises ValueError for anything else.
    """
    try:
        digest = base64.b64decode(md5, validate=True).hex()
    except binascii.Error as error:
        raise ValueError(f"{md5!r} is not a base64 MD5") from error
    if len(digest) != 32:
        raise ValueError(f"{md5!r} is not a base64 MD5")
    return f"objects/{digest[:2]}/{digest}"


def _check_path(name: str) -> str:
    """`name`. Raises ValueError if it leads out of the artifact's folder at download."""
    if not name or name.startswith(("/", "\\")) or "\0" in name or ".." in re.split(r"[/\\]", name):
        raise ValueError(f"{name!r} would lead out of the artifact")
    return name


def create_artifact(_source: object, info: Info, input: dict[str, Any]) -> Row:
    """Creates a version, pending until it is committed.

    If the collection already has a version with the same contents, that version is the answer, and
    the aliases point to it.
    """
    store = info.context.store
    names = [input.get("artifactCollectionName"), *(input.get("artifactCollectionNames") or [])]
    name = next(filter(None, names), None)
    if name is None:
        raise ValueError("an artifact needs a collection")
    aliases = [item["alias"] for item in input.get("aliases") or []]
    with store.writing():
        project = store.ensure_project(input["entityName"], input["projectName"])
        collection = _ensure_collection(store, project, name, input)
        sql = """SELECT * FROM artifacts
            WHERE collection_id = ? AND digest = ? AND state = 'COMMITTED'"""
        artifact = store.one(sql, collection["id"], input["digest"])
        if artifact is None:
            artifact = _create_version(store, project, collection, aliases, input)
        else:
            _point(store, artifact, ["latest", *aliases])
    return {"artifact": artifact}


def _ensure_collection(store: Store, project: Row, name: str, input: dict[str, Any]) -> Row:
    """The collection with this name, created if needed. ValueError if it has another type."""
    collection = store.named("collections", project["id"], name)
    if collection is None:
        collection_id = store.insert(
            "collections",
            project_id=project["id"],
            name=name,
            type=input["artifactTypeName"],
            client_id=input.get("sequenceClientID"),
            created_at=now(),
            updated_at=now(),
        )
        return store.row("collections", collection_id)
    if collection["type"] != input["artifactTypeName"]:
        raise ValueError(
            f"{name} holds artifacts of type {collection['type']}, not {input['artifactTypeName']}"
        )
    return collection


def _create_version(
    store: Store, project: Row, collection: Row, aliases: list[str], input: dict[str, Any]
) -> Row:
    run = store.named("runs", project["id"], input["runName"]) if input.get("runName") else None
    artifact_id = store.insert(
        "artifacts",
        collection_id=collection["id"],
        state="PENDING",
        digest=input["digest"],
        description=input.get("description"),
        metadata=input.get("metadata") or "{}",
        tags=dumps([tag["tagName"] for tag in input.get("tags") or []]),
        history_step=input.get("historyStep"),
        run_id=run["id"] if run else None,
        client_id=input.get("clientID"),
        pending_aliases=dumps(aliases),
        created_at=now(),
        updated_at=now(),
    )
    return store.row("artifacts", artifact_id)


def _point(store: Store, artifact: Row, aliases: Iterable[str]) -> None:
    """Points aliases to an artifact. `v3` and the like are no aliases: they name versions."""
    sql = "INSERT OR REPLACE INTO aliases (collection_id, artifact_id, alias) VALUES (?, ?, ?)"
    names = [alias for alias in dict.fromkeys(aliases) if not VERSION.fullmatch(alias)]
    store.many(sql, [(artifact["collection_id"], artifact["id"], alias) for alias in names])


def create_manifest(_source: object, info: Info, input: dict[str, Any]) -> Row:
    """Creates the manifest of an artifact, whose file the client then uploads.

    A second request for the same artifact and type answers with the same manifest.
    """
    store = info.context.store
    artifact = row_of(info, "artifacts", input["artifactID"])
    base_id = _base_id(info, input)
    kind = input.get("type") or "FULL"
    with store.writing():
        sql = "SELECT id FROM manifests WHERE artifact_id = ? AND type = ?"
        manifest_id = store.value(sql, artifact["id"], kind)
        if manifest_id is None:
            manifest_id = store.insert("manifests", artifact_id=artifact["id"], type=kind)
        store.update("manifests", manifest_id, digest=input["digest"], base_id=base_id)
    return {"artifactManifest": manifest(info, manifest_id)}


def update_manifest(_source: object, info: Info, input: dict[str, Any]) -> Row:
    """Changes a manifest's digest or base before its upload."""
    row = row_of(info, "manifests", input["artifactManifestID"])
    digest = input.get("digest") or row["digest"]
    base_id = _base_id(info, input) or row["base_id"]
    info.context.store.update("manifests", row["id"], digest=digest, base_id=base_id)
    return {"artifactManifest": manifest(info, row["id"])}


def _base_id(info: Info, input: dict[str, Any]) -> int | None:
    """The row id of the artifact that a PATCH manifest changes, or None."""
    if not input.get("baseArtifactID"):
        return None
    base_id: int = row_of(info, "artifacts", input["baseArtifactID"])["id"]
    return base_id


def manifest(info: Info, manifest_id: int) -> Row:
    """A manifest with the links to its file."""
    links, path = info.context.links, f"/storage/manifests/{manifest_id}"
    file = {
        "id": f"ManifestFile:{manifest_id}",
        "name": "wandb_manifest.json",
        "upload_headers": [],
        "upload_url": links.upload(path),
        "direct_url": links.download(path),
    }
    return {"id": f"Manifest:{manifest_id}", "file": file}


def create_files(_source: object, info: Info, input: dict[str, Any]) -> Row:
    """Links to upload the files of an artifact; no link for bytes that the store already has."""
    rows = [_announce(info, spec) for spec in input["artifactFiles"]]
    return {"files": pages.one_page(rows, totalCount=len(rows))}


def _announce(info: Info, spec: dict[str, Any]) -> Row:
    """Records that an artifact will have a file, so that no deletion frees its bytes."""
    store = info.context.store
    path = object_path(spec.get("digest") or spec["md5"])
    with store.writing():
        artifact = row_of(info, "artifacts", spec["artifactID"])
        sql = "INSERT OR IGNORE INTO announced (artifact_id, path) VALUES (?, ?)"
        store.write(sql, artifact["id"], path)
        is_stored = store.inside(path).exists()
    return {
        "id": f"ArtifactFile:{path}",
        "name": _check_path(spec["name"]),
        "storage_path": path,
        "upload_url": None if is_stored else info.context.links.upload(f"/storage/{path}"),
        "upload_headers": [],
        "upload_multipart_urls": None,
        "artifact": artifact,
    }


def commit(_source: object, info: Info, input: dict[str, Any]) -> Row:
    """Makes a pending artifact the next version of its collection.

    Raises ValueError if its manifest or one of its files was not uploaded.
    """
    store = info.context.store
    artifact = row_of(info, "artifacts", input["artifactID"])
    if artifact["state"] == "COMMITTED":
        return {"artifact": artifact}
    entries = entries_of(store, artifact)
    for path, entry in entries.items():
        _check_path(path)
        if not entry.get("ref") and not store.inside(object_path(entry["digest"])).exists():
            raise ValueError(f"{path} was never uploaded")
    with store.writing():
        sql = "SELECT COALESCE(MAX(version), -1) FROM artifacts WHERE collection_id = ?"
        store.update(
            "artifacts",
            artifact["id"],
            state="COMMITTED",
            updated_at=now(),
            version=1 + store.value(sql, artifact["collection_id"]),
            size=sum(int(entry.get("size") or 0) for entry in entries.values()),
            file_count=len(entries),
        )
        store.write("DELETE FROM announced WHERE artifact_id = ?", artifact["id"])
        _point(store, artifact, ["latest", *json.loads(artifact["pending_aliases"])])
    return {"artifact": store.row("artifacts", artifact["id"])}


def entries_of(store: Store, artifact: Row) -> Entries:
    """The files of an artifact, from its manifest. A PATCH is merged into its base's manifest.

    Raises ValueError if no manifest was uploaded.
    """
    rows = store.all("SELECT * FROM manifests WHERE artifact_id = ? ORDER BY id", artifact["id"])
    uploaded = [row for row in rows if store.inside("manifests", str(row["id"])).exists()]
    if not uploaded:
        raise ValueError("the artifact's manifest was never uploaded")
    row = uploaded[-1]
    text = store.inside("manifests", str(row["id"])).read_text()
    contents: Entries = json.loads(text).get("contents") or {}
    if row["type"] == "FULL" or row["base_id"] is None:
        return contents
    return entries_of(store, store.row("artifacts", row["base_id"])) | contents


def update_artifact(_source: object, info: Info, input: dict[str, Any]) -> Row:
    """Changes description, metadata or tags, or replaces all aliases."""
    store, artifact = info.context.store, row_of(info, "artifacts", input["artifactID"])
    columns = {key: input[key] for key in ("description", "metadata") if input.get(key) is not None}
    deleted = {tag["tagName"] for tag in input.get("tagsToDelete") or []}
    tags = [tag for tag in json.loads(artifact["tags"]) if tag not in deleted]
    tags += [tag["tagName"] for tag in input.get("tagsToAdd") or [] if tag["tagName"] not in tags]
    with store.writing():
        store.update("artifacts", artifact["id"], **columns, tags=dumps(tags), updated_at=now())
        if input.get("aliases") is not None:
            store.write("DELETE FROM aliases WHERE artifact_id = ?", artifact["id"])
            _point(store, artifact, [item["alias"] for item in input["aliases"]])
    return {"artifact": store.row("artifacts", artifact["id"])}


def _aliases_to_change(info: Info, artifact: Row, input: dict[str, Any]) -> list[str]:
    """The aliases in an input. ValueError for one in another collection than the artifact's."""
    own = collection_of(artifact, info)["name"]
    for item in input["aliases"]:
        if item["artifactCollectionName"] != own:
            raise ValueError(
                f"the artifact is in {own}, not in {item['artifactCollectionName']}: "
                "a version has aliases only in its own collection"
            )
    return [item["alias"] for item in input["aliases"]]


def add_aliases(_source: object, info: Info, input: dict[str, Any]) -> Row:
    """Points aliases to an artifact."""
    artifact = row_of(info, "artifacts", input["artifactID"])
    _point(info.context.store, artifact, _aliases_to_change(info, artifact, input))
    return {"success": True}


def delete_aliases(_source: object, info: Info, input: dict[str, Any]) -> Row:
    """Removes aliases of an artifact."""
    artifact = row_of(info, "artifacts", input["artifactID"])
    names = _aliases_to_change(info, artifact, input)
    sql = "DELETE FROM aliases WHERE artifact_id = ? AND alias = ?"
    info.context.store.many(sql, [(artifact["id"], name) for name in names])
    return {"success": True}


def delete_artifact(_source: object, info: Info, input: dict[str, Any]) -> Row:
    """Marks a version as deleted and frees its bytes.

    Raises ValueError if the version has aliases, unless `deleteAliases` is set.
    """
    store, artifact = info.context.store, row_of(info, "artifacts", input["artifactID"])
    has_alias = store.value("SELECT 1 FROM aliases WHERE artifact_id = ?", artifact["id"])
    if has_alias and not input.get("deleteAliases"):
        raise ValueError("the artifact has aliases; delete them with it, or point them elsewhere")
    discard(store, artifact)
    return {"artifact": store.row("artifacts", artifact["id"])}


def discard(store: Store, artifact: Row) -> None:
    """Marks a version as deleted, removes its aliases and frees its bytes."""
    with store.writing():
        store.write("DELETE FROM aliases WHERE artifact_id = ?", artifact["id"])
        store.write("DELETE FROM announced WHERE artifact_id = ?", artifact["id"])
        store.update("artifacts", artifact["id"], state="DELETED", updated_at=now())
    # In a second transaction: a kill in between leaves bytes that nothing needs, but never an
    # artifact without its bytes.
    with store.writing():
        _free(store, artifact)


def _free(store: Store, artifact: Row) -> None:
    """Deletes the bytes and manifests of a deleted artifact that no other artifact needs."""
    unneeded = _stored_paths(store, artifact)
    sql = """SELECT * FROM artifacts WHERE state = 'COMMITTED' OR id IN (
        SELECT m.base_id FROM manifests m JOIN artifacts a ON a.id = m.artifact_id
        WHERE a.state = 'PENDING')"""
    for other in store.all(sql):
        if not unneeded:
            break
        unneeded -= _stored_paths(store, other)
    unneeded -= {row["path"] for row in store.all("SELECT path FROM announced")}
    for path in unneeded:
        store.inside(path).unlink(missing_ok=True)
    if store.value("SELECT 1 FROM manifests WHERE base_id = ?", artifact["id"]) is None:
        for row in store.all("SELECT id FROM manifests WHERE artifact_id = ?", artifact["id"]):
            store.inside("manifests", str(row["id"])).unlink(missing_ok=True)


def _stored_paths(store: Store, artifact: Row) -> set[str]:
    """The paths of an artifact's bytes in the store; empty if its manifest was not uploaded."""
    try:
        entries = entries_of(store, artifact)
    except ValueError:
        return set()
    return {object_path(entry["digest"]) for entry in entries.values() if not entry.get("ref")}


def use(_source: object, info: Info, input: dict[str, Any]) -> Row:
    """Records that a run has used an artifact."""
    store, artifact = info.context.store, row_of(info, "artifacts", input["artifactID"])
    project = store.project(input["entityName"], input["projectName"])
    run = project and store.named("runs", project["id"], input["runName"])
    if not run:
        raise ValueError(f"run {input['runName']} does not exist")
    sql = "INSERT OR IGNORE INTO uses (run_id, artifact_id) VALUES (?, ?)"
    store.write(sql, run["id"], artifact["id"])
    return {"artifact": artifact}


RESOLVERS: Resolvers = {
    "Mutation": {
        "createArtifact": create_artifact,
        "createArtifactManifest": create_manifest,
        "updateArtifactManifest": update_manifest,
        "createArtifactFiles": create_files,
        "commitArtifact": commit,
        "updateArtifact": update_artifact,
        "deleteArtifact": delete_artifact,
        "useArtifact": use,
        "addAliases": add_aliases,
        "deleteAliases": delete_aliases,
    },
}
