"""Translates filters and orders of runs, W&B's Mongo-style language, to SQL.

A filter is `{"$and": [{"state": "finished"}, {"summary_metrics.loss": {"$lt": 0.5}}]}`. An order is
`-summary_metrics.loss`. SQLite reads the JSON columns itself, so Python sees matching rows only.
"""

import json
from collections.abc import Iterable
from typing import Any

from loopback.store import compiled

Condition = tuple[str, list[Any]]  # SQL with a ? per value, and the values

# A run's duration in seconds: as its client counts it, else from creation to last heartbeat.
SECONDS = """COALESCE(
    json_extract(r.summary, '$."_runtime"'), json_extract(r.summary, '$."_wandb"."runtime"'),
    (julianday(r.heartbeat_at) - julianday(r.created_at)) * 86400)"""

COLUMNS = {  # key of a filter -> SQL
    "name": "r.name",
    "display_name": "r.display_name",
    "displayName": "r.display_name",
    "state": "r.state",
    "group": "r.run_group",
    "jobType": "r.job_type",
    "job_type": "r.job_type",
    "host": "r.host",
    "notes": "r.notes",
    "commit": "r.commit_hash",
    "sweep": "s.name",
    "created_at": "r.created_at",
    "createdAt": "r.created_at",
    "updated_at": "r.updated_at",
    "updatedAt": "r.updated_at",
    "heartbeat_at": "r.heartbeat_at",
    "heartbeatAt": "r.heartbeat_at",
    "username": "'loopback'",
    "user": "'loopback'",
    "user.username": "'loopback'",
    "duration": SECONDS,
    "runtime": SECONDS,
}
DOCUMENTS = {  # first part of a key -> column with JSON, in which the rest is looked up
    "config": "r.config",
    "summary_metrics": "r.summary",
    "summaryMetrics": "r.summary",
    "summary": "r.summary",
    "keys_info.keys": "r.history_keys",
}
COMPARISONS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<=", "$eq": "IS", "$ne": "IS NOT"}
GROUPS = {  # operator -> SQL around all its parts, SQL between them
    "$and": ("({})", " AND "),
    "$or": ("({})", " OR "),
    "$nor": ("NOT ({})", " OR "),
}
TAG_OPERATORS = ("$eq", "$ne", "$in", "$nin", "$all")
MAX_INTEGER = 2**63  # SQLite stores integers in 64 bits


def _nested(path: str) -> str:
    return "".join(f'."{step}"' for step in path.split("."))


def _paths(document: str, key: str) -> list[str]:
    """The JSON paths that `key` can mean: `a.b` is a name with a dot, or `b` inside `a`."""
    if set('"\\\0') & set(key):
        raise ValueError(f"{key!r} is not a valid name of a value")
    if document == "keys_info.keys":
        return [f'$."keys"."{key}"']
    if document != "config":
        return [f'$."{key}"'] + (["$" + _nested(key)] if "." in key else [])
    key = key.removesuffix(".value")
    head, _, rest = key.partition(".")
    nested = [f'$."{head}"."value"{_nested(rest)}'] if rest else []
    return [f'$."{key}"."value"', *nested]


def column(key: str) -> str:
    """The SQL expression for a key of a filter. Raises ValueError for an unknown key."""
    if key in COLUMNS:
        return COLUMNS[key]
    for document, text in DOCUMENTS.items():
        if key.startswith(document + "."):
            paths = _paths(document, key[len(document) + 1 :])
            cells = [f"json_extract({text}, {_quote(path)})" for path in paths]
            return cells[0] if len(cells) == 1 else f"COALESCE({', '.join(cells)})"
    raise ValueError(f"runs have nothing named {key!r} to filter or order by")


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _check_comparable(values: Iterable[object]) -> None:
    """Raises ValueError for lists, objects and integers above 64 bits, as SQLite has none."""
    for value in values:
        too_large = isinstance(value, int) and abs(value) >= MAX_INTEGER
        if too_large or isinstance(value, (list, dict)):
            raise ValueError(f"{str(value)[:50]} cannot be compared with")


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{what} must have a list, not {str(value)[:50]}")
    return value


