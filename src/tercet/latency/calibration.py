"""Fits the constants of a stack to timings, with an oracle that is known."""

from __future__ import annotations

from collections.abc import Sequence

from tercet.latency.least_squares import Fit, fit_positive
from tercet.latency.oracle import LatencyOracle
from tercet.latency.samples import FirstToken, Sample, Stretch
from tercet.latency.stack import StackConstants

NAMES = ("per_request", "idle", "scale", "hop", "hop_busy", "hop_stall", "hop_token", "image_host", "embedding_hop")


def fit_stack(oracle: LatencyOracle, samples: Sequence[Sample]) -> Fit:
    """Return NAMES (scale without unit, the others in milliseconds) that bring the oracle nearest to the samples."""
    rows = [_features(oracle, each) for each in samples]
    return fit_positive(NAMES, rows, [each.observed_ms for each in samples])


def stack_from(fit: Fit, base: StackConstants, source: str) -> StackConstants:
    """Return `base` with what was fitted in place of its own; what no timing told of stays (a scale of 0: unknown)."""
    values, told = fit.values, {}
    for name, field in (
        ("scale", "scale"),
        ("per_request", "per_request_ms"),
        ("idle", "idle_ms"),
        ("hop", "hop_ms"),
        ("hop_busy", "hop_busy_ms"),
        ("hop_stall", "hop_stall_ms"),
        ("hop_token", "hop_token_ms"),
        ("image_host", "image_host_ms"),
        ("embedding_hop", "embedding_hop_ms"),
    ):
        if values.get(name):
            told[field] = round(values[name], 4)
    return base.but(**told, source=source)


def expected_ms(oracle: LatencyOracle, sample: Sample) -> float:
    """Return what the device alone would take, by the oracle."""
    if isinstance(sample, Stretch):
        decodes = sample.steps * oracle.decode(max(round(sample.batch), 1), sample.context)
        between = _between(oracle, sample)
        if not sample.prompt_tokens:
            return decodes + between
        extra = oracle.prefill(1, sample.prompt_tokens, _prefix(sample)) - oracle.prefill(1, 1, 0)
        return decodes + between + max(extra, 0.0)
    steps = max(sample.steps, 1)
    each, left, done, total = -(-sample.tokens // steps), sample.tokens, sample.prefix, 0.0
    while left > 0:
        now = min(each, left)
        total += oracle.mixed(now, done, round(sample.decodes), sample.context)
        left, done = left - now, done + now
    return total + (oracle.encode(sample.images) if sample.images else 0.0)


def _between(oracle: LatencyOracle, sample: Stretch) -> float:
    """Return what a batch that is no whole number adds to its rounded one, by the slope there."""
    batch = max(round(sample.batch), 1)
    slope = oracle.decode(batch + 1, sample.context) - oracle.decode(batch, sample.context)
    return sample.steps * (max(sample.batch, 1.0) - batch) * slope


def _wait_ms(oracle: LatencyOracle, sample: FirstToken) -> float:
    """Return what is left, on average, of the steps that prefill and decode engine are in when a request comes."""
    here = sample.busy * oracle.decode(max(round(sample.decodes), 1), sample.context or sample.prefix + sample.tokens)
    there = sample.handoff_busy * oracle.decode(1, sample.prefix + sample.tokens)
    return (here + there) / 2


def _prefix(sample: Stretch) -> float:
    return max(sample.prompt_pairs / sample.prompt_tokens - sample.prompt_tokens / 2, 0.0)


def _features(oracle: LatencyOracle, sample: Sample) -> tuple[float, ...]:
    device = expected_ms(oracle, sample)
    if isinstance(sample, FirstToken):
        return (
            1.0,
            1.0 - sample.busy,
            device + _wait_ms(oracle, sample),
            float(sample.handoff),
            sample.handoff_busy,
            0.0,
            sample.moved,
            float(sample.images),
            float(sample.remote_images),
        )
    return (0.0, 0.0, device, 0.0, 0.0, sample.handoffs, sample.moved, 0.0, 0.0)
