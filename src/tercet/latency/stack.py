"""The constants of a serving stack: what real servers add to a device's own time, few and the same at every load."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tercet.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class StackConstants:
    """What a stack adds to the oracle. Times in milliseconds.

    `scale` multiplies every time of the oracle. `per_request_ms` passes once in a request before its first token
    (HTTP, tokenising, the way to the engine and back), `idle_ms` on top when it finds the engine idle (clocks and
    threads that must wake up). `hop_ms` passes once in each handoff of KV, beside its bytes, and `hop_busy_ms` on top
    when the receiving engine is decoding others; for its last `hop_stall_ms` that engine computes nothing, nor for the
    `hop_token_ms` that each token handed over takes on top. `embedding_hop_ms` passes once in each handoff of
    pictures. `image_host_ms` is one picture's fetch, decode and preprocessing on the host of who encodes it, of which
    `image_host_workers` run side by side. `connections` is the client's pool: a request beyond it waits, and the wait
    counts (0: no bound). `neighbour`: each other worker that computes makes a step so much longer, where all share a
    machine's memory (0.3: 30%). `source` says where they come from.
    """

    scale: float = 1.0
    per_request_ms: float = 0.0
    idle_ms: float = 0.0
    hop_ms: float = 0.0
    hop_busy_ms: float = 0.0
    hop_stall_ms: float = 0.0
    hop_token_ms: float = 0.0
    embedding_hop_ms: float = 0.0
    image_host_ms: float = 0.0
    image_host_workers: int = 1
    connections: int = 0
    neighbour: float = 0.0
    source: str = "none: the device alone"

    def but(self, **changes: Any) -> StackConstants:
        """Return the same constants with some changed."""
        return replace(self, **changes)


_VLLM = StackConstants(
    scale=1.05,
    per_request_ms=10.7,
    idle_ms=8.0,
    hop_ms=4.0,
    embedding_hop_ms=4.0,
    image_host_ms=110.0,
    source="scale: between 1.0 (aiconfigurator's own check of TPOT) and 1.07 (llm-d's DP8 run); per_request and idle: "
    "vLLM 0.13 on an H100 at low load; hop: NIXL in llm-d; image_host: Qwen2.5-VL on SGLang, 100-120 ms",
)

STACKS: dict[str, StackConstants] = {
    "bare": StackConstants(),
    "vllm": _VLLM,
    "vllm-p2pnccl": _VLLM.but(
        scale=1.295,
        per_request_ms=10.8,
        idle_ms=8.1,
        hop_ms=43.8,
        hop_busy_ms=20.2,
        hop_stall_ms=14.0,
        embedding_hop_ms=43.8,
        source="fitted: 36 rows of vLLM 0.13 with P2pNccl on 2 H100s at 0.1 to 1 request a second (tercet calibrate)",
    ),
    "sglang": _VLLM.but(
        source="scale, per_request and hop: assumed to be vLLM's; image_host: Qwen2.5-VL on SGLang, 100-120 ms a "
        "picture (Qwen3-VL: 300-400 ms)",
    ),
    "trtllm": _VLLM.but(
        hop_ms=100.0,
        embedding_hop_ms=44.0,
        image_host_ms=585.0,
        image_host_workers=4,
        source="scale and per_request: assumed to be vLLM's; hops and image_host: LLaVA-1.6 on TensorRT-LLM behind "
        "Dynamo, A100, concurrency 1",
    ),
}
"""Documented defaults, by the stack's name."""


def stack_named(name: str) -> StackConstants:
    """Return the default constants of a stack. Raises UsageError that lists the known ones."""
    if name not in STACKS:
        raise UsageError(f"no constants are known of the stack {name!r}: choose one of {', '.join(sorted(STACKS))}")
    return STACKS[name]
