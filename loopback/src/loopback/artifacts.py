"""Artifacts: versioned sets of files, what made them and what used them.

The bytes lie under their own checksum, so equal files are kept once, whichever artifacts hold them.
"""

import base64
import binascii
import json
import mimetypes
import re
from functools import partial

from loopback import pages
from loopback.projects import RUNS, USER, identified, project_of, row_of
from loopback.store import NotFoundError, dumps, now

VERSION = re.compile(r"v(\d+)")


def object_path(md5: str) -> str:
    """Where the file with this base64 MD5 lies: `objects/<first two>/<hex>`. ValueError for anything else."""
    try:
        digest = base64.b64decode(md5, validate=True).hex()
    except binascii.Error as error:
        raise ValueError(f"{md5!r} is no base64 MD5") from error
    if len(digest) != 32:
        raise ValueError(f"{md5!r} is no base64 MD5")
    return f"objects/{digest[:2]}/{digest}"


def _safe(name: str) -> str:
    if not name or name.startswith(("/", "\\")) or "\0" in name or ".." in re.split(r"[/\\]", name):
        raise ValueError(f"{name!r} would lead out of the artifact")
    return name


def collection(source, info, name: str) -> dict | None:
    """A collection of a project by its name (an alias after a colon is ignored); null if there is none."""
    sql = "SELECT * FROM collections WHERE project_id = ? AND name = ?"
    return info.context.store.one(
        sql, source["project_id"] if "type" in source else source["id"], name.split(":")[0]
    )


def find(store, project_id: int, name: str) -> dict | None:
    """The artifact that `name:alias` means; without alias the latest, `v3` is version 3. None if there is none."""
    name, _, alias = name.partition(":")
    row = store.one("SELECT * FROM collections WHERE project_id = ? AND name = ?", project_id, name)
    return row and _by_alias(store, row["id"], alias or "latest")


def _by_alias(store, collection_id: int, alias: str) -> dict | None:
    if match := VERSION.fullmatch(alias):
        sql = "SELECT * FROM artifacts WHERE collection_id = ? AND version = ? AND state = 'COMMITTED'"
        return store.one(sql, collection_id, int(match[1]))
    sql = "SELECT a.* FROM aliases l JOIN artifacts a ON a.id = l.artifact_id WHERE l.collection_id = ? AND l.alias = ?"
    return store.one(sql, collection_id, alias)


def _membership(store, artifact: dict | None) -> dict | None:
    if artifact is None:
        return None
    return {
        "id": f"Membership:{artifact['id']}",
        "created_at": artifact["created_at"],
        "artifact": artifact,
    }


def membership(source, info, aliasName: str) -> dict | None:  # noqa: N803  GraphQL's own name
    """The version of a collection that an alias points to; null if there is none."""
    return _membership(info.context.store, _by_alias(info.context.store, source["id"], aliasName))


def create_artifact(_source, info, input: dict) -> dict:
    """A new version, pending until it is committed; contents that the collection already has are that version."""
    store, stamps = info.context.store, {"created_at": now(), "updated_at": now()}
    name = (
        input.get("artifactCollectionName") or (input.get("artifactCollectionNames") or [None])[0]
    )
    aliases = [item["alias"] for item in input.get("aliases") or []]
    if name is None:
        raise ValueError("an artifact needs a collection")
    with store.writing():
        project = store.project(input["entityName"], input["projectName"], create=True)
        row = store.one(
            "SELECT * FROM collections WHERE project_id = ? AND name = ?", project["id"], name
        )
        if row is None:
            extra = {"client_id": input.get("sequenceClientID"), "type": input["artifactTypeName"]}
            number = store.insert(
                "collections", project_id=project["id"], name=name, **stamps, **extra
            )
            row = store.one("SELECT * FROM collections WHERE id = ?", number)
        elif row["type"] != input["artifactTypeName"]:
            raise ValueError(
                f"{name} holds artifacts of type {row['type']}, not {input['artifactTypeName']}"
            )
        sql = (
            "SELECT * FROM artifacts WHERE collection_id = ? AND digest = ? AND state = 'COMMITTED'"
        )
        artifact = store.one(sql, row["id"], input["digest"])
        if artifact is None:
            run = input.get("runName") and store.one(
                "SELECT id FROM runs WHERE project_id = ? AND name = ?",
                project["id"],
                input["runName"],
            )
            extra = {
                "digest": input["digest"],
                "description": input.get("description"),
                "run_id": run and run["id"],
            }
            extra |= {
                "metadata": input.get("metadata") or "{}",
                "history_step": input.get("historyStep"),
            }
            extra |= {"tags": dumps([tag["tagName"] for tag in input.get("tags") or []])}
            extra |= {"client_id": input.get("clientID"), "pending_aliases": dumps(aliases)}
            number = store.insert(
                "artifacts", collection_id=row["id"], state="PENDING", **stamps, **extra
            )
            artifact = store.one("SELECT * FROM artifacts WHERE id = ?", number)
        else:
            _point(store, artifact, ["latest", *aliases])
    return {"artifact": artifact}


