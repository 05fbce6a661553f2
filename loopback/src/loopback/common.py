"""What the resolvers of all subjects share: their context, ids, the user, and rows of runs.

A resolver gets the row that the field belongs to (`source`), `info`, and the field's arguments by
their names in the schema.
"""

# ruff: noqa: S608  (table and column names come from this program; every value is bound with a ?)

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from loopback import pages
from loopback.links import Links
from loopback.search import Search
from loopback.store import ENTITY, NotFoundError, Row, Store

Resolver = Callable[..., Any]  # the arguments after (source, info) differ per field of the schema
Resolvers = dict[str, dict[str, Resolver]]  # type of the schema -> field -> resolver


@dataclass
class Context:
    """What resolvers work with; the links carry the address that the asking client uses."""

    store: Store
    search: Search
    links: Links


class Info(Protocol):
    """The part of GraphQLResolveInfo that resolvers use, with the type of our context."""

    @property
    def context(self) -> Context: ...


USER: Row = {
    "id": "User:1",
    "name": ENTITY,
    "username": ENTITY,
    "email": f"{ENTITY}@localhost",
    "photo_url": None,
    "admin": True,
    "flags": "{}",
    "entity": ENTITY,
    "deleted_at": None,
    "api_keys": pages.one_page([]),
    "teams": pages.one_page([{"name": ENTITY}]),
    "organizations": [],
}

ID_KINDS = {  # table -> what the ids of its rows begin with
    "agents": "Agent",
    "artifacts": "Artifact",
    "collections": "Collection",
    "files": "File",
    "manifests": "Manifest",
    "runs": "Run",
    "sweeps": "Sweep",
    "views": "View",
}

SELECT_RUNS = """
SELECT r.*, s.name AS sweep_name, p.name AS project_name, p.entity AS entity_name
FROM runs r JOIN projects p ON p.id = r.project_id LEFT JOIN sweeps s ON s.id = r.sweep_id
"""


def row_of(info: Info, table: str, global_id: str) -> Row:
    """The row of `table` with this id, as `id_of` makes it or in plain text, such as `Sweep:3`.

    Raises NotFoundError if there is no such row, or if the id is one of another table.
    """
    try:
        plain = global_id if ":" in global_id else base64.b64decode(global_id + "===").decode()
    except ValueError:
        raise NotFoundError(f"{global_id} does not exist") from None
    kind, _, number = plain.partition(":")
    if kind != ID_KINDS[table]:
        raise NotFoundError(f"{global_id} is not the id of a {ID_KINDS[table].lower()}")
    row = info.context.store.one(f"SELECT * FROM {table} WHERE id = ?", number)
    if row is None:
        raise NotFoundError(f"{global_id} does not exist")
    return row


def id_of(kind: str, source: Row, _info: Info) -> str:
    """A row's id as clients see it: `Run:12` in base64, which the links in W&B's reports need.

    An id that is a text already is returned as it is.
    """
    if isinstance(source["id"], str):
        return source["id"]
    return base64.b64encode(f"{kind}:{source['id']}".encode()).decode()


def project_of(source: Row, info: Info) -> Row:
    """The project that a row belongs to."""
    return info.context.store.row("projects", source["project_id"])


def collection_of(source: Row, info: Info) -> Row:
    """The collection that an artifact is a version of."""
    return info.context.store.row("collections", source["collection_id"])
