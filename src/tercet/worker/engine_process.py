"""The engine process: builds executor, scheduler and transfers, then loops. Started by a front, one per rank."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import NoReturn

from setproctitle import setproctitle

from tercet.core.errors import TercetError
from tercet.core.ids import new_id
from tercet.core.image_ticket import BLOCK_ROWS
from tercet.engine.executor import KVLayout
from tercet.engine.scheduler import Scheduler, SchedulerConfig
from tercet.transfer.client import HandoffClient
from tercet.transfer.leases import LeaseTable
from tercet.transfer.pool import SharedPool
from tercet.transfer.server import HandoffServer
from tercet.worker.busy import BusyTimes
from tercet.worker.channel import ChannelError, EngineChannel, Message
from tercet.worker.config import EngineConfig
from tercet.worker.encode_service import EncodeService
from tercet.worker.engine_build import EMBEDDINGS, KV, Allocate, EngineParts, build_parts
from tercet.worker.engine_loop import EngineLoop, WakeUp
from tercet.worker.issued_images import IssuedImages
from tercet.worker.issued_tickets import IssuedTickets
from tercet.worker.lease_keeper import LeaseKeeper
from tercet.worker.picture_tickets import PictureTickets
from tercet.worker.process import Device, die_with_parent, end_on_sigterm, parse_device, settle
from tercet.worker.remote_images import RemoteImages
from tercet.worker.remote_tickets import RemoteTickets
from tercet.worker.sequence_service import SequenceService

log = logging.getLogger(__name__)

CONFIG_TIMEOUT_S = 30.0
TEARDOWN_TIMEOUT_S = 5.0

Build = Callable[[EngineConfig, Device, int, Allocate], EngineParts]
"""(config, device, threads, allocate) -> what the engine is made of."""


def serve(config: EngineConfig, secret: bytes, channel: EngineChannel, build: Build = build_parts) -> int:
    """Serve one rank until the front says stop; return the exit code. Raises ChannelError when the front is gone."""
    device = parse_device(config.device)
    threads = settle(device)
    pools: dict[str, SharedPool] = {}
    with ExitStack() as stack:

        def remove_pools() -> None:
            for pool in list(pools.values()):
                pool.close()

        end_on_sigterm(remove_pools)
        stack.callback(remove_pools)

        def allocate(nbytes: int, what: str) -> memoryview:
            # With the process id: workers started by hand may share their default name.
            owner = f"{config.worker}@{config.rank}.{os.getpid()}.{what}"
            pools[what] = SharedPool.create(config.topology_id, owner, nbytes)
            if config.touch_pool:
                pools[what].touch()
            return pools[what].memory

        parts = build(config, device, threads, allocate)
        for part in (parts.executor, parts.encoder):
            if part is not None:
                stack.callback(part.close)
        loop, hello = _assemble(config, secret, channel, parts, pools, stack)
        channel.send(hello)
        try:
            loop.run()
        except ChannelError:
            raise
        except Exception as error:
            # Said before anything is torn down: the front fails all requests now, and starts another engine.
            log.exception("a step of %s@%d failed; this engine ends", config.worker, config.rank)
            channel.send({"op": "fatal", "why": f"{type(error).__name__}: {error}"})
            return 1
        finally:
            _limit_teardown()
        return 0


def _assemble(
    config: EngineConfig,
    secret: bytes,
    channel: EngineChannel,
    parts: EngineParts,
    pools: dict[str, SharedPool],
    stack: ExitStack,
) -> tuple[EngineLoop, Message]:
    """Put an engine together around its parts; return its loop, and what it tells the front of itself."""
    wake, busy, engine_id, clock = WakeUp(), BusyTimes(), new_id("engine"), time.monotonic
    store, executor = parts.store, parts.executor

    def export(pool: SharedPool, block_bytes: int) -> tuple[HandoffServer, LeaseTable]:
        leases = LeaseTable()
        server = HandoffServer(
            leases,
            pool,
            block_bytes,
            engine_id=engine_id,
            transports=config.transports,
            secret=secret,
            host=config.host,
            lease_s=config.lease_s,
            wake=wake.set,
        )
        stack.callback(server.close)
        return server, leases

    issued_images = sequences = encoding = None
    if store is not None and EMBEDDINGS in pools:
        server, leases = export(pools[EMBEDDINGS], store.layout.block_bytes)
        issued_images = IssuedImages(engine_id, config.rank, store, server, leases, config.lease_s)
    if executor is not None:
        layout = executor.layout
        server, leases = export(pools[KV], layout.block_bytes)
        client = HandoffClient(transports=config.transports, secret=secret, host=config.host)
        stack.callback(client.close)
        keeper = LeaseKeeper(client)
        stack.callback(keeper.close)
        remote = RemoteTickets(client, keeper, executor.pool, layout.block_bytes, wake.set)
        stack.callback(remote.close)
        pictures = None
        if store is not None:
            remote_images = RemoteImages(client, keeper, store.memory, store.layout.block_bytes, wake.set)
            stack.callback(remote_images.close)
            pictures = PictureTickets(store, remote_images, issued_images)
        sequences = SequenceService(
            executor=executor,
            scheduler=Scheduler(_limits(config, layout), None if store is None else store.pool),
            issued=IssuedTickets(engine_id, config.rank, layout, server, leases, config.lease_s),
            remote=remote,
            pictures=pictures,
            busy=busy,
            send=channel.send,
            clock=clock,
        )
    if parts.encoder is not None and store is not None and issued_images is not None:
        encoding = EncodeService(parts.encoder, store, issued_images, busy, channel.send, clock)
    loop = EngineLoop(
        channel=channel,
        wake=wake,
        busy=busy,
        sequences=sequences,
        encoding=encoding,
        store=store,
        issued_images=issued_images,
        clock=clock,
    )
    hello = {
        "op": "hello",
        "engine_id": engine_id,
        "fingerprint": "" if executor is None else executor.layout.fingerprint,
        "embedding_tokens": None if store is None else store.pool.num_blocks * BLOCK_ROWS if store.pool.keep else 0,
        "kv_tokens": 0 if executor is None else executor.layout.num_blocks * executor.layout.block_size,
    }
    return loop, hello


def _limits(config: EngineConfig, layout: KVLayout) -> SchedulerConfig:
    return SchedulerConfig(
        num_blocks=layout.num_blocks,
        block_size=layout.block_size,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_model_len=config.max_model_len,
        lease_s=config.lease_s,
        eos_token_ids=frozenset(config.eos_token_ids),
    )


def main(build: Build = build_parts) -> NoReturn:
    """Serve what the front asks for, then end. Arguments: the descriptor of the channel, the front's process id."""
    # The terminal's Ctrl-C goes to the whole process group: the front decides when its engines end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(int(sys.argv[2]))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    channel = EngineChannel(socket.socket(fileno=int(sys.argv[1])))
    try:
        code = _run(channel, build)
    except Exception:
        log.exception("the engine failed")
        code = 1
    channel.close()
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything of ours is closed; taking torch's modules apart would take another second.
    os._exit(code)


def _run(channel: EngineChannel, build: Build) -> int:
    try:
        start = _first_message(channel)
        config = EngineConfig.from_json(start["config"])
        setproctitle(f"tercet engine {config.worker}@{config.rank}")
        return serve(config, start["secret"], channel, build)
    except ChannelError as error:
        log.info("engine ends: %s", error)
        return 1
    except TercetError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _first_message(channel: EngineChannel) -> Message:
    waiting = select.poll()
    waiting.register(channel, select.POLLIN)
    if not waiting.poll(CONFIG_TIMEOUT_S * 1000):
        raise ChannelError("the front sent no configuration")
    messages = channel.receive()
    if len(messages) != 1 or messages[0]["op"] != "start":
        raise ChannelError("the front did not begin with a configuration")
    return messages[0]


def _limit_teardown() -> None:
    """Give what is closed from here on a few seconds: a thread that does not end must not keep the process."""

    def give_up() -> None:
        log.error("the engine's threads did not end in %g s", TEARDOWN_TIMEOUT_S)
        signal.raise_signal(signal.SIGTERM)

    timer = threading.Timer(TEARDOWN_TIMEOUT_S, give_up)
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    main()