def _point(store, artifact: dict, aliases: list[str]) -> None:
    sql = "INSERT OR REPLACE INTO aliases (collection_id, artifact_id, alias) VALUES (?, ?, ?)"
    names = [alias for alias in dict.fromkeys(aliases) if not VERSION.fullmatch(alias)]
    store.many(sql, [(artifact["collection_id"], artifact["id"], alias) for alias in names])


def create_manifest(_source, info, input: dict) -> dict:
    """The list of an artifact's files, to be uploaded; asked for twice, it is the same one."""
    store = info.context.store
    artifact = row_of(info, "artifacts", input["artifactID"])
    base = input.get("baseArtifactID") and row_of(info, "artifacts", input["baseArtifactID"])["id"]
    kind = input.get("type") or "FULL"
    with store.writing():
        row = store.one(
            "SELECT * FROM manifests WHERE artifact_id = ? AND type = ?", artifact["id"], kind
        )
        number = (
            row["id"] if row else store.insert("manifests", artifact_id=artifact["id"], type=kind)
        )
        store.update("manifests", number, digest=input["digest"], base_id=base)
    return {"artifactManifest": manifest(info, number)}


def update_manifest(_source, info, input: dict) -> dict:
    """Corrects a manifest's digest before its upload."""
    row = row_of(info, "manifests", input["artifactManifestID"])
    columns = {"digest": input.get("digest") or row["digest"]}
    if input.get("baseArtifactID"):
        columns["base_id"] = row_of(info, "artifacts", input["baseArtifactID"])["id"]
    info.context.store.update("manifests", row["id"], **columns)
    return {"artifactManifest": manifest(info, row["id"])}


def manifest(info, number: int) -> dict:
    """A manifest with the links to its file."""
    links, path = info.context.links, f"/storage/manifests/{number}"
    file = {"id": f"ManifestFile:{number}", "name": "wandb_manifest.json", "upload_headers": []}
    file |= {"upload_url": links.upload(path), "direct_url": links.download(path)}
    return {"id": f"Manifest:{number}", "file": file}


def create_files(_source, info, input: dict) -> dict:
    """Links to upload the files of an artifact; none for bytes that the store already has."""
    store, links, rows = info.context.store, info.context.links, []
    for spec in input["artifactFiles"]:
        path = object_path(spec.get("digest") or spec["md5"])
        with store.writing():  # from now on, no deletion of another version takes these bytes away
            artifact = row_of(info, "artifacts", spec["artifactID"])
            store.write(
                "INSERT OR IGNORE INTO announced (artifact_id, path) VALUES (?, ?)",
                artifact["id"],
                path,
            )
            link = None if store.inside(path).exists() else links.upload(f"/storage/{path}")
        row = {
            "id": f"ArtifactFile:{path}",
            "name": _safe(spec["name"]),
            "storage_path": path,
            "upload_url": link,
        }
        rows.append(
            row | {"upload_headers": [], "upload_multipart_urls": None, "artifact": artifact}
        )
    return {"files": pages.whole(rows, totalCount=len(rows))}


