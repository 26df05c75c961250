"""The pictures of a request as the router takes them in, and what workers' caches did about them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from tercet.core.digits import count_in
from tercet.dialects.pictures import Place, url_at
from tercet.routing.pictures import data_uri_key

LARGE_CHARS = 256 * 1024
"""Pictures whose URLs are longer than this in sum are hashed in a thread: a millisecond in which streams would stand
still."""


async def picture_keys(body: Mapping[str, Any], places: Sequence[Place]) -> list[str | None]:
    """Return the keys of the pictures in these places; None where only a URL is known."""

    def keys() -> list[str | None]:
        return [data_uri_key(url_at(body, place)) for place in places]

    small = sum(len(url_at(body, place)) for place in places) <= LARGE_CHARS
    return keys() if small else await asyncio.to_thread(keys)


def add_cache(counts: dict[str, int], header: str | None) -> None:
    """Add what an X-Tercet-Cache header says, `hit=1, miss=2`."""
    if header is None:
        return
    for part in header.split(","):
        word, _, number = part.strip().partition("=")
        count = count_in(number)
        if count is not None:
            counts[word] = counts.get(word, 0) + count


def cache_header(counts: Mapping[str, int]) -> str:
    """Write an X-Tercet-Cache header."""
    return ", ".join(f"{word}={count}" for word, count in counts.items() if count)
