"""Connections: W&B's way to hand out long lists page by page."""

from collections.abc import Callable, Iterable

MOST = 10_000  # rows of one page, whatever the client asks for
USUAL = 50


def bounds(first: int | None, after: str | None) -> tuple[int, int]:
    """(offset, limit) of the page asked for; a cursor is the number of rows before it. ValueError for a foreign one."""
    offset = int(after) if after else 0
    limit = USUAL if first is None else min(first, MOST)
    if offset < 0 or limit < 0:
        raise ValueError("a page starts at 0 or later and has 0 rows or more")
    return offset, limit


def page(rows: Iterable[dict], offset: int, more: bool, **extra) -> dict:
    """The connection that holds `rows`, the first of which is number `offset`; `more` says if others follow."""
    edges = [
        {"node": row, "cursor": str(offset + number)} for number, row in enumerate(rows, start=1)
    ]
    end = edges[-1]["cursor"] if edges else None
    return {"edges": edges, "pageInfo": {"endCursor": end, "hasNextPage": more}, **extra}


def paged(
    fetch: Callable[[int, int], list[dict]], first: int | None, after: str | None, **extra
) -> dict:
    """One page of what `fetch(offset, limit)` finds; it is asked for one row more to know whether others follow."""
    offset, limit = bounds(first, after)
    rows = fetch(offset, limit + 1)
    return page(rows[:limit], offset, len(rows) > limit, **extra)


def whole(rows: list[dict], **extra) -> dict:
    """All of a short list as one page."""
    return page(rows, 0, False, **extra)


def sliced(rows: list[dict], first: int | None, after: str | None, **extra) -> dict:
    """One page of a list that is already in memory."""
    return paged(lambda offset, limit: rows[offset : offset + limit], first, after, **extra)
