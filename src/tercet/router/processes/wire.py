"""What router processes say to each other, in msgpack: events of the fleet, and the plain values around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from enum import IntEnum
from functools import partial
from typing import Any

import msgpack

from tercet.core.stage import Mode, Stage
from tercet.routing import events as e
from tercet.routing.facts import Anchor, RequestFacts
from tercet.routing.kv_events import BlocksCleared, BlocksHeld, BlocksRemoved, BlocksStored
from tercet.routing.pictures import Picture


class Kind(IntEnum):
    """What a frame is. The main process sends HELLO, ORDERS, NEWS, GONE, ASK, ANSWER and STOP; the others READY, NEWS,
    DONE, REPORT, QUESTION and SUSPECT."""

    HELLO = 0
    ORDERS = 1
    NEWS = 2
    GONE = 3
    ASK = 4
    ANSWER = 5
    STOP = 6
    READY = 7
    DONE = 8
    REPORT = 9
    QUESTION = 10
    SUSPECT = 11


# A number once given stays: it is the place in this list.
_CLASSES: tuple[type, ...] = (
    RequestFacts,
    Anchor,
    Picture,
    e.WorkerAdded,
    e.WorkerRemoved,
    e.ModelsListed,
    e.RankHealth,
    e.RankRestarted,
    e.CacheSized,
    e.PairHealth,
    e.PicturesHeld,
    e.PicturesLost,
    e.ConversationRecorded,
    e.PrefixLost,
    e.CacheStored,
    e.KvTold,
    e.CacheCleared,
    e.ConversationsCleared,
    e.ModeChanged,
    BlocksStored,
    BlocksRemoved,
    BlocksCleared,
    BlocksHeld,
)
LEAST, MOST = -(1 << 63), (1 << 64) - 1
"""The integers that msgpack has. One beyond them came from a client or a worker, and is told as the nearest."""
DEEPEST = 5
"""An event holds facts, these pictures; lists between them don't count."""
_CODES = {cls: code for code, cls in enumerate(_CLASSES)}
_FIELDS = {cls: tuple(field.name for field in fields(cls) if field.init) for cls in _CLASSES}

_MAKERS: dict[type, Callable[..., Any]] = {
    e.WorkerAdded: lambda url, stages, ranks, first: e.WorkerAdded(url, frozenset(map(Stage, stages)), ranks, first),
    e.ModeChanged: lambda mode: e.ModeChanged(Mode(mode)),
}


class _Encoder:
    """Packers that are kept, one for each depth of events in each other: to make one costs more than all it packs."""

    def __init__(self) -> None:
        self._packers = [
            msgpack.Packer(default=partial(self._replace, depth), unicode_errors="surrogatepass")
            for depth in range(DEEPEST)
        ]

    def encode(self, value: object, depth: int = 0) -> bytes:
        """Return the bytes of a value made of events and plain data; integers beyond 64 bits become the nearest of
        these. Raises ValueError, OverflowError and TypeError for what can't be told."""
        packed: bytes = self._packers[depth].pack(value)
        return packed

    def _replace(self, depth: int, value: Any) -> Any:
        code = _CODES.get(type(value))
        if code is not None:
            fields = [getattr(value, name) for name in _FIELDS[type(value)]]
            return msgpack.ExtType(code, self.encode(fields, depth + 1))
        if isinstance(value, frozenset):
            return sorted(value)
        if isinstance(value, int):
            return max(LEAST, min(MOST, value))
        raise TypeError(f"can't tell other processes of {type(value).__name__}")


encode = _Encoder().encode


def decode(data: bytes) -> Any:
    """Return the value; lists come back as tuples."""
    return msgpack.unpackb(data, ext_hook=_decode, use_list=False, strict_map_key=False, unicode_errors="surrogatepass")


def brief(facts: RequestFacts, *, whole: bool = True) -> RequestFacts:
    """Return the facts without what only the route's choice needs, and what no other process would look at. Not
    `whole`: without what names the prompt's pieces, where these were told before."""
    if not whole:
        return replace(facts, ids=(), chunks=b"")
    return replace(facts, ids=()) if facts.ids else facts


def _decode(code: int, data: bytes) -> Any:
    cls = _CLASSES[code]
    return _MAKERS.get(cls, cls)(*decode(data))
