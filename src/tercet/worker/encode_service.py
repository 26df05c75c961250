"""The engine's encode stage: pictures wait, are encoded in batches across requests, and leave as tickets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any

import numpy as np

from tercet.core.errors import RequestError
from tercet.core.image_ticket import ImageTicket, blocks_for_rows
from tercet.engine.embedding_store import EmbeddingStore
from tercet.engine.encoder import Encoder, Picture, Pixels
from tercet.worker.busy import BusyTimes
from tercet.worker.channel import Message
from tercet.worker.issued_images import IssuedImages
from tercet.worker.wire import Refusal, pack_image_answer

MAX_BATCH = 8
"""Pictures encoded at once: bounds the memory of a forward."""
BUSY_BATCH = 2
"""The same beside running sequences, whose next tokens wait for it."""


@dataclass(slots=True)
class _Group:
    """The pictures of one request: so many different ones at most, of which these keys are leased for it.

    `turn` counts groups in the order in which they got their first: who has some and waits for others must not wait
    for one who does the same.
    """

    pictures: int
    leased: set[str] = field(default_factory=set)
    turn: float = inf

    @property
    def lacks(self) -> int:
        """Return how many pictures are still to come."""
        return max(self.pictures - len(self.leased), 0)


@dataclass(slots=True)
class _Waiting:
    """A request for one picture. `pixels` is None for one that hopes to find it here."""

    id: str
    group: _Group
    key: str
    readers: int
    picture: Picture | None
    tokens: int
    arrived: float
    found: str
    """What it will be counted as, unless it is encoded: hit or joined."""


class EncodeService:
    """Owned by the engine loop. First come, first served; a picture that waits for room holds up those behind it.

    But a request that has some of its pictures comes before those that have none, and room is kept for the rest of
    them: several that each had a part would else wait for each other, until their leases ended.
    """

    def __init__(
        self,
        encoder: Encoder,
        store: EmbeddingStore,
        issued: IssuedImages,
        busy: BusyTimes,
        send: Callable[[Message], None],
        clock: Callable[[], float],
    ) -> None:
        self._encoder, self._store, self._issued = encoder, store, issued
        self._busy, self._send, self._clock = busy, send, clock
        self._queue: list[_Waiting] = []
        self._groups: dict[str, _Group] = {}
        self._turns = 0
        self._last_keys: frozenset[str] = frozenset()
        self._last_ended = 0.0
        self.encoded = Counter[str]()
        """Forwards of the encoder and pictures in them, from the start."""

    @property
    def waiting(self) -> int:
        """Requests that have no answer yet."""
        return len(self._queue)

    def take(self, message: Message) -> None:
        """Take a request: a key, and the picture's pixels unless it may be here already."""
        now, key = self._clock(), message["key"]
        group = self._groups.setdefault(message["group"], _Group(message["pictures"]))
        found = self._found(key, message["sent"])
        picture, tokens = None, 0
        if message["pixels"] is not None:
            picture = Picture(key, _pixels(message))
            try:
                tokens = self._tokens(picture, group)
            except RequestError as error:
                self._answer(message["id"], refusal=Refusal(error.status, error.message, error.code, error.param))
                return
        elif not found:
            self._answer(message["id"])
            return
        self._queue.append(_Waiting(message["id"], group, key, message["readers"], picture, tokens, now, found))

    def cancel(self, request_id: str) -> None:
        """Forget a request, if it waits."""
        self._queue = [waiting for waiting in self._queue if waiting.id != request_id]

    def end_group(self, group_id: str) -> None:
        """Forget a group: nothing more is asked for it."""
        self._groups.pop(group_id, None)

    def probe(self, request_id: str) -> None:
        """Encode a blank picture, to show that it can be done; nothing is kept or counted."""
        self._encoder.encode([Picture("", self._encoder.blank())])
        self._answer(request_id)

    def step(self, *, busy: bool) -> bool:
        """Encode one batch, and answer what can be answered; False when there was nothing to do."""
        if not self._queue:
            return False
        before = len(self._queue)
        batch = self._admit(BUSY_BATCH if busy else MAX_BATCH)
        if batch:
            self._encode(batch)
            self._admit(0)  # those who joined
        return len(self._queue) < before

    def _found(self, key: str, sent: float) -> str:
        """Return whether a picture is here ("hit"), on its way ("joined"), or neither ("")."""
        entry = self._store.pool.get(key)
        if entry is not None and entry.ready:
            # A request that was sent while the picture was being encoded has only been read now.
            return "joined" if key in self._last_keys and sent < self._last_ended else "hit"
        queued = any(waiting.key == key and waiting.picture is not None for waiting in self._queue)
        return "joined" if entry is not None or queued else ""

    def _tokens(self, picture: Picture, group: _Group) -> int:
        tokens = self._encoder.tokens(picture.pixels)
        if not self._store.pool.could_lease(tokens, group.pictures):
            many = f"{group.pictures} pictures of {tokens} tokens do not fit the embedding pool together"
            raise RequestError(400, many, code="too_large")
        return tokens

    def _admit(self, room: int) -> list[_Waiting]:
        """Answer from the head what is here; return up to `room` that are to be encoded, with their entries made."""
        pool = self._store.pool
        batch: list[_Waiting] = []
        making: set[str] = set()
        left: list[_Waiting] = []
        blocked = False
        self._queue.sort(key=lambda waiting: waiting.group.turn)  # by arrival among those of one turn, or none
        for waiting in self._queue:
            key = waiting.key
            entry = pool.get(key)
            if blocked or key in making:
                left.append(waiting)
            elif entry is not None and entry.ready:
                if self._may_lease(waiting, entry.tokens):
                    self._begin(waiting)
                    self._hand_out(waiting, waiting.found or "hit")
                else:
                    blocked = True
                    left.append(waiting)
            elif waiting.picture is None and entry is None:
                self._answer(waiting.id)  # it is not here any more: send the pixels
            elif waiting.picture is None or entry is not None or len(batch) == room:
                blocked = True  # on its way from another engine, or next time
                left.append(waiting)
            elif self._may_lease(waiting, waiting.tokens):
                self._begin(waiting)
                pool.reserve_entry(key, waiting.tokens)
                pool.lease(key)
                making.add(key)
                batch.append(waiting)
            else:
                blocked = True
                left.append(waiting)
        self._queue = left
        return batch

    def _may_lease(self, waiting: _Waiting, tokens: int) -> bool:
        """Return whether a picture may be leased, with room for what those whose turn is before still lack."""
        before = sum(group.lacks for group in self._groups.values() if group.turn < waiting.group.turn)
        return self._store.pool.can_lease({waiting.key: tokens}, before * blocks_for_rows(tokens))

    def _begin(self, waiting: _Waiting) -> None:
        """Note that a group gets a picture."""
        group = waiting.group
        if group.turn == inf:
            group.turn = self._turns
            self._turns += 1
        group.leased.add(waiting.key)

    def _encode(self, batch: list[_Waiting]) -> None:
        pool, started = self._store.pool, self._clock()
        pictures = [waiting.picture for waiting in batch if waiting.picture is not None]
        rows = self._encoder.encode(pictures)
        for waiting, data in zip(batch, rows, strict=True):
            entry = pool.get(waiting.key)
            assert entry is not None
            self._store.write(entry, data)
            pool.loaded(waiting.key)
        encode_s = self._clock() - started
        self._busy.encoded(encode_s)
        self.encoded["batches"] += 1
        self.encoded["images"] += len(batch)
        for waiting in batch:
            self._hand_out(waiting, "miss", encode_s)
            pool.unlease(waiting.key)
            pool.unpin(waiting.key)
        self._last_keys, self._last_ended = frozenset(waiting.key for waiting in batch), self._clock()

    def _hand_out(self, waiting: _Waiting, cache: str, encode_s: float = 0.0) -> None:
        pool, now = self._store.pool, self._clock()
        pool.hits += cache == "hit"
        pool.joined += cache == "joined"
        pool.misses += cache == "miss"
        ticket = self._issued.issue(waiting.key, waiting.readers, now)
        self._answer(waiting.id, ticket, cache, max(now - waiting.arrived - encode_s, 0.0), encode_s)

    def _answer(
        self,
        request_id: str,
        ticket: ImageTicket | None = None,
        cache: str = "",
        queue_s: float = 0.0,
        encode_s: float = 0.0,
        refusal: Refusal | None = None,
    ) -> None:
        self._send(pack_image_answer(request_id, ticket, cache, queue_s, encode_s, refusal))


def _pixels(message: dict[str, Any]) -> Pixels:
    return np.frombuffer(message["pixels"], dtype=message["dtype"]).reshape(message["shape"])
