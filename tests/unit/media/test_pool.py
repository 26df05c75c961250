from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from tercet.core.errors import RequestError
from tercet.media.errors import PictureError
from tercet.media.pool import MediaPool

LONG_S = 30.0


class Gate:
    """A job that blocks its thread until told to go on."""

    def __init__(self) -> None:
        self.open, self.entered, self.ran = threading.Event(), threading.Semaphore(0), 0

    def __call__(self) -> str:
        self.ran += 1
        self.entered.release()
        assert self.open.wait(LONG_S)
        return threading.current_thread().name


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


async def entered(gate: Gate, times: int = 1) -> None:
    for _ in range(times):
        assert await asyncio.to_thread(gate.entered.acquire, timeout=LONG_S)


async def idle(pool: MediaPool) -> None:
    async with asyncio.timeout(LONG_S):
        while pool.under_way:
            await asyncio.sleep(0.005)


async def test_jobs_run_beside_the_loop_and_errors_come_back(gate: Gate) -> None:
    pool = MediaPool("m", 2, 2, LONG_S)
    waiting = asyncio.create_task(pool.run(gate))
    await entered(gate)
    assert await pool.run(divmod, 7, 2) == (3, 1), "one blocked thread is not all"
    with pytest.raises(PictureError, match="why"):
        await pool.run(_refuse, "why")
    gate.open.set()
    assert (await waiting).startswith("m-")
    await idle(pool)
    pool.close()


async def test_a_full_queue_is_a_503(gate: Gate) -> None:
    pool = MediaPool("m", 1, 2, LONG_S)
    tasks = [asyncio.create_task(pool.run(gate)) for _ in range(3)]
    await entered(gate)
    with pytest.raises(RequestError) as caught:
        await pool.run(gate)
    assert (caught.value.status, caught.value.code) == (503, "media_busy")
    gate.open.set()
    assert len(await asyncio.gather(*tasks)) == 3
    await idle(pool)
    assert await pool.run(int, "5") == 5
    pool.close()


async def test_a_job_that_waits_too_long_is_a_503_and_one_that_takes_too_long_is_not(gate: Gate) -> None:
    pool = MediaPool("m", 1, 5, 1.5)
    await pool.run(int)
    first = asyncio.create_task(pool.run(gate))
    await entered(gate)
    second = asyncio.create_task(pool.run(gate))
    with pytest.raises(PictureError, match=r"not loaded within 1\.5 s"):
        await first
    with pytest.raises(RequestError) as caught:
        await second
    assert caught.value.status == 503
    gate.open.set()
    await idle(pool)
    assert gate.ran == 1, "a job whose waiter has gone is not begun"
    pool.close()


async def test_cancelling_takes_a_job_out_of_the_queue(gate: Gate) -> None:
    pool = MediaPool("m", 1, 5, LONG_S)
    running, waiting = asyncio.create_task(pool.run(gate)), asyncio.create_task(pool.run(gate))
    await entered(gate)
    for task in (running, waiting):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    gate.open.set()
    await idle(pool)
    assert gate.ran == 1
    pool.close()


async def test_closing_ends_the_threads() -> None:
    pool = MediaPool("ending", 3, 0, LONG_S)
    await pool.run(int)
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("ending-")]
    assert len(threads) == 3
    pool.close()
    for thread in threads:
        await asyncio.to_thread(thread.join, LONG_S)
        assert not thread.is_alive()


async def test_a_blocking_pool_holds_up_the_loop() -> None:
    pool = MediaPool("m", 2, 2, LONG_S, blocking=True)
    assert await pool.run(threading.current_thread) is threading.current_thread()
    with pytest.raises(PictureError):
        await pool.run(_refuse, "why")
    pool.close()


def _refuse(why: str) -> None:
    raise PictureError(why)
