"""Answers GraphQL requests: schema.graphql with the resolvers of all subjects."""

import logging
import re
import threading
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLField,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLResolveInfo,
    GraphQLSchema,
    GraphQLUnionType,
    build_schema,
    execute_sync,
    parse,
    validate,
)
from graphql.language import OperationDefinitionNode

from loopback import (
    agents,
    artifact_queries,
    artifacts,
    inputs,
    projects,
    runs,
    stream,
    sweeps,
)
from loopback.common import Context, Resolvers
from loopback.store import NotFoundError, Row, disk_is_full

logger = logging.getLogger("loopback")

MAX_CACHED_QUERY = 20_000  # characters; the longest query of W&B's client has 6,000
MAX_TOKENS = 20_000  # of one query
MAX_NAME = 200  # characters of an unsupported request that are kept
MAX_NAMES = 1_000  # unsupported requests that are counted one by one

RESOLVERS: Resolvers = {}
for subject in (projects, runs, stream, sweeps, agents, artifacts, artifact_queries):
    for type_name, fields in subject.RESOLVERS.items():
        RESOLVERS.setdefault(type_name, {}).update(fields)


def snake(name: str) -> str:
    """The column of a field: historyLineCount -> history_line_count."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def _column(source: Row, info: GraphQLResolveInfo, **_arguments: object) -> Any:
    """The default resolver: the column that holds the field.

    A field with neither a column nor a resolver is an error. A null instead would look like a value
    that is not set.
    """
    name = info.field_name
    if name in source:
        return source[name]
    try:
        return source[snake(name)]
    except KeyError:
        raise GraphQLError(f"loopback has no value for {info.parent_type.name}.{name}") from None


def _refuse_unserved(field: GraphQLField) -> None:
    """Makes a mutation check its input (inputs.check) before its resolver changes anything."""
    resolver, kind = field.resolve, field.args["input"].type
    assert resolver is not None  # schema() has just set it

    def resolve(source: Any, info: GraphQLResolveInfo, input: dict[str, Any]) -> Any:
        inputs.check(kind, input)
        return resolver(source, info, input=input)

    field.resolve = resolve


@lru_cache(maxsize=1)
def schema() -> GraphQLSchema:
    """schema.graphql with its resolvers. Raises ValueError for a resolver without a field."""
    built = build_schema((Path(__file__).parent / "schema.graphql").read_text())
    for type_name, resolvers in RESOLVERS.items():
        kind = built.type_map[type_name]
        for name, resolver in resolvers.items():
            if name == "__type" and isinstance(kind, GraphQLInterfaceType | GraphQLUnionType):
                kind.resolve_type = resolver
            elif isinstance(kind, GraphQLObjectType) and name in kind.fields:
                kind.fields[name].resolve = resolver
                if type_name == "Mutation":
                    _refuse_unserved(kind.fields[name])
            else:
                raise ValueError(f"schema.graphql has no {type_name}.{name}")
    return built


def _document(text: str) -> tuple[DocumentNode, tuple[GraphQLError, ...]]:
    """(parsed query, its violations of the schema). Raises GraphQLError if it cannot be parsed.

    Clients send the same few queries, and parsing one takes longer than answering it. So short
    queries are kept parsed.
    """
    parse_query = _cached if len(text) <= MAX_CACHED_QUERY else _cached.__wrapped__
    return parse_query(text)


@lru_cache(maxsize=128)
def _cached(text: str) -> tuple[DocumentNode, tuple[GraphQLError, ...]]:
    document = parse(text, max_tokens=MAX_TOKENS)
    return document, tuple(validate(schema(), document))


class UnsupportedRequests:
    """Counts requests that this server does not support, and logs each once.

    Keeps the first MAX_NAME characters of a request, and the first MAX_NAMES requests.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, name: str) -> None:
        """Counts one request; `name` says what was asked for."""
        name = name[:MAX_NAME]
        with self._lock:
            if name not in self._counts and len(self._counts) >= MAX_NAMES:
                name = "further names"
            self._counts[name] += 1
            is_first = self._counts[name] == 1
        if is_first:
            logger.warning("not served: %s", name)

    def total(self) -> int:
        """How many requests were counted."""
        return self._counts.total()

    def names(self) -> list[str]:
        """What was asked for, sorted."""
        return sorted(self._counts)


def answer(
    context: Context, unsupported: UnsupportedRequests, body: dict[str, Any]
) -> tuple[int, dict[str, Any]]:
    """(HTTP status, body) for a GraphQL request `{query, variables, operationName}`."""
    text = body.get("query")
    variables = body.get("variables") or {}
    if not isinstance(text, str) or not isinstance(variables, dict):
        return 400, _errors("a GraphQL request is {query: text, variables: object}")
    try:
        document, violations = _document(text)
    except GraphQLError as error:
        return 400, _errors(error.message)
    names = _operation_names(document)
    if violations:
        for violation in violations:
            unsupported.add(f"{names or 'unnamed operation'}: {violation.message}")
        return 200, _errors(*(violation.message for violation in violations))
    result = execute_sync(
        schema(),
        document,
        variable_values=variables,
        operation_name=body.get("operationName") or None,
        context_value=context,
        field_resolver=_column,
    )
    if not result.errors:
        return 200, {"data": result.data}
    for problem in result.errors:
        is_refused = isinstance(problem.original_error, inputs.NotServedError)
        if is_refused or "is not defined by type" in problem.message:
            unsupported.add(f"{names}: {problem.message}")
    errors = [{"message": problem.message, "path": problem.path} for problem in result.errors]
    return _status(result.errors, names), {"data": result.data, "errors": errors}


def _errors(*messages: str) -> dict[str, Any]:
    return {"errors": [{"message": message} for message in messages]}


def _operation_names(document: DocumentNode) -> str:
    """The names of a query's operations with slashes between; empty if they have none."""
    return "/".join(
        node.name.value
        for node in document.definitions
        if isinstance(node, OperationDefinitionNode) and node.name
    )


def _status(errors: list[GraphQLError], names: str) -> int:
    """The HTTP status for errors of resolvers. Logs the errors that are bugs of this server."""
    causes = [error.original_error for error in errors]
    if any(isinstance(cause, NotFoundError) for cause in causes):
        return 404  # an agent of a deleted sweep then stops; at 200 it would retry without end
    if any(disk_is_full(cause) for cause in causes):
        return 507  # W&B's client retries at this status, but not at a GraphQL error
    for cause in causes:
        if not isinstance(cause, ValueError | RecursionError | GraphQLError | None):
            logger.error("%s failed", names, exc_info=cause)
    return 200
