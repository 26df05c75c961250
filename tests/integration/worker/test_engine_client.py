"""The front's side of an engine, with a real engine process whose executor is a stub."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from tercet.core.errors import RequestError
from tercet.core.sampling import SamplingParams
from tercet.worker.config import EngineConfig
from tercet.worker.engine_client import EngineClient
from tercet.worker.wire import Delta, Submission
from tests.integration.worker.processes import alive, segments, topology
from tests.integration.worker.stub import HANGS, RAISES

TOPOLOGY = topology("client")
COMMAND = (sys.executable, "-m", "tests.integration.worker.stub", "engine")
CONFIG = EngineConfig(
    worker="w",
    rank=0,
    model_dir="unused",
    random_weights=True,
    engine="tercet",
    gpu=None,
    gpu_slowdown=1.0,
    dtype="fp32",
    device="cpu",
    host="127.0.0.1",
    block_size=16,
    kv_blocks=0,
    max_num_seqs=8,
    max_num_batched_tokens=64,
    max_model_len=1000,
    transports=("shm", "tcp"),
    lease_s=30.0,
    topology_id=TOPOLOGY,
    eos_token_ids=(),
    vocab_size=100,
)


class Collected:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.deltas: list[Delta] = []
        self.fails = False

    def token(self, token: int, now: float) -> None:
        self.tokens.append(token)
        if self.fails:
            raise ValueError("a sink's fault")

    def delta(self, delta: Delta, now: float) -> None:
        self.deltas.append(delta)
        if delta.sampled is not None:
            self.tokens.append(delta.sampled.token)

    @property
    def ended(self) -> bool:
        return bool(self.deltas) and self.deltas[-1].ends


async def until(check: Callable[[], object], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not check():
            await asyncio.sleep(0.005)


def item(client: EngineClient, length: int = 1, *, tokens: int = 5, hold: bool = False) -> Submission:
    sampling = SamplingParams(max_tokens=tokens, temperature=0.0)
    return Submission(client.next_id(), (5,) * length, sampling, b"root", hold=hold)


@asynccontextmanager
async def running(stall_s: float = 60.0) -> AsyncIterator[EngineClient]:
    client = EngineClient(CONFIG, b"s" * 32, command=COMMAND, stall_s=stall_s)
    client.start()
    try:
        await until(lambda: client.ready)
        yield client
    finally:
        await client.close()
        assert not segments(TOPOLOGY)


async def test_tokens_come_in_order_and_end() -> None:
    async with running() as client:
        sink = Collected()
        await client.submit(item(client, tokens=30), sink)
        await until(lambda: sink.ended)
        assert len(sink.tokens) == 30 and sink.deltas[-1].finish_reason == "length"
        assert sink.deltas[0].origin is not None and len(sink.deltas) == 2, "what is between is plain"
        assert client.in_flight == 0


async def test_cancelled_sequences_are_forgotten_on_both_sides() -> None:
    async with running() as client:
        sink = Collected()
        await client.submit(submitted := item(client, 100, tokens=800), sink)
        await until(lambda: len(sink.tokens) > 3)
        client.cancel(submitted.id)
        got = len(sink.tokens)
        await until(lambda: client.stats["blocks_in_use"] == 0)
        assert len(sink.tokens) == got and client.in_flight == 0


async def test_a_ticket_that_nobody_waits_for_is_released() -> None:
    async with running() as client:
        for delay in (0.0, 0.005, 0.015, 0.02, 0.025, 0.03):
            await client.submit(submitted := item(client, 40, hold=True), sink := Collected())
            await asyncio.sleep(delay)
            client.cancel(submitted.id)
            ticket = sink.deltas[-1].ticket if sink.deltas else None
            if ticket is not None:
                client.release(ticket["ticket_id"])
        await until(lambda: client.stats["blocks_in_use"] == 0 and client.stats["running"] == 0)
        assert client.stats["handoffs"]["expired"] == 0


async def test_an_engine_that_hangs_is_replaced() -> None:
    async with running(stall_s=2.0) as client:
        sinks = [Collected(), Collected()]
        await client.submit(item(client, 3, tokens=900), sinks[0])
        pid = client.pid
        assert pid is not None
        started = time.monotonic()
        await client.submit(item(client, HANGS), sinks[1])
        await until(lambda: all(sink.ended for sink in sinks))
        assert time.monotonic() - started < 25
        refusals = [sink.deltas[-1].refusal for sink in sinks]
        assert all(r is not None and r.status == 500 and "hung" in r.message for r in refusals)
        await until(lambda: not alive(pid))
        with pytest.raises(RequestError) as caught:
            await client.submit(item(client), Collected())
        assert caught.value.status == 503
        await until(lambda: client.ready)
        assert client.restarts == 1 and client.pid != pid


async def test_an_idle_engine_does_not_look_hung() -> None:
    async with running(stall_s=2.0) as client:
        await asyncio.sleep(3.0)
        assert client.ready and client.restarts == 0


async def test_an_engine_that_stood_still_with_its_front_is_not_replaced() -> None:
    async with running(stall_s=2.0) as client:
        assert client.pid is not None
        os.kill(client.pid, signal.SIGSTOP)
        time.sleep(3.0)  # as if the machine paused
        os.kill(client.pid, signal.SIGCONT)
        await asyncio.sleep(2.5)
        assert client.ready and client.restarts == 0


async def test_one_sinks_fault_is_its_own() -> None:
    async with running() as client:
        bad, good = Collected(), Collected()
        bad.fails = True
        await client.submit(item(client, tokens=10), bad)
        await client.submit(item(client, tokens=10), good)
        await until(lambda: good.ended and bad.ended)
        assert len(good.tokens) == 10 and len(bad.tokens) == 2
        refusal = bad.deltas[-1].refusal
        assert refusal is not None and refusal.code == "internal_error"
        assert client.in_flight == 0 and client.restarts == 0


async def test_closing_fails_what_is_under_way() -> None:
    sink = Collected()
    async with running() as client:
        await client.submit(item(client, tokens=900), sink)
        await until(lambda: sink.tokens)
        pid = client.pid
        assert pid is not None
    assert sink.deltas[-1].refusal is not None and sink.deltas[-1].refusal.status == 503
    assert not alive(pid)
    with pytest.raises(RequestError):
        await client.submit(item(client), Collected())


async def test_closing_while_an_engine_ends() -> None:
    async with running() as client:
        sink = Collected()
        await client.submit(item(client, RAISES), sink)
        await until(lambda: sink.ended)
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.1, 0.3])
async def test_closing_while_starting(delay: float) -> None:
    client = EngineClient(CONFIG, b"s" * 32, command=COMMAND)
    client.start()
    await asyncio.sleep(delay)
    pid = client.pid
    await asyncio.wait_for(client.close(), 30)
    assert pid is None or not alive(pid)
    assert not segments(TOPOLOGY)


async def test_a_command_that_fails_at_once_is_final() -> None:
    client = EngineClient(CONFIG, b"s" * 32, command=(sys.executable, "-c", "import sys; sys.exit(3)"))
    client.start()
    await until(lambda: client.failure)
    assert client.failure is not None and "code 3" in client.failure
    await client.close()


async def test_resetting_the_cache() -> None:
    async with running() as client:
        await client.submit(item(client, 50, tokens=2), sink := Collected())
        await until(lambda: sink.ended and client.stats["blocks_cached"] > 0)
        assert await client.reset_cache() is True
        await until(lambda: client.stats["blocks_cached"] == 0)
        await client.submit(item(client, 50, tokens=500), sink := Collected())
        await until(lambda: sink.tokens)
        assert await client.reset_cache() is False, "some are in use"
