"""Filters and orders of runs: W&B's Mongo-style language, translated to SQL.

`{"$and": [{"state": "finished"}, {"summary_metrics.loss": {"$lt": 0.5}}]}` and `-summary_metrics.loss`.
SQLite reads the JSON itself, so a page of many runs costs one scan and no Python.
"""

# ruff: noqa: S608  (table and column names are our own words; every value goes through a ?)

import json

from loopback.store import compiled

# seconds that a run has run: as its client counts them, else from its creation to its last sign of life
SECONDS = """COALESCE(json_extract(r.summary, '$."_runtime"'), json_extract(r.summary, '$."_wandb"."runtime"'),
    (julianday(r.heartbeat_at) - julianday(r.created_at)) * 86400)"""

COLUMNS = {
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
DOCUMENTS = {
    "config": "r.config",
    "summary_metrics": "r.summary",
    "summaryMetrics": "r.summary",
    "summary": "r.summary",
    "keys_info.keys": "r.history_keys",
}
COMPARISONS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
GROUPS = {"$and": " AND ", "$or": " OR "}


def _steps(path: str) -> str:
    return "$" + "".join(f'."{step}"' for step in path.split("."))


def _paths(document: str, key: str) -> list[str]:
    """The JSON paths that `key` may mean: dotted names and nested ones look alike."""
    if set('"\\\0') & set(key):
        raise ValueError(f"{key!r} is no name of a value")
    if document == "keys_info.keys":
        return [f'$."keys"."{key}"']
    if document != "config":
        return [f'$."{key}"'] + ([_steps(key)] if "." in key else [])
    key = key.removesuffix(".value")
    head, _, rest = key.partition(".")
    nested = [f'$."{head}"."value"' + _steps(rest).removeprefix("$")] if rest else []
    return [f'$."{key}"."value"', *nested]


def column(key: str) -> str:
    """The SQL expression for a filter's key. ValueError for a key that means nothing."""
    if key in COLUMNS:
        return COLUMNS[key]
    for document, text in DOCUMENTS.items():
        if key.startswith(document + "."):
            found = [
                f"json_extract({text}, {_quote(path)})"
                for path in _paths(document, key[len(document) + 1 :])
            ]
            return found[0] if len(found) == 1 else f"COALESCE({', '.join(found)})"
    raise ValueError(f"runs have nothing named {key!r} to filter or order by")


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _plain(value) -> None:
    """ValueError for what SQLite cannot compare: lists, objects and whole numbers of more than 64 bits."""
    if isinstance(value, (list, dict)) or (isinstance(value, int) and abs(value) >= 2**63):
        raise ValueError(f"{str(value)[:50]} is no value to compare with")


def _list(value, what: str) -> list:
    if not isinstance(value, list):
        raise ValueError(f"{what} must have a list, not {str(value)[:50]}")
    return value


def _condition(key: str, operator: str, value) -> tuple[str, list]:
    sql = column(key)
    for item in _list(value, operator) if operator in ("$in", "$nin") else [value]:
        _plain(item)
    if operator in COMPARISONS:
        return f"{sql} {COMPARISONS[operator]} ?", [value]
    if operator == "$eq":
        return f"{sql} IS ?", [value]
    if operator == "$ne":
        return f"{sql} IS NOT ?", [value]
    if operator in ("$in", "$nin"):
        marks = ", ".join("?" * len(value))
        inside = f"{sql} IN ({marks})"
        return (inside if operator == "$in" else f"({sql} IS NULL OR NOT {inside})"), list(value)
    if operator == "$exists":
        return f"{sql} IS {'NOT ' if value else ''}NULL", []
    if operator == "$regex":
        compiled(value)  # refuses a bad pattern before the query runs
        return f"{sql} REGEXP ?", [value]
    raise ValueError(f"{operator!r} is no comparison that loopback knows")


def _tags(condition) -> tuple[str, list]:
    """Tags are a list: equal means contains, as in Mongo."""
    tests = condition if isinstance(condition, dict) else {"$eq": condition}
    parts, values = [], []
    for operator, value in tests.items():
        wanted = value if isinstance(value, list) else [value]
        if operator not in ("$eq", "$ne", "$in", "$nin", "$all"):
            raise ValueError(f"{operator!r} is no comparison of tags")
        for item in wanted:
            _plain(item)
        if value is None:
            parts.append(f"json_array_length(r.tags) {'=' if operator == '$eq' else '>'} 0")
            continue
        groups = [[tag] for tag in wanted] if operator == "$all" else [wanted]
        no = "NOT " if operator in ("$ne", "$nin") else ""
        for group in groups:
            marks = ", ".join("?" * len(group))
            parts.append(f"{no}EXISTS (SELECT 1 FROM json_each(r.tags) WHERE value IN ({marks}))")
        values += wanted
    return " AND ".join(parts) or "1", values


def where(filters: dict | str | None) -> tuple[str, list]:
    """(SQL condition, its values) for a filter. ValueError names what is not understood."""
    filters = json.loads(filters) if isinstance(filters, str) else filters
    if not isinstance(filters, dict | None):
        raise ValueError(f"a filter must be an object, not {str(filters)[:50]}")
    parts, values = [], []
    for key, condition in (filters or {}).items():
        if key in GROUPS or key == "$nor":
            groups = [where(item) for item in _list(condition, key)]
            joined = GROUPS.get(key, " OR ").join(f"({sql})" for sql, _ in groups) or "1"
            sql, found = (
                (f"NOT ({joined})" if key == "$nor" else f"({joined})"),
                [v for _, vs in groups for v in vs],
            )
        elif key == "$not":
            sql, found = where(condition)
            sql = f"NOT ({sql})"
        elif key == "tags":
            sql, found = _tags(condition)
        elif isinstance(condition, dict):
            tests = [_test(key, operator, value) for operator, value in condition.items()]
            sql, found = (
                " AND ".join(test for test, _ in tests) or "1",
                [v for _, vs in tests for v in vs],
            )
        else:
            sql, found = _condition(key, "$eq", condition)
        parts.append(sql)
        values += found
    return " AND ".join(parts) or "1", values


def _test(key: str, operator: str, value) -> tuple[str, list]:
    if operator == "$not":
        sql, values = where({key: value})
        return f"NOT ({sql})", values
    return _condition(key, operator, value)


def order_by(order: str | None) -> str:
    """The ORDER BY for `+key`, `-key` or several with commas; runs without a finite value come last either way."""
    terms = []
    for key in filter(None, (order or "").split(",")):
        direction = "DESC" if key.startswith("-") else "ASC"
        sql = column(key.lstrip("+-"))
        terms += [
            f"({sql} IS NULL OR {sql} IN ('NaN', 'Infinity', '-Infinity'))",
            f"{sql} {direction}",
        ]
    return ", ".join([*terms, "r.id"])
