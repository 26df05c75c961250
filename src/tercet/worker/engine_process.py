"""The engine process: builds executor, scheduler and transfers, then loops. Started by a front, one per rank."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from setproctitle import setproctitle

from tercet.core.errors import TercetError
from tercet.core.ids import new_id
from tercet.engine.executor import Executor
from tercet.engine.scheduler import Scheduler, SchedulerConfig
from tercet.transfer.client import HandoffClient
from tercet.transfer.leases import LeaseTable
from tercet.transfer.pool import SharedPool
from tercet.transfer.server import HandoffServer
from tercet.worker.channel import ChannelError, EngineChannel, Message
from tercet.worker.config import EngineConfig
from tercet.worker.engine_loop import EngineLoop, WakeUp
from tercet.worker.issued_tickets import IssuedTickets
from tercet.worker.process import Device, die_with_parent, end_on_sigterm, parse_device, settle
from tercet.worker.remote_tickets import RemoteTickets

log = logging.getLogger(__name__)

CPU_KV_BYTES = 256 * 1024 * 1024
"""Default size of a pool on a CPU: 11,000 tokens of SmolLM2 in bf16, and a rank stays below 1.2 GB."""
CONFIG_TIMEOUT_S = 30.0
TEARDOWN_TIMEOUT_S = 5.0

Allocate = Callable[[int], memoryview]
Build = Callable[[EngineConfig, Device, int, Allocate], Executor]
"""(config, device, threads, allocate) -> executor; `allocate(nbytes)` gives the pool's memory, once."""


def build_executor(config: EngineConfig, device: Device, threads: int, allocate: Allocate) -> Executor:
    """Return the executor that the configuration names. Raises UsageError."""
    if config.engine == "virtual":
        from tercet.engine.models.folder import read_config
        from tercet.engine.virtual_executor import build_virtual_executor
        from tercet.latency.gpus import named_oracle
        from tercet.latency.model_size import model_size

        folder = Path(config.model_dir)
        size = model_size(read_config(folder / "config.json"), config.dtype)
        return build_virtual_executor(
            named_oracle(config.gpu or "", size).slowed(config.gpu_slowdown),
            model_dir=folder,
            dtype=config.dtype,
            block_size=config.block_size,
            num_blocks=config.kv_blocks,
            vocab_size=config.vocab_size,
            eos_token_ids=frozenset(config.eos_token_ids),
            pool_factory=allocate,
        )
    from tercet.engine.torch_executor import build_torch_executor

    return build_torch_executor(
        Path(config.model_dir),
        dtype=config.dtype,
        device=device.name if device.kind == "cuda" else "cpu",
        block_size=config.block_size,
        num_blocks=config.kv_blocks,
        kv_bytes=CPU_KV_BYTES if device.kind == "cpu" else 0,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_model_len=config.max_model_len,
        threads=threads,
        pool_factory=allocate,
        random_weights=config.random_weights,
    )


def serve(config: EngineConfig, secret: bytes, channel: EngineChannel, build: Build = build_executor) -> int:
    """Serve one rank until the front says stop; return the exit code. Raises ChannelError when the front is gone."""
    device = parse_device(config.device)
    threads = settle(device)
    pools: list[SharedPool] = []
    with ExitStack() as stack:

        def remove_pools() -> None:
            for pool in pools:
                pool.close()

        end_on_sigterm(remove_pools)
        stack.callback(remove_pools)

        def allocate(nbytes: int) -> memoryview:
            # With the process id: workers started by hand may share their default name.
            owner = f"{config.worker}@{config.rank}.{os.getpid()}"
            pools.append(SharedPool.create(config.topology_id, owner, nbytes))
            if config.touch_pool:
                pools[-1].touch()
            return pools[-1].memory

        executor = build(config, device, threads, allocate)
        stack.callback(executor.close)
        layout = executor.layout
        scheduler = Scheduler(
            SchedulerConfig(
                num_blocks=layout.num_blocks,
                block_size=layout.block_size,
                max_num_seqs=config.max_num_seqs,
                max_num_batched_tokens=config.max_num_batched_tokens,
                max_model_len=config.max_model_len,
                lease_s=config.lease_s,
                eos_token_ids=frozenset(config.eos_token_ids),
            )
        )
        leases, wake, engine_id = LeaseTable(), WakeUp(), new_id("engine")
        server = HandoffServer(
            leases,
            pools[0],
            layout.block_bytes,
            engine_id=engine_id,
            transports=config.transports,
            secret=secret,
            host=config.host,
            lease_s=config.lease_s,
            wake=wake.set,
        )
        stack.callback(server.close)
        client = HandoffClient(transports=config.transports, secret=secret)
        stack.callback(client.close)
        remote = RemoteTickets(client, executor.pool, layout.block_bytes, wake.set)
        stack.callback(remote.close)
        loop = EngineLoop(
            executor=executor,
            scheduler=scheduler,
            channel=channel,
            issued=IssuedTickets(engine_id, config.rank, layout, server, leases, config.lease_s),
            remote=remote,
            wake=wake,
        )
        kv_tokens = layout.num_blocks * layout.block_size
        hello = {"op": "hello", "engine_id": engine_id, "fingerprint": layout.fingerprint, "kv_tokens": kv_tokens}
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


def main(build: Build = build_executor) -> NoReturn:
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