def _condition(key: str, operator: str, value: Any) -> Condition:
    """One comparison, such as `{"state": {"$ne": "finished"}}`."""
    sql = column(key)
    is_list = operator in ("$in", "$nin")
    _check_comparable(_list(value, operator) if is_list else [value])
    if operator in COMPARISONS:
        return f"{sql} {COMPARISONS[operator]} ?", [value]
    if is_list:
        inside = f"{sql} IN ({', '.join('?' * len(value))})"
        return inside if operator == "$in" else f"({sql} IS NULL OR NOT {inside})", value
    if operator == "$exists":
        return f"{sql} IS {'NOT ' if value else ''}NULL", []
    if operator == "$regex":
        compiled(value)  # refuses a bad pattern before the query runs
        return f"{sql} REGEXP ?", [value]
    raise ValueError(f"{operator!r} is not a comparison that loopback supports")


def _tags(condition: Any) -> Condition:
    """Comparisons of tags, which are a list: `equal` means `contains`, as in Mongo."""
    tests = condition if isinstance(condition, dict) else {"$eq": condition}
    return _joined([_tag_condition(operator, value) for operator, value in tests.items()])


def _tag_condition(operator: str, value: Any) -> Condition:
    wanted = value if isinstance(value, list) else [value]
    if operator not in TAG_OPERATORS:
        raise ValueError(
            f"{operator!r} is not a comparison of tags; use {', '.join(TAG_OPERATORS)}"
        )
    _check_comparable(wanted)
    if value is None:
        return f"json_array_length(r.tags) {'=' if operator == '$eq' else '>'} 0", []
    groups = [[tag] for tag in wanted] if operator == "$all" else [wanted]
    negation = "NOT " if operator in ("$ne", "$nin") else ""
    source = "SELECT 1 FROM json_each(r.tags) WHERE value IN"
    parts = [f"{negation}EXISTS ({source} ({', '.join('?' * len(tags))}))" for tags in groups]
    return " AND ".join(parts) or "1", wanted


def where(filters: dict[str, Any] | str | None) -> Condition:
    """The SQL condition of a filter. Raises ValueError for what is not a filter or not known."""
    filters = json.loads(filters) if isinstance(filters, str) else filters
    if not isinstance(filters, dict | None):
        raise ValueError(f"a filter must be an object, not {str(filters)[:50]}")
    return _joined([_entry(key, condition) for key, condition in (filters or {}).items()])


def _joined(conditions: list[Condition], between: str = " AND ") -> Condition:
    """All conditions as one; always true (`1`) if there are none."""
    sql = between.join(sql for sql, _ in conditions) or "1"
    return sql, [value for _, values in conditions for value in values]


def _entry(key: str, condition: Any) -> Condition:
    """One entry of a filter: a group of filters, a negation or comparisons of one value."""
    if key in GROUPS:
        around, between = GROUPS[key]
        parts = [where(item) for item in _list(condition, key)]
        sql, values = _joined([(f"({sql})", values) for sql, values in parts], between)
        return around.format(sql), values
    if key == "$not":
        sql, values = where(condition)
        return f"NOT ({sql})", values
    if key == "tags":
        return _tags(condition)
    if isinstance(condition, dict):
        return _joined([_test(key, operator, value) for operator, value in condition.items()])
    return _condition(key, "$eq", condition)


def _test(key: str, operator: str, value: Any) -> Condition:
    if operator == "$not":
        sql, values = where({key: value})
        return f"NOT ({sql})", values
    return _condition(key, operator, value)


def order_by(order: str | None) -> str:
    """The SQL after ORDER BY for `+key`, `-key` or several with commas between.

    Runs without a finite value come last in both directions.
    """
    terms = []
    for key in filter(None, (order or "").split(",")):
        direction = "DESC" if key.startswith("-") else "ASC"
        sql = column(key.lstrip("+-"))
        is_missing = f"({sql} IS NULL OR {sql} IN ('NaN', 'Infinity', '-Infinity'))"
        terms += [is_missing, f"{sql} {direction}"]
    return ", ".join([*terms, "r.id"])
