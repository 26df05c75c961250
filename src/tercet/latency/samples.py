"""What was observed of a machine: the timings that oracles and stack constants are fitted to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FirstToken:
    """A TTFT of a request that waited for no other: `tokens` computed after `prefix` cached ones, in `steps` steps.

    `decodes` sequences of `context` tokens on average decoded in the same steps; `busy` is the share of such requests
    that found the engine in the middle of a step. `handoff`: the KV of `moved` tokens crossed from one engine to
    another; `handoff_busy` is the share of those whose receiver was decoding. `images` were fetched and encoded one
    after the other, `remote_images`: by another worker. `others` workers computed meanwhile, in the mean.
    """

    observed_ms: float
    tokens: int
    prefix: int = 0
    steps: int = 1
    decodes: float = 0.0
    context: float = 0.0
    handoff: bool = False
    moved: float = 0.0
    handoff_busy: float = 0.0
    busy: float = 0.0
    images: int = 0
    remote_images: bool = False
    others: float = 0.0


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of decoding of one request: `steps` steps with `batch` sequences of `context` tokens on average.

    Meanwhile `prompt_tokens` of prompts were computed in the same engine, which attended to `prompt_pairs` pairs, and
    the KV of `handoffs` others came in, that of `moved` tokens. `others` workers computed meanwhile, in the mean.
    """

    observed_ms: float
    steps: int
    batch: float
    context: float
    prompt_tokens: float = 0.0
    prompt_pairs: float = 0.0
    handoffs: float = 0.0
    moved: float = 0.0
    others: float = 0.0


Sample = FirstToken | Stretch
