"""GraphQL in, GraphQL out: executes a client's operation against schema.graphql with the resolvers of each subject."""

import logging
import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLField,
    GraphQLSchema,
    build_schema,
    execute_sync,
    parse,
    validate,
)
from graphql.language import OperationDefinitionNode

from loopback import agents, artifacts, inputs, projects, runs, stream, sweep_controls
from loopback.links import Links
from loopback.search import Search
from loopback.store import NotFoundError, Store, disk_is_full

logger = logging.getLogger("loopback")

RESOLVERS: dict[str, dict[str, Callable]] = {}
for subject in (projects, runs, stream, sweep_controls, agents, artifacts):
    for type_name, fields in subject.RESOLVERS.items():
        RESOLVERS.setdefault(type_name, {}).update(fields)


@dataclass
class Context:
    """What resolvers may use: the store, the search, and links to files that the asking client can reach."""

    store: Store
    search: Search
    links: Links


def snake(name: str) -> str:
    """historyLineCount -> history_line_count: the column that holds the field."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def _column(source: dict, info, **_arguments):
    """The default resolver: a field is its row's column. A column we forgot is an error, never a silent null."""
    name = info.field_name
    if name in source:
        return source[name]
    try:
        return source[snake(name)]
    except KeyError:
        raise GraphQLError(f"loopback has no value for {info.parent_type.name}.{name}") from None


def _refuse_unserved(field: GraphQLField) -> None:
    """Has a mutation's input checked before its resolver changes anything."""
    resolver, kind = field.resolve, field.args["input"].type

    def resolve(source, info, input: dict):
        inputs.check(kind, input)
        return resolver(source, info, input=input)

    field.resolve = resolve


@lru_cache(maxsize=1)
def schema() -> GraphQLSchema:
    """schema.graphql with its resolvers. ValueError if a resolver has no field there."""
    built = build_schema((Path(__file__).parent / "schema.graphql").read_text())
    for type_name, fields in RESOLVERS.items():
        for field, resolver in fields.items():
            if field == "__type":
                built.type_map[type_name].resolve_type = resolver
            elif field in built.type_map[type_name].fields:
                built.type_map[type_name].fields[field].resolve = resolver
                if type_name == "Mutation":
                    _refuse_unserved(built.type_map[type_name].fields[field])
            else:
                raise ValueError(f"schema.graphql has no {type_name}.{field}")
    return built


LONGEST_KEPT = (
    20_000  # characters of a query that is kept parsed; the longest of W&B's client has 6,000
)


def _document(text: str) -> tuple[DocumentNode, tuple[GraphQLError, ...]]:
    return (_kept if len(text) <= LONGEST_KEPT else _kept.__wrapped__)(text)


@lru_cache(
    maxsize=128
)  # clients send the same few texts over and over; parsing them costs more than answering
def _kept(text: str) -> tuple[DocumentNode, tuple[GraphQLError, ...]]:
    document = parse(text, max_tokens=20_000)
    return document, tuple(validate(schema(), document))


class Unknown:
    """Operations and fields that were asked for and are not served: each is logged once, all are counted.

    Of a name 200 characters are kept, and of names the first 1,000.
    """

    def __init__(self):
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, what: str) -> None:
        what = what[:200]
        with self._lock:
            if what not in self._counts and len(self._counts) >= 1000:
                what = "further names"
            self._counts[what] += 1
            first = self._counts[what] == 1
        if first:
            logger.warning("not served: %s", what)

    def total(self) -> int:
        return self._counts.total()

    def names(self) -> list[str]:
        return sorted(self._counts)


def answer(context: Context, unknown: Unknown, body: dict) -> tuple[int, dict]:
    """HTTP status and body for one GraphQL request `{query, variables, operationName}`."""
    text = body.get("query")
    variables = body.get("variables") or {}
    if not isinstance(text, str) or not isinstance(variables, dict):
        return 400, {
            "errors": [{"message": "a GraphQL request is {query: text, variables: object}"}]
        }
    try:
        document, violations = _document(text)
    except GraphQLError as error:
        return 400, {"errors": [{"message": error.message}]}
    names = [
        node.name.value
        for node in document.definitions
        if isinstance(node, OperationDefinitionNode) and node.name
    ]
    if violations:
        for error in violations:
            unknown.add(f"{'/'.join(names) or 'unnamed operation'}: {error.message}")
        return 200, {"errors": [{"message": error.message} for error in violations]}
    result = execute_sync(
        schema(),
        document,
        variable_values=variables,
        operation_name=body.get("operationName") or None,
        context_value=context,
        field_resolver=_column,
    )
    reply = {"data": result.data}
    if not result.errors:
        return 200, reply
    reply["errors"] = [{"message": error.message, "path": error.path} for error in result.errors]
    for error in result.errors:
        if "is not defined by type" in error.message or isinstance(
            error.original_error, inputs.NotServedError
        ):
            unknown.add(f"{'/'.join(names)}: {error.message}")
    return _status(result.errors, names), reply


def _status(errors: list[GraphQLError], names: list[str]) -> int:
    if any(isinstance(error.original_error, NotFoundError) for error in errors):
        return 404  # what makes an agent of a deleted sweep stop instead of asking for ever
    if any(disk_is_full(error.original_error) for error in errors):
        return 507  # W&B's client repeats such a request, and not one with a GraphQL error
    for error in errors:
        if not isinstance(error.original_error, (ValueError, GraphQLError, type(None))):
            logger.error("%s failed", "/".join(names), exc_info=error.original_error)
    return 200
