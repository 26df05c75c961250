"""Pictures, and conversations about them, for whole deployments of a model that sees."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from tests.e2e.conftest import Answer, Serve, call, metric, start_serve, wait_until

Turn = Sequence[str | bytes]
"""Text, pictures (bytes) and their URLs."""

EVERYTHING = """
name: {name}
mode: epd
devices: [cpu:0, cpu:1]
workers:
{encoders}
  - stages: [encode, prefill]
  - stages: [decode]
  - stages: [encode, prefill, decode]
engine: {{random_weights: tiny-llava, dtype: fp32, transport: {transport}, lease: {lease}}}
router: {{encode_fallback: local}}
"""


def start_everything(folder: Path, encoders: int, transport: str, lease: float = 30.0) -> Serve:
    """Start every role at once: each mode can then be chosen while it serves, of tiny weights in fp32."""
    folder.mkdir(parents=True, exist_ok=True)
    text = EVERYTHING.format(
        name=f"eyes-{transport}-{encoders}",
        encoders="\n".join(["  - stages: [encode]"] * encoders),
        transport=transport,
        lease=lease,
    )
    (folder / "topology.yaml").write_text(text)
    return start_serve(folder, str(folder / "topology.yaml"))


def picture(seed: object, side: int = 48) -> bytes:
    """Return a PNG like no other."""
    rng = random.Random(str(seed))
    image = Image.frombytes("RGB", (side, side), rng.randbytes(3 * side * side))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def data_uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def messages(turns: Sequence[Turn | str]) -> list[dict[str, Any]]:
    """Turns alternate between user and assistant; bytes are pictures, and so are URLs."""
    result: list[dict[str, Any]] = []
    for i, turn in enumerate(turns):
        content: Any = turn
        if not isinstance(turn, str):
            content = [_part(piece) for piece in turn]
        result.append({"role": ("user", "assistant")[i % 2], "content": content})
    return result


def _part(piece: str | bytes) -> dict[str, Any]:
    if isinstance(piece, str) and "://" not in piece:
        return {"type": "text", "text": piece}
    return {"type": "image_url", "image_url": {"url": piece if isinstance(piece, str) else data_uri(piece)}}


def look(serve: Serve, turns: Sequence[Turn | str], **more: Any) -> Answer:
    body = {"temperature": 0, "max_tokens": 8, "ignore_eos": True, "return_token_ids": True, "logprobs": True, **more}
    return serve.chat({"messages": messages(turns), **body})


def token_ids(answer: Answer) -> list[int]:
    assert answer.status == 200, answer
    ids: list[int] = answer.body["choices"][0]["token_ids"]
    assert len(ids) == answer.body["usage"]["completion_tokens"]
    return ids


def logprobs(answer: Answer) -> list[float]:
    return [token["logprob"] for token in answer.body["choices"][0]["logprobs"]["content"]]


def forget(serve: Serve) -> None:
    """Empty every worker's caches, and what the router knows of them."""
    wait_until(lambda: call(f"{serve.url}/cache/reset", b"").status == 200, 20, "the caches were not emptied")


def forwards(serve: Serve) -> float:
    """How many pictures all encoders together have encoded."""
    return sum(metric(worker["url"], "tercet:encoder_forward_images_total") for worker in serve.workers("encode"))


def switch(serve: Serve, mode: str) -> None:
    """Switch the mode, empty the caches, and wait until requests find their way."""
    serve.mode(mode)
    forget(serve)
    wait_until(lambda: call(f"{serve.url}/ready").status == 200, 60, f"not ready for {mode}")


def url_of(serve: Serve, *stages: str) -> str:
    """Return the URL of the first worker with exactly these stages."""
    return next(str(worker["url"]) for worker in serve.workers() if set(worker["stages"]) == set(stages))


def processes(serve: Serve, name: str) -> list[psutil.Process]:
    """Return a worker's processes: front and engines, in this order."""
    family = psutil.Process(serve.process.pid).children(recursive=True)
    return sorted((p for p in family if name in " ".join(p.cmdline())), key=lambda p: "engine" in p.cmdline()[0])


def wait_nothing_held(serve: Serve) -> None:
    """Wait until no worker holds KV blocks, nor embeddings, for anybody."""
    serve.wait_idle()
    wait_until(
        lambda: sum(metric(w["url"], "tercet:embedding_blocks_in_use") for w in serve.workers()) == 0,
        40,
        "embeddings are still held for somebody",
    )
