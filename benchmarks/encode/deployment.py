"""A deployment with pictures to measure, its requests, and what an answer's Server-Timing says."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from PIL import Image

from tercet.core.topology import EngineSpec, RouterSpec, Topology, default_mode, parse_short_form
from tercet.http.client import Client
from tercet.launch.local import LocalDeployment

TIMEOUT_S = 300.0

TOWER = {
    "architectures": ["LlavaForConditionalGeneration"],
    "model_type": "llava",
    "image_seq_length": 576,
    "image_token_index": 300,
    "projector_hidden_act": "gelu",
    "text_config": {
        "model_type": "llama",
        "head_dim": 32,
        "hidden_size": 64,
        "intermediate_size": 128,
        "max_position_embeddings": 8192,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
        "vocab_size": 320,
    },
    "tie_word_embeddings": True,
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_act": "quick_gelu",
        "hidden_size": 512,
        "image_size": 336,
        "intermediate_size": 2048,
        "num_attention_heads": 8,
        "num_channels": 3,
        "num_hidden_layers": 8,
        "patch_size": 14,
    },
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}
"""CLIP-L's pictures (336 pixels, 576 rows) in a tower of an eighth of its work, before a tiny language model: encoding
is nearly all there is to do."""


@asynccontextmanager
async def deployed(short_form: str, devices: tuple[str, ...], model: str | None = None) -> AsyncIterator[Any]:
    """Start a topology of `model`, else of random weights with TOWER; yield the deployment."""
    workers = parse_short_form(short_form)
    with TemporaryDirectory() as folder:
        shape = Path(folder) / "tower.json"
        shape.write_text(json.dumps(TOWER))
        engine = EngineSpec(random_weights=None if model else str(shape), max_model_len=8192)
        name, mode = f"bench-{short_form.lower()}", default_mode(workers)
        topology = Topology(name, model or "tower", mode, workers, devices, engine, RouterSpec(port=0))
        async with LocalDeployment(topology, log_dir=Path(folder) / "logs") as deployment:
            yield deployment


def noise(rng: random.Random, side: int = 336) -> str:
    """Return a JPEG of noise as a data URI: like no other picture, and quickly decoded."""
    out = io.BytesIO()
    Image.frombytes("RGB", (side, side), rng.randbytes(3 * side * side)).save(out, "JPEG", quality=60)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


@dataclass(frozen=True, slots=True)
class Seen:
    """One answer: seconds until it was there, what Server-Timing says in ms, and the other headers."""

    seconds: float
    timing: dict[str, float]
    headers: dict[str, str]
    text: str


async def look(client: Client, url: str, pictures: list[str], question: str, max_tokens: int = 1) -> Seen:
    """Ask a question about pictures. Raises RuntimeError when the answer is none."""
    content = [{"type": "image_url", "image_url": {"url": picture}} for picture in pictures]
    body = {
        "messages": [{"role": "user", "content": [*content, {"type": "text", "text": question}]}],
        "max_tokens": max_tokens,
        "temperature": 0,
    }
    began = perf_counter()
    response = await client.request(
        "POST",
        f"{url}/v1/chat/completions",
        headers=[("Content-Type", "application/json")],
        body=json.dumps(body).encode(),
        first_byte_timeout_s=TIMEOUT_S,
        idle_timeout_s=TIMEOUT_S,
    )
    answer = await response.read()
    if response.status != 200:
        raise RuntimeError(f"{response.status}: {answer[:300]!r}")
    found = re.findall(r"([\w-]+);dur=([0-9.]+)", response.headers.get("server-timing", ""))
    text = json.loads(answer)["choices"][0]["message"]["content"]
    return Seen(perf_counter() - began, {name: float(ms) for name, ms in found}, dict(response.headers), text)


async def until_ready(client: Client, url: str) -> None:
    """Wait until a router is ready."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            response = await client.request("GET", f"{url}/ready")
            await response.read()
            if response.status == 200:
                return
            await asyncio.sleep(0.1)
