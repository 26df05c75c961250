"""The front of a worker: HTTP in, tokens to the engines, answers out. Needs no torch."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import uvloop
from setproctitle import setproctitle

from tercet.core.errors import MissingExtraError, TercetError, UsageError
from tercet.core.secret import SECRET_VARIABLE, key_of_workers, take_secret
from tercet.core.stage import Stage
from tercet.engine.models.store import ModelFolder, random_model_folder, resolve
from tercet.http.server import Server
from tercet.text.image_token import image_token
from tercet.text.tokenizer import Tokenizer, load_tokenizer
from tercet.worker.config import EngineConfig, WorkerConfig
from tercet.worker.endpoints import Endpoints
from tercet.worker.engine_child import ENGINE_COMMAND
from tercet.worker.engine_client import EngineClient
from tercet.worker.process import parse_device

if TYPE_CHECKING:
    from tercet.worker.pictures import Pictures

log = logging.getLogger(__name__)

GRACE_S = 3.0
"""What requests under way get when the worker is told to end; what is left then is answered with an error."""
CLOSE_S = 0.5
LOOK_S = 0.5


def engine_configs(config: WorkerConfig, folder: ModelFolder, tokenizer: Tokenizer) -> list[EngineConfig]:
    """Return the settings of each rank's engine. Raises UsageError for a device that this machine lacks."""
    for device in config.devices:
        parse_device(device)
    return [
        EngineConfig(
            worker=config.name,
            rank=rank,
            model_dir=str(folder.path),
            random_weights=config.random_weights is not None,
            engine=config.engine,
            gpu=config.gpu,
            gpu_slowdown=config.gpu_slowdown,
            dtype=config.dtype,
            device=device,
            host=config.host,
            block_size=config.block_size,
            kv_blocks=config.kv_blocks,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
            max_model_len=max_model_len(config, folder),
            transports=config.transports(),
            lease_s=config.lease_s,
            # A worker that only decodes gets every prompt by transfer: its first ones must not wait for page faults.
            touch_pool=Stage.PREFILL not in config.stages,
            topology_id=config.topology_id,
            eos_token_ids=tuple(sorted(tokenizer.eos_token_ids)),
            vocab_size=tokenizer.vocab_size,
            stages=tuple(sorted(config.stages)),
            embedding_cache_bytes=config.embedding_cache_bytes,
        )
        for rank, device in enumerate(config.devices)
    ]


def max_model_len(config: WorkerConfig, folder: ModelFolder) -> int:
    """Return the longest sequence in tokens: what was asked for, cut to what the model's positions allow."""
    text = folder.config.get("text_config", folder.config)
    return min(config.max_model_len, int(text.get("max_position_embeddings", config.max_model_len)))


def load_pictures(config: WorkerConfig, folder: ModelFolder) -> Pictures | None:
    """Return what loads clients' pictures, when this worker encodes. Raises UsageError, MissingExtraError."""
    if Stage.ENCODE not in config.stages:
        return None
    if image_token(folder.config) is None:
        raise UsageError(f"the encode stage needs a model that sees; {folder.name} takes text only")
    try:
        from tercet.media.preprocess import load_preprocessing
        from tercet.worker.pictures import Pictures
    except ImportError as error:
        raise MissingExtraError("vision", "the encode stage") from error
    return Pictures(config.media_limits(), load_preprocessing(folder.path), blocking=config.blocking_image_loading)


async def serve(
    config: WorkerConfig, folder: ModelFolder, secret: bytes, command: Sequence[str], grace_s: float = GRACE_S
) -> int:
    """Run a worker until SIGINT or SIGTERM; return the exit code. Raises UsageError."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    tokenizer = load_tokenizer(folder.path)
    engines = [EngineClient(c, secret, command=command) for c in engine_configs(config, folder, tokenizer)]
    pictures = load_pictures(config, folder)
    endpoints = Endpoints(
        config,
        engines,
        tokenizer,
        model=config.served_model_name or folder.name,
        max_model_len=max_model_len(config, folder),
        pictures=pictures,
        picture_figures=pictures.figures if pictures is not None else None,
        worker_key=key_of_workers(secret) if config.require_secret else None,
    )
    server = Server(
        endpoints.handle,
        host=config.host,
        port=config.port,
        max_body_bytes=config.max_body_bytes,
        before_long=endpoints.before_long,
    )
    try:
        await server.start()
    except OSError as error:
        raise UsageError(
            f"can't listen on {config.host}:{config.port}: {error.strerror}; choose another --port, or --host"
        ) from error
    log.info("worker %s listens on http://%s:%d", config.name, config.host, server.port)
    try:
        for engine in engines:
            engine.start()
        return await _watch(config, engines, stop)
    finally:
        await _end(config, server, engines, grace_s)
        if pictures is not None:
            pictures.close()


async def _watch(config: WorkerConfig, engines: Sequence[EngineClient], stop: asyncio.Event) -> int:
    """Return 0 when the worker is told to stop, 1 when an engine can't be started."""
    while True:
        try:
            await asyncio.wait_for(stop.wait(), LOOK_S)
            return 0
        except TimeoutError:
            failure = next((engine.failure for engine in engines if engine.failure), None)
        if failure is not None:
            log.error("worker %s can't start: %s", config.name, failure)
            return 1


async def _end(config: WorkerConfig, server: Server, engines: Sequence[EngineClient], grace_s: float) -> None:
    closing = asyncio.create_task(server.close(grace_s + CLOSE_S))
    await asyncio.wait({closing}, timeout=grace_s)
    for engine in engines:
        engine.refuse(f"worker {config.name} is stopping")
    await closing
    await asyncio.gather(*(engine.close() for engine in engines))


def run(config: WorkerConfig, *, engine_command: Sequence[str] = ENGINE_COMMAND, grace_s: float = GRACE_S) -> int:
    """Run a worker in this process, in the thread that lasts as long as it: engines die with that. Return its exit
    code."""
    setproctitle(f"tercet worker {config.name}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        secret = take_secret()
        if secret is None and config.require_secret:
            raise UsageError(f"--require-secret needs the topology's secret in {SECRET_VARIABLE}, as its router has it")
        secret = secret or secrets.token_bytes(32)
        # Before there is an event loop: a download can take minutes, and signals must end it.
        folder = (
            random_model_folder(config.random_weights, config.cache_dir)
            if config.random_weights
            else resolve(config.model, config.cache_dir)
        )
        code: int = uvloop.run(serve(config, folder, secret, engine_command, grace_s))
        return code
    except TercetError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
