"""The front's pictures: fetched, looked up by content, and decoded only when the engine does not hold them."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence

from PIL import Image

from tercet.core.errors import RequestError
from tercet.core.ids import new_id
from tercet.core.image import image_key
from tercet.media.decode import decode
from tercet.media.errors import PictureError
from tercet.media.limits import MediaLimits
from tercet.media.pool import MediaPool
from tercet.media.source import Sources
from tercet.worker.encoded_picture import EncodedPicture, ImageEngine, PictureGroup, PictureSource, Pixels
from tercet.worker.metrics import PictureFigures
from tercet.worker.wire import ImageAnswer

Preprocess = Callable[[Image.Image], Pixels]

FETCH_THREADS = 16
"""They wait most of the time; a few slow servers must not hold up everybody's pictures."""
QUEUE = 256
MAX_HELD_BYTES = 256 * 1024 * 1024
"""Files that are here and not decoded yet, of all requests together."""
MAX_UNPACKED_BYTES = 1024 * 1024 * 1024
"""What pictures become that wait for an engine: a file of a hundred bytes can be a megabyte of pixels."""


class Pictures:
    """One worker's way from a picture's source to a ticket, for all of its ranks.

    A picture is known by the hash of its bytes alone. Those of a request go side by side; the same picture in several
    requests at once is decoded once.
    """

    def __init__(self, limits: MediaLimits, preprocess: Preprocess, *, blocking: bool = False) -> None:
        self._limits, self._preprocess = limits, preprocess
        self.figures = PictureFigures()
        self._sources = Sources(limits)
        # A picture may wait its turn for as long as fetching it may take.
        patience_s = 2 * limits.timeout_s
        cores = min(len(os.sched_getaffinity(0)), 4)
        self._fetching = MediaPool("fetch", FETCH_THREADS, QUEUE, patience_s, blocking=blocking)
        self._unpacking = MediaPool("decode", cores, QUEUE, patience_s, blocking=blocking)
        self._decoding: dict[str, asyncio.Task[Pixels]] = {}
        self._waiters = Counter[asyncio.Task[Pixels]]()
        self._held_bytes = self._unpacked_bytes = 0

    async def encode(
        self, engine: ImageEngine, sources: Sequence[PictureSource], readers: int
    ) -> tuple[EncodedPicture, ...]:
        """Return a ticket for each picture, in order; each for so many readers.

        Raises RequestError: 400 that names the picture's index and what is wrong with it, 503 when the worker has too
        much to do. The first failure ends the others, and whatever tickets there were are given back.
        """
        if len(sources) > self._limits.max_images:
            first = sources[self._limits.max_images]
            raise RequestError(
                400,
                f"picture {first.index}: a request may hold {self._limits.max_images} pictures, this one holds "
                f"{len(sources)}",
                code="too_many_pictures",
                param=first.where,
            )
        group = PictureGroup(new_id("pictures"), len({source.url for source in sources}), readers)
        tasks = [asyncio.create_task(self._one(engine, source, group)) for source in sources]
        failure: BaseException | None = None
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            failure = _first_failure(tasks)
            if failure is not None:
                raise failure
            encoded = tuple(task.result() for task in tasks)
            tasks.clear()
            return encoded
        finally:
            engine.end_group(group)  # first: what follows may be cancelled, and room be kept for ever
            await self._give_up(engine, tasks)
            # An error's traceback leads here: from here nothing may lead to the error, or both would keep the picture
            # until the garbage is collected.
            tasks.clear()
            failure = None

    def close(self) -> None:
        """Let go of the threads."""
        self._fetching.close()
        self._unpacking.close()

    async def _give_up(self, engine: ImageEngine, tasks: Sequence[asyncio.Task[EncodedPicture]]) -> None:
        """End what is not done, and release what is."""
        for task in tasks:
            task.cancel()
        for got in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(got, EncodedPicture):
                engine.release_image(got.answer.ticket.id)

    async def _one(self, engine: ImageEngine, source: PictureSource, group: PictureGroup) -> EncodedPicture:
        try:
            encoded = await self._encoded(engine, source.url, group)
        except PictureError as error:
            text = f"picture {source.index}: {error}"
            raise RequestError(400, text, code="bad_picture", param=source.where) from error
        self.figures.picture(encoded)
        return encoded

    async def _encoded(self, engine: ImageEngine, url: str, group: PictureGroup) -> EncodedPicture:
        started = time.perf_counter()
        data, key = await self._fetching.run(self._read, url)
        fetch_s = time.perf_counter() - started
        if self._held_bytes + len(data) > MAX_HELD_BYTES:
            raise _busy()
        self._held_bytes += len(data)
        try:
            answer, decode_s = await engine.lookup_image(key, group), 0.0
            if answer is None:
                answer, decode_s = await self._unpacked(engine, key, data, group)
        finally:
            self._held_bytes -= len(data)
        return EncodedPicture(key, answer, fetch_s, decode_s)

    async def _unpacked(
        self, engine: ImageEngine, key: str, data: bytes, group: PictureGroup
    ) -> tuple[ImageAnswer, float]:
        """Unpack a picture and have it encoded; return also the seconds until it was unpacked."""
        started = time.perf_counter()
        others = self._decoding.get(key)
        task = others or asyncio.create_task(self._unpack_in_bounds(data))
        if others is None:
            self._decoding[key] = task
        first = others is None
        self._waiters[task] += 1
        try:
            # Whoever waits may leave: the others still want it.
            pixels = await asyncio.shield(task)
            decode_s = time.perf_counter() - started
            # Whoever came first sends the pixels.
            answer = None if first else await engine.lookup_image(key, group)
            return answer or await engine.encode_image(key, pixels, group), decode_s
        finally:
            self._waiters[task] -= 1
            if not self._waiters[task]:
                del self._waiters[task]
                task.add_done_callback(self._let_go)
            if first:
                # Not before the engine has it: in between, the next request would find it nowhere.
                del self._decoding[key]
            del task, others  # see `encode`

    async def _unpack_in_bounds(self, data: bytes) -> Pixels:
        pixels = await self._unpacking.run(self._unpack, data)
        if self._unpacked_bytes + pixels.nbytes > MAX_UNPACKED_BYTES:
            raise _busy()
        self._unpacked_bytes += pixels.nbytes
        return pixels

    def _let_go(self, task: asyncio.Task[Pixels]) -> None:
        """Take note that nobody wants what a task unpacked any more, or of how it ended."""
        if not task.cancelled() and task.exception() is None:
            self._unpacked_bytes -= task.result().nbytes

    # --- in the threads ---

    def _read(self, url: str) -> tuple[bytes, str]:
        data = self._sources.read(url)
        return data, image_key(data)

    def _unpack(self, data: bytes) -> Pixels:
        return self._preprocess(decode(data, self._limits.max_pixels))


def _first_failure(tasks: Sequence[asyncio.Task[EncodedPicture]]) -> BaseException | None:
    for task in tasks:
        if task.done() and (error := task.exception()) is not None:
            return error
    return None


def _busy() -> RequestError:
    return RequestError(503, "too many pictures wait to be encoded; try again", code="media_busy")