def commit(_source, info, input: dict) -> dict:
    """Makes the artifact the next version of its collection. ValueError if its manifest or a file is missing."""
    store = info.context.store
    artifact = row_of(info, "artifacts", input["artifactID"])
    if artifact["state"] == "COMMITTED":
        return {"artifact": artifact}
    entries = _entries(store, artifact)
    for path, entry in entries.items():
        _safe(path)
        if not entry.get("ref") and not store.inside(object_path(entry["digest"])).exists():
            raise ValueError(f"{path} was never uploaded")
    with store.writing():
        top = store.value(
            "SELECT MAX(version) FROM artifacts WHERE collection_id = ?", artifact["collection_id"]
        )
        size = sum(int(entry.get("size") or 0) for entry in entries.values())
        columns = {
            "version": 0 if top is None else top + 1,
            "size": size,
            "file_count": len(entries),
        }
        store.update("artifacts", artifact["id"], state="COMMITTED", updated_at=now(), **columns)
        store.write("DELETE FROM announced WHERE artifact_id = ?", artifact["id"])
        _point(store, artifact, ["latest", *json.loads(artifact["pending_aliases"])])
    return {"artifact": row_of(info, "artifacts", input["artifactID"])}


def _entries(store, artifact: dict) -> dict[str, dict]:
    """The artifact's files by path, from its manifest; a patch is laid over the manifest of its base."""
    rows = store.all("SELECT * FROM manifests WHERE artifact_id = ? ORDER BY id", artifact["id"])
    uploaded = [row for row in rows if store.inside("manifests", str(row["id"])).exists()]
    if not uploaded:
        raise ValueError("the artifact's manifest was never uploaded")
    row = uploaded[-1]
    contents = (
        json.loads(store.inside("manifests", str(row["id"])).read_text()).get("contents") or {}
    )
    if row["type"] == "FULL" or row["base_id"] is None:
        return contents
    base = store.one("SELECT * FROM artifacts WHERE id = ?", row["base_id"])
    return _entries(store, base) | contents


def file_rows(info, artifact: dict) -> list[dict]:
    """The artifact's files as clients see them; references to elsewhere have no bytes here."""
    rows = []
    for path, entry in sorted(_entries(info.context.store, artifact).items()):
        if not entry.get("ref"):
            rows.append(_file(info, path, entry["digest"], entry.get("size")))
    return rows


def _file(info, path: str, digest: str, size: int | None) -> dict:
    place = object_path(digest)
    url = info.context.links.download(f"/storage/{place}")
    row = {
        "id": f"ArtifactFile:{place}",
        "name": path,
        "display_name": path,
        "url": url,
        "direct_url": url,
    }
    row |= {
        "size_bytes": size,
        "digest": digest,
        "md5": digest,
        "storage_path": place,
        "updated_at": None,
    }
    return row | {"mimetype": mimetypes.guess_type(path)[0] or "application/octet-stream"}


def membership_files(source, info, names=None, first=None, after=None) -> dict:
    """A page of an artifact's files."""
    rows = [row for row in file_rows(info, source["artifact"]) if not names or row["name"] in names]
    return pages.sliced(rows, first, after, totalCount=len(rows))


def files_by_entries(source, info, entries=None, **_layout) -> dict:
    """Links for entries of a manifest that the client already holds, in their order."""
    rows = [
        _file(info, entry.get("path") or entry.get("name"), entry["digest"], None)
        for entry in entries or []
    ]
    return pages.whole(rows, totalCount=len(rows))


def update_artifact(_source, info, input: dict) -> dict:
    """Changes description, metadata, tags or the whole set of aliases."""
    store, artifact = info.context.store, row_of(info, "artifacts", input["artifactID"])
    columns = {key: input[key] for key in ("description", "metadata") if input.get(key) is not None}
    tags = [
        tag
        for tag in json.loads(artifact["tags"])
        if tag not in {t["tagName"] for t in input.get("tagsToDelete") or []}
    ]
    tags += [tag["tagName"] for tag in input.get("tagsToAdd") or [] if tag["tagName"] not in tags]
    with store.writing():
        store.update("artifacts", artifact["id"], **columns, tags=dumps(tags), updated_at=now())
        if input.get("aliases") is not None:
            store.write("DELETE FROM aliases WHERE artifact_id = ?", artifact["id"])
            _point(store, artifact, [item["alias"] for item in input["aliases"]])
    return {"artifact": row_of(info, "artifacts", input["artifactID"])}


