"""The measured oracle: fitted to timings of the user's own machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tercet.latency.least_squares import Fit, fit_positive
from tercet.latency.samples import FirstToken, Sample

NAMES = (
    "per_request",
    "base",
    "token",
    "pair",
    "sequence",
    "context",
    "hop",
    "hop_busy",
    "hop_stall",
    "hop_token",
    "image",
    "image_hop",
)

NEIGHBOUR_STEP, NEIGHBOUR_STEPS = 0.05, 20
"""What a neighbour may add is sought from nothing to as much again."""
NEIGHBOUR_GAIN = 0.05
"""By so much of the mean error a neighbour must improve the fit to be believed."""
STEADY = ("per_request", "hop", "hop_busy", "hop_stall", "hop_token", "image_hop")
"""What no neighbour lengthens: it is no step."""

DOUBTED = ("pair", "sequence", "context", "hop_busy", "hop_stall", "hop_token", "image_hop")
"""What only timings of several batches, lengths or loads can tell."""


@dataclass(frozen=True, slots=True)
class MeasuredOracle:
    """A LatencyOracle of a few coefficients, in milliseconds.

    A step costs `base_ms`; each prompt token `token_ms`, and `pair_ms` for each token that it attends to; each
    decoding sequence `sequence_ms`, and `context_ms` for each token of its context; each picture `image_ms`.
    """

    base_ms: float
    token_ms: float
    pair_ms: float
    sequence_ms: float
    context_ms: float
    image_ms: float
    kv_token_bytes: int
    kv_tokens: int

    def slowed(self, factor: float) -> MeasuredOracle:
        """See LatencyOracle."""
        return replace(
            self,
            base_ms=self.base_ms * factor,
            token_ms=self.token_ms * factor,
            pair_ms=self.pair_ms * factor,
            sequence_ms=self.sequence_ms * factor,
            context_ms=self.context_ms * factor,
            image_ms=self.image_ms * factor,
        )

    def prefill(self, batch: int, tokens: float, prefix: float) -> float:
        """See LatencyOracle."""
        return self.base_ms + batch * tokens * (self.token_ms + (prefix + tokens / 2) * self.pair_ms)

    def decode(self, batch: int, context: float) -> float:
        """See LatencyOracle."""
        return self.base_ms + batch * (self.sequence_ms + context * self.context_ms)

    def decode_run(self, batch: int, context: float, steps: int) -> float:
        """See LatencyOracle."""
        return steps * self.decode(batch, context + (steps - 1) / 2)

    def mixed(self, tokens: int, prefix: int, batch: int, context: float, prompts: int = 1) -> float:
        """See LatencyOracle."""
        seen = (prefix + tokens / 2) / prompts
        prompt_ms = tokens * (self.token_ms + seen * self.pair_ms)
        return self.base_ms + prompt_ms + batch * (self.sequence_ms + context * self.context_ms)

    def encode(self, images: int) -> float:
        """See LatencyOracle."""
        return images * self.image_ms

    def kv_bytes(self, tokens: int) -> int:
        """See LatencyOracle."""
        return tokens * self.kv_token_bytes

    def kv_capacity(self) -> int:
        """See LatencyOracle."""
        return self.kv_tokens


def fit_machine(samples: Sequence[Sample]) -> Fit:
    """Return the coefficients of NAMES, in milliseconds, and `neighbour`, the share by which each other worker that
    computes lengthens a step, that fit the samples best. Raises UsageError."""
    rows = np.array([_features(each) for each in samples]).reshape(-1, len(NAMES))
    others = np.array([each.others for each in samples])
    observed = [each.observed_ms for each in samples]
    steps = np.array([name not in STEADY for name in NAMES])

    def fitted(neighbour: float) -> tuple[float, Fit]:
        stretched = np.where(steps, rows * (1 + neighbour * others)[:, None], rows)
        fit = fit_positive(NAMES, stretched.tolist(), observed, DOUBTED)
        return float(np.mean(np.abs(fit.errors))), Fit({**fit.values, "neighbour": neighbour}, fit.errors)

    alone, fit = fitted(0.0)
    if not others.any():
        return fit
    shares = [NEIGHBOUR_STEP * i for i in range(1, NEIGHBOUR_STEPS + 1)]
    error, best = min((fitted(share) for share in shares), key=lambda each: each[0])
    return best if error < (1 - NEIGHBOUR_GAIN) * alone else fit


def _features(sample: Sample) -> tuple[float, ...]:
    if isinstance(sample, FirstToken):
        pairs = sample.tokens * (sample.prefix + sample.tokens / 2)
        sequences = sample.steps * sample.decodes
        return (
            1.0,
            sample.steps,
            sample.tokens,
            pairs,
            sequences,
            sequences * sample.context,
            float(sample.handoff),
            sample.handoff_busy,
            0.0,
            sample.moved,
            float(sample.images),
            float(sample.remote_images),
        )
    sequences = sample.steps * sample.batch
    return (
        0.0,
        sample.steps,
        sample.prompt_tokens,
        sample.prompt_pairs,
        sequences,
        sequences * sample.context,
        0.0,
        0.0,
        sample.handoffs,
        sample.moved,
        0.0,
        0.0,
    )
