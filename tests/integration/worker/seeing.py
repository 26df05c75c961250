"""Engines of a model that sees, spoken to as a front does, without a front."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tercet.core.hashing import root_hash
from tercet.core.image import ImageInput, ImageSpan
from tercet.core.image_ticket import ImageTicket
from tercet.core.sampling import SamplingParams
from tercet.core.ticket import Ticket
from tercet.engine.encoder import Pixels
from tercet.worker.config import EngineConfig
from tercet.worker.encoded_picture import PictureGroup
from tercet.worker.engine_client import EngineClient
from tercet.worker.wire import Delta, ImageAnswer, Refusal, Submission
from tests.integration.worker.processes import segments, topology

SECRET = b"s" * 32
TOPOLOGY = topology("seeing")
PICTURE_TOKENS = 16
"""Of tiny-llava, whose pictures are 32 pixels wide."""
PLACEHOLDER = 259


def config(folder: Path, *stages: str, **changes: Any) -> EngineConfig:
    """Return the settings of a rank; a virtual GPU unless told otherwise."""
    whole = EngineConfig(
        worker="-".join(stages),
        rank=0,
        model_dir=str(folder),
        random_weights=True,
        engine="virtual",
        gpu="h100",
        gpu_slowdown=1.0,
        dtype="fp32",
        device="cpu",
        host="127.0.0.1",
        block_size=16,
        kv_blocks=256,
        max_num_seqs=16,
        max_num_batched_tokens=128,
        max_model_len=1000,
        transports=("shm", "tcp"),
        lease_s=30.0,
        topology_id=TOPOLOGY,
        eos_token_ids=(),
        vocab_size=250,
        stages=stages,
    )
    return replace(whole, **changes)


async def until(check: Callable[[], object], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not check():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(*configs: EngineConfig) -> AsyncIterator[list[EngineClient]]:
    """Run these engines until the block ends; nothing of them may be left then."""
    clients = [EngineClient(each, SECRET) for each in configs]
    try:
        for client in clients:
            client.start()
        await until(lambda: all(client.ready for client in clients), 120.0)
        yield clients
    finally:
        for client in clients:
            await client.close()
        assert not segments(TOPOLOGY)


class Collected:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.deltas: list[Delta] = []
        self.ended = asyncio.Event()

    def token(self, token: int, now: float) -> None:
        self.tokens.append(token)

    def delta(self, delta: Delta, now: float) -> None:
        self.deltas.append(delta)
        if delta.sampled is not None:
            self.tokens.append(delta.sampled.token)
        if delta.ends:
            self.ended.set()

    @property
    def refusal(self) -> Refusal | None:
        return self.deltas[-1].refusal if self.deltas else None

    @property
    def ticket(self) -> Ticket:
        params = self.deltas[-1].ticket
        assert params is not None, self.deltas
        return Ticket.from_params(params)


def key_of(name: object) -> str:
    return hashlib.sha256(repr(name).encode()).hexdigest()


def pixels_of(name: object) -> Pixels:
    """Return a picture: noise, as every name has its own."""
    seed = int(key_of(name)[:8], 16)
    return np.random.default_rng(seed).standard_normal((3, 32, 32), np.float32)


async def encode(client: EngineClient, name: object, readers: int = 1) -> ImageAnswer:
    """Ask as a front does: by key first, with pixels when the engine lacks it."""
    group = PictureGroup(client.next_id(), 1, readers)
    found = await client.lookup_image(key_of(name), group)
    return found or await client.encode_image(key_of(name), pixels_of(name), group)


def prompt(names: Iterable[object], tickets: Iterable[ImageTicket | None] = (), text: int = 7) -> dict[str, Any]:
    """Return tokens and images of a prompt: some text, then a picture, for each name, and text at the end."""
    tokens: list[int] = []
    images: list[ImageInput] = []
    given = list(tickets)
    for number, name in enumerate(names):
        tokens += [10 + number] * text
        span = ImageSpan(key_of(name), len(tokens), PICTURE_TOKENS)
        images.append(ImageInput(span, given[number] if number < len(given) else None))
        tokens += [PLACEHOLDER] * PICTURE_TOKENS
    return {"tokens": (*tokens, 5, 6, 7), "images": tuple(images)}


async def generate(client: EngineClient, *, tokens: tuple[int, ...] = (), count: int = 8, **fields: Any) -> Collected:
    """Run one sequence to its end."""
    sampling = SamplingParams(max_tokens=count, temperature=0.0, ignore_eos=True)
    root = root_hash(client.fingerprint, cache_salt=fields.pop("salt", ""))
    sink = Collected()
    await client.submit(Submission(client.next_id(), tokens, sampling, root, **fields), sink)
    async with asyncio.timeout(60):
        await sink.ended.wait()
    return sink


def image_stats(client: EngineClient) -> dict[str, Any]:
    stats: dict[str, Any] = client.stats["images"]
    return stats


async def settles(client: EngineClient, **figures: int) -> None:
    """Wait until the engine's figures of pictures are these."""
    try:
        await until(lambda: figures.items() <= image_stats(client).items())
    except TimeoutError:
        raise AssertionError(f"{figures} wanted, {image_stats(client)} is what it stays at") from None
