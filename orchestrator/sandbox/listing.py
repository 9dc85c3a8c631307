"""Paging and search as the lists of files and batches share them (doubleword-api 1.2, 2.4)."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Protocol, TypeVar

from orchestrator.sandbox.errors import Refusal


class Listed(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def created_at(self) -> float: ...


Item = TypeVar("Item", bound=Listed)
Query = Mapping[str, str]


def whole_number(query: Query, key: str) -> int | None:
    """A query value as an integer; `Refusal` 400 in the words of the real server's extractor."""
    text = query.get(key)
    if text is None:
        return None
    if re.fullmatch(r"-?\d+", text) is None:
        raise Refusal(400, f"Failed to deserialize query string: {key}: invalid digit found in string", param=key)
    return int(text)


def page_limit(query: Query, limits: tuple[int, int]) -> int:
    """Limits is (default, maximum); anything outside 1..maximum is clamped, not refused."""
    wanted = whole_number(query, "limit")
    return limits[0] if wanted is None else min(max(wanted, 1), limits[1])


def sort_key(item: Listed) -> tuple[float, str]:
    return item.created_at, item.id


def page(items: Sequence[Item], after: Item | None, limit: int, *, descending: bool) -> tuple[list[Item], bool]:
    """One page of `items` and whether more follow; after None starts at the beginning, as an unknown id does."""
    ordered = sorted(items, key=sort_key, reverse=descending)
    if after is not None:
        mark = sort_key(after)
        ordered = [item for item in ordered if (sort_key(item) < mark if descending else sort_key(item) > mark)]
    return ordered[:limit], len(ordered) > limit


def envelope(shown: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {}
    return {"object": "list", "data": shown, **ends, "has_more": has_more}


@cache
def like(needle: str) -> re.Pattern[str]:
    """SQL `ILIKE '%needle%'`: `%` and `_` inside are wildcards, a backslash takes the next character literally."""
    pieces = re.findall(r"\\.|.", needle, re.DOTALL)
    wild = {"%": ".*", "_": "."}
    return re.compile("".join(wild.get(piece, re.escape(piece[-1])) for piece in pieces), re.IGNORECASE | re.DOTALL)


def matches(needle: str | None, *texts: str) -> bool:
    return not needle or any(like(needle).search(text) for text in texts)