def change_aliases(add: bool, _source, info, input: dict) -> dict:
    """Points aliases to an artifact, or takes them away from it."""
    store, artifact = info.context.store, row_of(info, "artifacts", input["artifactID"])
    own = store.value("SELECT name FROM collections WHERE id = ?", artifact["collection_id"])
    for item in input["aliases"]:
        if item["artifactCollectionName"] != own:
            raise ValueError(
                f"the artifact is in {own}, not in {item['artifactCollectionName']}: links are not served"
            )
    names = [item["alias"] for item in input["aliases"]]
    if add:
        _point(store, artifact, names)
    else:
        for name in names:
            store.write(
                "DELETE FROM aliases WHERE artifact_id = ? AND alias = ?", artifact["id"], name
            )
    return {"success": True}


def delete_artifact(_source, info, input: dict) -> dict:
    """Marks a version as deleted and frees its bytes. ValueError while aliases point to it, unless they go as well."""
    store, artifact = info.context.store, row_of(info, "artifacts", input["artifactID"])
    held = store.value("SELECT COUNT(*) FROM aliases WHERE artifact_id = ?", artifact["id"])
    if held and not input.get("deleteAliases"):
        raise ValueError("the artifact has aliases; delete them with it, or point them elsewhere")
    discard(store, artifact)
    return {"artifact": row_of(info, "artifacts", input["artifactID"])}


def discard(store, artifact: dict) -> None:
    """Marks a version as deleted, takes its aliases away and frees its bytes."""
    with store.writing():
        store.write("DELETE FROM aliases WHERE artifact_id = ?", artifact["id"])
        store.write("DELETE FROM announced WHERE artifact_id = ?", artifact["id"])
        store.update("artifacts", artifact["id"], state="DELETED", updated_at=now())
    with (
        store.writing()
    ):  # after the commit: if the server is killed here, bytes are left over, but none are missing
        _free(store, artifact)


def _free(store, artifact: dict) -> None:
    """Deletes the bytes of a deleted artifact that no other one needs."""
    own = _stored(store, artifact)
    sql = """SELECT * FROM artifacts WHERE state = 'COMMITTED'
        OR id IN (SELECT m.base_id FROM manifests m JOIN artifacts a ON a.id = m.artifact_id WHERE a.state = 'PENDING')"""
    for other in store.all(sql):
        if not own:
            break
        own -= _stored(store, other)
    own -= {row["path"] for row in store.all("SELECT path FROM announced")}
    for path in own:
        store.inside(path).unlink(missing_ok=True)
    if store.value("SELECT 1 FROM manifests WHERE base_id = ?", artifact["id"]) is None:
        for row in store.all("SELECT id FROM manifests WHERE artifact_id = ?", artifact["id"]):
            store.inside("manifests", str(row["id"])).unlink(missing_ok=True)


def _stored(store, artifact: dict) -> set[str]:
    """Where the bytes of an artifact lie; nothing for one whose manifest was never uploaded."""
    try:
        entries = _entries(store, artifact)
    except ValueError:
        return set()
    return {object_path(entry["digest"]) for entry in entries.values() if not entry.get("ref")}


def use(_source, info, input: dict) -> dict:
    """Notes that a run has used an artifact."""
    store, artifact = info.context.store, row_of(info, "artifacts", input["artifactID"])
    project = store.project(input["entityName"], input["projectName"])
    sql = "SELECT id FROM runs WHERE project_id = ? AND name = ?"
    run = store.one(sql, project and project["id"], input["runName"])
    if run is None:
        raise ValueError(f"run {input['runName']} does not exist")
    store.write(
        "INSERT OR IGNORE INTO uses (run_id, artifact_id) VALUES (?, ?)", run["id"], artifact["id"]
    )
    return {"artifact": artifact}


def aliases_of(source, info) -> list[dict]:
    """The names that point to an artifact, its version number among them."""
    store = info.context.store
    owner = store.one("SELECT * FROM collections WHERE id = ?", source["collection_id"])
    rows = store.all("SELECT * FROM aliases WHERE artifact_id = ? ORDER BY id", source["id"])
    found = [
        {"id": f"Alias:{row['id']}", "alias": row["alias"], "artifact_collection": owner}
        for row in rows
    ]
    if source["version"] is not None:
        name = f"v{source['version']}"
        found.append({"id": f"Version:{source['id']}", "alias": name, "artifact_collection": owner})
    return found


