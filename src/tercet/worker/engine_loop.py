"""The engine process's main loop: commands in, steps, answers out. Transfers run beside it and come back as events."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import Any

from tercet.engine.embedding_store import EmbeddingStore
from tercet.worker.busy import BusyTimes
from tercet.worker.channel import EngineChannel
from tercet.worker.encode_service import EncodeService
from tercet.worker.issued_images import IssuedImages
from tercet.worker.sequence_service import SequenceService

STATS_INTERVAL_S = 0.05
HEARTBEAT_S = 1.0
"""The longest silence of a loop that is not in a step."""
IDLE_POLL_S = 0.5


class WakeUp:
    """A file descriptor that other threads can set to end the loop's idle wait."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def set(self) -> None:
        """Wake the loop; cheap, callable from any thread."""
        os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        """Forget earlier wake-ups."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return


class EngineLoop:
    """Runs what an engine's stages need: sequences, the encode stage, or both."""

    def __init__(
        self,
        *,
        channel: EngineChannel,
        wake: WakeUp,
        busy: BusyTimes,
        sequences: SequenceService | None = None,
        encoding: EncodeService | None = None,
        store: EmbeddingStore | None = None,
        issued_images: IssuedImages | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`store` is there when the model sees, `issued_images` when this engine hands embeddings out."""
        self._channel, self._wake, self._busy, self._clock = channel, wake, busy, clock
        self._sequences, self._encoding, self._store, self._issued = sequences, encoding, store, issued_images
        self._stopping = False
        self._stats_due = 0.0
        self._heartbeat_due = 0.0
        self._last_stats: dict[str, Any] = {}
        self._news = select.poll()
        self._news.register(channel, select.POLLIN)
        self._news.register(wake.fd, select.POLLIN)

    def run(self) -> None:
        """Loop until the front says stop. Raises ChannelError when it is gone, and whatever an executor raises."""
        while not self._stopping:
            self.turn()

    def turn(self) -> None:
        """Take what has arrived, encode a batch and run a step if there are any, else wait for news."""
        self._take_commands()
        worked = False
        if self._issued is not None:
            self._issued.settle(self._clock())
        if self._encoding is not None:
            worked = self._encoding.step(busy=self._sequences is not None and self._sequences.running)
        if self._sequences is not None:
            worked |= self._sequences.step(self._due_stats)
        if not worked:
            now = self._clock()
            stats = self._changed_stats(now)
            if stats is not None:
                self._channel.send({"op": "out", "tokens": [], "deltas": [], "stats": stats})
            self._wait(now)

    def _wait(self, now: float) -> None:
        parts = (self._sequences, self._issued)
        ends = [part.next_deadline() for part in parts if part is not None]
        deadline = min((end for end in ends if end is not None), default=None)
        wait_s = IDLE_POLL_S if deadline is None else min(max(deadline - now, 0.0), IDLE_POLL_S)
        self._news.poll(int(wait_s * 1000) + 1)
        # What woke us up is looked at after this, so nothing that comes now is lost.
        self._wake.clear()

    def _take_commands(self) -> None:
        for message in self._channel.receive():
            op = message["op"]
            if op == "stop":
                self._stopping = True
            elif op == "reset":
                self._reset(message["id"])
            elif op in ("add", "cancel") and self._sequences is not None:
                if op == "add":
                    self._sequences.add(message)
                else:
                    self._sequences.cancel(message["id"])
            # Tickets to release are named by clients: one that is not of this engine's stages is just unknown.
            elif op == "release":
                if self._sequences is not None:
                    self._sequences.release(message["ticket_id"])
            elif op == "release_image":
                if self._issued is not None:
                    self._issued.release(message["ticket_id"])
            elif op in ("image", "end_images", "cancel_image", "probe_image") and self._encoding is not None:
                if op == "image":
                    self._encoding.take(message)
                elif op == "end_images":
                    self._encoding.end_group(message["group"])
                elif op == "cancel_image":
                    self._encoding.cancel(message["id"])
                else:
                    self._encoding.probe(message["id"])
            else:
                raise ValueError(f"command {op!r} from the front: unknown, or not for this engine's stages")

    def _reset(self, request_id: str) -> None:
        if self._store is not None:
            self._store.pool.forget_idle()
        done = self._sequences is None or self._sequences.reset_cache()
        self._channel.send({"op": "reset_done", "id": request_id, "done": done})

    def _due_stats(self, now: float, last: bool) -> dict[str, Any] | None:
        return self._changed_stats(now) if last or now >= self._stats_due else None

    def _changed_stats(self, now: float) -> dict[str, Any] | None:
        """Return the statistics when the front should get them: when they changed, or nothing was said for long."""
        self._stats_due = now + STATS_INTERVAL_S
        stats = {} if self._sequences is None else self._sequences.figures()
        stats["busy_s"] = dict(self._busy.seconds)
        if self._store is not None:
            stats["images"] = self._image_figures(self._store)
        if stats == self._last_stats and now < self._heartbeat_due:
            return None
        self._last_stats = stats
        self._heartbeat_due = now + HEARTBEAT_S
        return stats

    def _image_figures(self, store: EmbeddingStore) -> dict[str, Any]:
        pool, encoding, issued = store.pool, self._encoding, self._issued
        return {
            "hits": pool.hits,
            "misses": pool.misses,
            "joined": pool.joined,
            "evictions": pool.evictions,
            "bytes": store.occupied_bytes,
            "blocks_in_use": pool.in_use,
            "encoded": 0 if encoding is None else encoding.encoded["images"],
            "batches": 0 if encoding is None else encoding.encoded["batches"],
            "waiting": 0 if encoding is None else encoding.waiting,
            "held": 0 if issued is None else len(issued),
            "handoffs": {} if issued is None else dict(issued.handoffs),
        }
