"""Threads for what would hold up the event loop: fetching, decoding, resizing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

from tercet.core.errors import RequestError
from tercet.media.errors import PictureError

P = ParamSpec("P")
T = TypeVar("T")

Job = Callable[[], None]


class MediaPool:
    """A few threads behind a queue of bounded length.

    They are daemons: a process that ends does not wait for a server that answers slowly, as it would for the threads
    of the standard library's executor. `blocking` runs everything on the event loop itself, as some servers do: only
    to measure what that costs.
    """

    def __init__(self, name: str, threads: int, queue: int, timeout_s: float, *, blocking: bool = False) -> None:
        self._room = threads + queue
        self._timeout_s = timeout_s
        self._blocking = blocking
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._under_way = 0
        self._threads = [] if blocking else [self._thread(f"{name}-{i}") for i in range(threads)]

    @property
    def under_way(self) -> int:
        """Jobs that wait or run, those included that nobody waits for any more."""
        return self._under_way

    async def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the job's result.

        Raises RequestError 503 when the queue is full or the job did not get its turn within `timeout_s`, and
        PictureError when it got it and was not done. Cancelling takes a job that has not begun out of the queue; one
        that has runs to its end, unheard.
        """
        if self._blocking:
            return job(*args, **kwargs)
        with self._lock:
            if self._under_way >= self._room:
                raise _busy()
            self._under_way += 1
        future: Future[T] = Future()
        self._jobs.put(partial(self._do, future, partial(job, *args, **kwargs)))
        done = asyncio.wrap_future(future)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(done)
        except TimeoutError:
            if future.cancel():
                raise _busy() from None
            raise PictureError(f"not loaded within {self._timeout_s:g} s") from None
        finally:
            done.cancel()  # and with it a job that waits
            del future, done  # they lead to the error whose traceback leads here, and holds the picture

    def close(self) -> None:
        """Let the threads end, each after the job it is at."""
        for _ in self._threads:
            self._jobs.put(None)

    def _thread(self, name: str) -> threading.Thread:
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        thread.start()
        return thread

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _do(self, future: Future[T], job: Callable[[], T]) -> None:
        try:
            if future.set_running_or_notify_cancel():
                try:
                    result = job()
                except PictureError as error:
                    # A new one: the frames that this one came through hold the picture.
                    future.set_exception(PictureError(str(error)))
                except BaseException as error:  # noqa: BLE001 - the waiter judges it
                    future.set_exception(error)
                else:
                    future.set_result(result)
        finally:
            del future, job  # as above
            with self._lock:
                self._under_way -= 1


def _busy() -> RequestError:
    return RequestError(503, "too many pictures are being loaded; try again", code="media_busy")