def versions(source, info, filters=None, order=None, first=None, after=None) -> dict:
    """A page of a collection's committed versions, newest first."""
    sql = "SELECT * FROM artifacts WHERE collection_id = ? AND state = 'COMMITTED' ORDER BY version DESC"
    rows = info.context.store.all(sql, source["id"])
    connection = pages.sliced(rows, first, after, totalCount=len(rows))
    for edge in connection["edges"]:
        edge["version"] = f"v{edge['node']['version']}"
    return connection


def latest(source, info) -> dict | None:
    """A collection's newest committed version."""
    sql = "SELECT * FROM artifacts WHERE collection_id = ? AND state = 'COMMITTED' ORDER BY version DESC LIMIT 1"
    return info.context.store.one(sql, source["id"])


def of_run(table: str, source, info, first=None, after=None) -> dict:
    """A page of the artifacts that a run has made or used."""
    if table == "uses":
        sql = "SELECT a.* FROM uses u JOIN artifacts a ON a.id = u.artifact_id WHERE u.run_id = ? AND a.state = 'COMMITTED'"
    else:
        sql = "SELECT a.* FROM artifacts a WHERE a.run_id = ? AND a.state = 'COMMITTED'"
    rows = info.context.store.all(sql + " ORDER BY a.id", source["id"])
    return pages.sliced(rows, first, after, totalCount=len(rows))


def used_by(source, info) -> dict:
    """The runs that have used an artifact."""
    return pages.whole(
        info.context.store.all(
            f"{RUNS} JOIN uses u ON u.run_id = r.id WHERE u.artifact_id = ?", source["id"]
        )
    )


def created_by(source, info) -> dict:
    """The run that has made an artifact, or the user."""
    run = info.context.store.one(f"{RUNS} WHERE r.id = ?", source["run_id"])
    return run | {"__typename": "Run"} if run else USER | {"__typename": "User"}


def artifact_types(source, info, first=None, after=None, includeAll=None) -> dict:  # noqa: N803  GraphQL's own name
    """The types of artifacts that a project has."""
    sql = "SELECT type, MIN(created_at) AS created_at FROM collections WHERE project_id = ? GROUP BY type"
    rows = [
        _type(source["id"], row["type"], row["created_at"])
        for row in info.context.store.all(sql, source["id"])
    ]
    return pages.sliced(rows, first, after)


def _type(project_id: int, name: str, created_at: str) -> dict:
    """A type of artifacts; it remembers its project, in which its collections are looked up."""
    row = {
        "id": f"ArtifactType:{project_id}:{name}",
        "name": name,
        "description": None,
        "created_at": created_at,
    }
    return row | {"type": name, "project_id": project_id}


def artifact_type(source, info, name: str) -> dict | None:
    """A type that the project has, or null."""
    sql = "SELECT MIN(created_at) FROM collections WHERE project_id = ? AND type = ?"
    created_at = info.context.store.value(sql, source["id"], name)
    return created_at and _type(source["id"], name, created_at)


def collections(source, info, filters=None, order=None, first=None, after=None) -> dict:
    """A page of collections of a project, or of one type in it."""
    typed = source.get("type")
    sql = "SELECT * FROM collections WHERE project_id = ? AND (? IS NULL OR type = ?) ORDER BY id DESC"
    rows = info.context.store.all(
        sql, source["project_id"] if typed else source["id"], typed, typed
    )
    wanted = json.loads(filters or "{}")
    if set(wanted) - {"name"}:
        raise ValueError(f"collections can be filtered by name, not by {sorted(wanted)}")
    rows = [row for row in rows if wanted.get("name", row["name"]) == row["name"]]
    return pages.sliced(rows, first, after, totalCount=len(rows))


def collection_aliases(source, info, first=None, after=None) -> dict:
    """A page of the aliases in a collection."""
    rows = info.context.store.all(
        "SELECT * FROM aliases WHERE collection_id = ? ORDER BY id", source["id"]
    )
    found = [
        {"id": f"Alias:{row['id']}", "alias": row["alias"], "artifact_collection": source}
        for row in rows
    ]
    return pages.sliced(found, first, after)


