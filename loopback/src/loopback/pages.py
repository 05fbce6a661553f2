"""GraphQL connections: W&B's way to send a long list page by page.

A cursor is the number of rows before the page, as text.
"""

from collections.abc import Callable, Iterable
from typing import Any

from loopback.store import Row, Store

MAX_PAGE_SIZE = 10_000  # rows, even if a client asks for more
DEFAULT_PAGE_SIZE = 50  # rows, if a client does not say

Connection = dict[str, Any]  # {"edges": [{"node": row, "cursor": text}, ...], "pageInfo": {...}}


def bounds(first: int | None, after: str | None) -> tuple[int, int]:
    """(offset, limit) of the page of `first` rows after the cursor `after`.

    Raises ValueError for a cursor that is not a number, and for a negative number of rows.
    """
    offset = int(after) if after else 0
    limit = DEFAULT_PAGE_SIZE if first is None else min(first, MAX_PAGE_SIZE)
    if offset < 0 or limit < 0:
        raise ValueError("a page starts at 0 or later and has 0 rows or more")
    return offset, limit


def page(rows: Iterable[Row], offset: int, more: bool, **extra: object) -> Connection:
    """The connection with `rows`, after `offset` others; `more`: whether further rows follow."""
    edges = [
        {"node": row, "cursor": str(offset + number)} for number, row in enumerate(rows, start=1)
    ]
    end = edges[-1]["cursor"] if edges else None
    return {"edges": edges, "pageInfo": {"endCursor": end, "hasNextPage": more}, **extra}


def paged(
    fetch: Callable[[int, int], list[Row]], first: int | None, after: str | None, **extra: object
) -> Connection:
    """One page of the rows that `fetch(offset, limit)` returns.

    Fetches one row more than the page has, to know whether further rows follow.
    """
    offset, limit = bounds(first, after)
    rows = fetch(offset, limit + 1)
    return page(rows[:limit], offset, len(rows) > limit, **extra)


def selected(
    store: Store, sql: str, *values: object, first: int | None, after: str | None
) -> Connection:
    """One page of a query's rows; `sql` is without LIMIT."""

    def fetch(offset: int, limit: int) -> list[Row]:
        return store.all(f"{sql} LIMIT ? OFFSET ?", *values, limit, offset)

    return paged(fetch, first, after)


def one_page(rows: list[Row], **extra: object) -> Connection:
    """All rows of a short list as one page."""
    return page(rows, 0, False, **extra)


def sliced(rows: list[Row], first: int | None, after: str | None, **extra: object) -> Connection:
    """One page of a list that is already in memory."""
    return paged(lambda offset, limit: rows[offset : offset + limit], first, after, **extra)
