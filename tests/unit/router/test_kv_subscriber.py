"""The router's ear for KV events, before a real ZeroMQ publisher."""

from __future__ import annotations

import msgpack
import pytest
import zmq
import zmq.asyncio

from tercet.core.errors import UsageError
from tercet.core.stage import Stage
from tercet.router.kv_subscriber import KvSubscriber
from tercet.router.named_worker import EventPort
from tercet.routing.events import CacheCleared, WorkerAdded
from tercet.routing.facts import completion_facts
from tercet.routing.fleet import FleetState
from tests.ports import free_port
from tests.unit.router.fake_worker import FakeWorker
from tests.unit.router.harness import routing, until
from tests.unit.routing.test_kv_events import NO_BATCHES

IDS = list(range(128))


def stored(name: bytes, parent: bytes | None, tokens: list[int]) -> bytes:
    event = {"type": "BlockStored", "block_hashes": [name], "parent_block_hash": parent, "token_ids": tokens}
    data: bytes = msgpack.packb([0.0, [{**event, "block_size": 64, "lora_id": None, "medium": "GPU"}], 0])
    return data


async def test_the_fleet_learns_what_an_engine_holds_and_forgets_after_a_gap() -> None:
    context = zmq.asyncio.Context()
    publisher = context.socket(zmq.XPUB)  # like PUB, but says when somebody listens
    port = publisher.bind_to_random_port("tcp://127.0.0.1")
    fleet = FleetState()
    fleet.apply(WorkerAdded("http://127.0.0.1:1", frozenset({Stage.PREFILL, Stage.DECODE}), 1))
    (rank,) = fleet.ranks.values()
    facts = completion_facts({"model": "m", "prompt": IDS}, None, 0.25)
    subscriber = KvSubscriber(fleet, {rank.url: EventPort(port)})
    subscriber.start()

    def held() -> int:
        return fleet.holding(facts, rank, None).held

    async def publish(number: int, payload: bytes) -> None:
        await publisher.send_multipart([b"", number.to_bytes(8, "big"), payload])

    try:
        await publisher.recv()
        await publish(0, stored(b"a", None, IDS[:64]))
        await until(lambda: held() == 64)
        await publish(1, stored(b"b", b"a", IDS[64:]))
        await until(lambda: held() == 128)
        assert fleet.told_blocks(rank.address) == 2
        fleet.apply(CacheCleared())  # the engine was told to; idle, it says nothing yet
        assert held() == fleet.told_blocks(rank.address) == 0
        await publish(3, stored(b"c", None, [7] * 64))  # 2 was missed
        await until(lambda: held() == 0)
        await publish(4, stored(b"a", None, IDS[:64]))
        await until(lambda: held() == 64)
        await publish(0, stored(b"d", None, [8] * 64))  # a restarted engine
        await until(lambda: held() == 0)
        await publish(1, stored(b"a", None, IDS[:64]))
        await until(lambda: held() == 64)
        await publish(2, b"nonsense")
        await until(lambda: held() == 0)
        for nonsense in NO_BATCHES:
            await publish(0, stored(b"a", None, IDS[:64]))
            await until(lambda: held() == 64)  # it still listens
            await publish(1, nonsense)
            await until(lambda: held() == 0)
        await publish(0, stored(b"a", None, IDS[:64]))
        await until(lambda: held() == 64)
        await publisher.send_multipart([b"", b"\xff" * 9000, stored(b"a", None, IDS[:64])])
        await until(lambda: held() == 0)
    finally:
        await subscriber.close()
        context.destroy(linger=0)


async def test_workers_may_bring_their_events_to_ports_of_this_machine() -> None:
    port = free_port(2)
    fleet = FleetState()
    fleet.apply(WorkerAdded("http://127.0.0.1:1", frozenset({Stage.PREFILL, Stage.DECODE}), 2))
    facts = completion_facts({"model": "m", "prompt": IDS}, None, 0.25)
    subscriber = KvSubscriber(fleet, {"http://127.0.0.1:1": EventPort(port, here=True)})
    subscriber.start()
    context = zmq.asyncio.Context()
    publisher = context.socket(zmq.XPUB)
    publisher.connect(f"tcp://127.0.0.1:{port + 1}")
    try:
        await publisher.recv()
        await publisher.send_multipart([b"", bytes(8), stored(b"a", None, IDS[:64])])
        ranks = list(fleet.ranks.values())
        await until(lambda: [fleet.holding(facts, rank, None).held for rank in ranks] == [0, 64])
        with pytest.raises(UsageError, match="can't listen for the KV events of A0"):
            KvSubscriber(fleet, {"http://127.0.0.1:1": EventPort(port, here=True)}).start()
    finally:
        await subscriber.close()
        context.destroy(linger=0)


async def test_a_worker_that_joins_late_is_listened_to_until_it_has_left() -> None:
    context = zmq.asyncio.Context()
    publisher = context.socket(zmq.XPUB)
    port = publisher.bind_to_random_port("tcp://127.0.0.1")
    try:
        async with routing("A", "aggregated") as setup:
            worker = await FakeWorker("A", setup.tickets).start()
            setup.workers.append(worker)
            got = await setup.post("/workers", {"url": f"{worker.url}#events={port}", "role": "worker"})
            assert got.status == 201 and got.json["url"] == worker.url
            assert await publisher.recv() == b"\x01"
            await publisher.send_multipart([b"", bytes(8), stored(b"a", None, IDS[:64])])
            await until(lambda: setup.router.parts.fleet.told_blocks(worker.url) == 1)
            assert (await setup.send("DELETE", "/workers/A1")).status == 202
            assert await publisher.recv() == b"\x00"
    finally:
        context.destroy(linger=0)