def client_id(_source, info, clientID: str) -> dict:  # noqa: N803  GraphQL's own name
    """The artifact to which a client gave this id of its own making."""
    number = info.context.store.value("SELECT id FROM artifacts WHERE client_id = ?", clientID)
    if number is None:
        raise NotFoundError("no artifact has this client id")
    return {"serverID": f"Artifact:{number}"}


SEQUENCE = {
    "id": partial(identified, "Collection"),
    "state": lambda *_: "READY",
    "project": project_of,
    "defaultArtifactType": lambda source, _info: _type(
        source["project_id"], source["type"], source["created_at"]
    ),
    "tags": lambda *_: pages.whole([]),
    "aliases": collection_aliases,
    "artifacts": versions,
    "artifactMembership": membership,
    "latestArtifact": latest,
    "digestAlgorithm": lambda *_: "MANIFEST_MD5",
}

RESOLVERS = {
    "Query": {
        "artifact": lambda _source, info, id: row_of(info, "artifacts", id),
        "artifactCollection": lambda _source, info, id: row_of(info, "collections", id),
        "clientIDMapping": client_id,
    },
    "Project": {
        "artifact": lambda source, info, name: find(info.context.store, source["id"], name),
        "artifactType": artifact_type,
        "artifactTypes": artifact_types,
        "artifactCollection": collection,
        "artifactCollections": collections,
        "artifactCollectionMembership": lambda source, info, name: _membership(
            info.context.store, find(info.context.store, source["id"], name)
        ),
    },
    "ArtifactCollection": {"__type": lambda *_: "ArtifactSequence"},
    "ArtifactCreator": {"__type": lambda value, *_: value["__typename"]},
    "ArtifactSequence": SEQUENCE,
    "ArtifactType": {"artifactCollection": collection, "artifactCollections": collections},
    "ArtifactCollectionMembership": {
        "versionIndex": lambda source, _info: source["artifact"]["version"],
        "aliases": lambda source, info: aliases_of(source["artifact"], info),
        "artifactCollection": lambda source, info: row_of(
            info, "collections", f"Collection:{source['artifact']['collection_id']}"
        ),
        "files": membership_files,
    },
    "Artifact": {
        "id": partial(identified, "Artifact"),
        "digestAlgorithm": lambda *_: "MANIFEST_MD5",
        "versionIndex": lambda source, _info: source["version"],
        "ttlDurationSeconds": lambda *_: -1,  # kept for ever
        "ttlIsInherited": lambda *_: True,
        "tags": lambda source, _info: [
            {"id": f"Tag:{tag}", "name": tag} for tag in json.loads(source["tags"])
        ],
        "commitHash": lambda *_: None,
        "aliases": aliases_of,
        "artifactType": lambda source, info: SEQUENCE["defaultArtifactType"](
            row_of(info, "collections", f"Collection:{source['collection_id']}"), info
        ),
        "artifactSequence": lambda source, info: row_of(
            info, "collections", f"Collection:{source['collection_id']}"
        ),
        "artifactMemberships": lambda source, info: pages.whole(
            [_membership(info.context.store, source)]
        ),
        "currentManifest": lambda source, info: manifest(
            info,
            info.context.store.value(
                "SELECT MAX(id) FROM manifests WHERE artifact_id = ?", source["id"]
            ),
        ),
        "filesByManifestEntries": files_by_entries,
        "createdBy": created_by,
        "usedBy": used_by,
    },
    "Run": {
        "inputArtifacts": partial(of_run, "uses"),
        "outputArtifacts": partial(of_run, "artifacts"),
    },
    "Mutation": {
        "createArtifact": create_artifact,
        "createArtifactManifest": create_manifest,
        "updateArtifactManifest": update_manifest,
        "createArtifactFiles": create_files,
        "commitArtifact": commit,
        "updateArtifact": update_artifact,
        "deleteArtifact": delete_artifact,
        "useArtifact": use,
        "addAliases": partial(change_aliases, True),
        "deleteAliases": partial(change_aliases, False),
    },
}
