"""The work behind `tercet calibrate`, and its report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from tercet.core.errors import UsageError
from tercet.latency.calibration import fit_stack, stack_from
from tercet.latency.calibration_file import Calibration
from tercet.latency.known_models import find_model
from tercet.latency.measured import MeasuredOracle, fit_machine
from tercet.latency.registry import oracle_for
from tercet.latency.samples import FirstToken, Sample, Stretch
from tercet.latency.stack import StackConstants
from tercet.report.terminal import console_for_output
from tercet.worker.engine_build import CPU_KV_BYTES

MANY_TOKENS = 1 << 20
"""Tokens of KV when nothing tells how many fit."""
WORST = 3
SEVERAL = 1.5
"""The most must be so many times the least to count as different."""


def known_device(
    samples: Sequence[Sample], device: tuple[str, str, str, int], kind: str, source: str
) -> tuple[Calibration, tuple[float, ...]]:
    """Fit the constants around the step times of (model, GPU, engine, TP)."""
    model, gpu, engine, tp = device
    chosen = oracle_for(model, gpu, engine, tp, kind=kind)
    fit = fit_stack(chosen.oracle, samples)
    stack = stack_from(fit, StackConstants(), f"{source}, {model} on {tp} x {gpu} with {engine}; {chosen.source.kind}")
    return Calibration(stack, None, residuals(samples, fit.errors)), fit.errors


def this_machine(
    samples: Sequence[Sample], model: str | None, engines: Iterable[Mapping[str, Any]], source: str
) -> tuple[Calibration, tuple[float, ...]]:
    """Fit the machine itself."""
    fit = fit_machine(samples)
    values = fit.values
    token_bytes = _kv_token_bytes(model)
    oracle = MeasuredOracle(
        base_ms=round(values["base"], 5),
        token_ms=round(values["token"], 6),
        pair_ms=round(values["pair"], 9),
        sequence_ms=round(values["sequence"], 6),
        context_ms=round(values["context"], 9),
        image_ms=round(values["image"], 4),
        kv_token_bytes=token_bytes,
        kv_tokens=_kv_tokens(engines, token_bytes),
    )
    stack = StackConstants(
        per_request_ms=round(values["per_request"], 4),
        hop_ms=round(values["hop"], 4),
        hop_busy_ms=round(values["hop_busy"], 4),
        hop_stall_ms=round(values["hop_stall"], 4),
        hop_token_ms=round(values["hop_token"], 6),
        embedding_hop_ms=round(values["image_hop"], 4),
        neighbour=round(values["neighbour"], 4),
        source=f"{source}, {model or 'model unknown'}",
    )
    report = residuals(samples, fit.errors) | {"measured": reach(samples)}
    if notes := unknowns(samples):
        report["unknown"] = notes
    return Calibration(stack, oracle, report), fit.errors


def reach(samples: Sequence[Sample]) -> str:
    """Return how far the timings reach: lengths of prompts, sequences that decoded at once, and their contexts."""
    prompts = [sample.tokens for sample in samples if isinstance(sample, FirstToken)]
    stretches = [sample for sample in samples if isinstance(sample, Stretch)]
    parts = []
    if prompts:
        low, high = min(prompts), max(prompts)
        parts.append(f"prompts of {low} new tokens" if low == high else f"prompts of {low} to {high} new tokens")
    if stretches:
        parts.append(f"batches of up to {max(each.batch for each in stretches):.3g}")
        parts.append(f"contexts of up to {max(each.context for each in stretches):.0f} tokens")
    return ", ".join(parts)


def unknowns(samples: Sequence[Sample]) -> list[str]:
    """Return what the timings can't tell, because they are all alike."""
    batches = [sample.batch for sample in samples if isinstance(sample, Stretch)]
    lengths = [sample.tokens for sample in samples if isinstance(sample, FirstToken)]
    notes = []
    if batches and max(batches) < SEVERAL * min(batches):
        notes.append("what a further decoding sequence costs: every timing had about as many; measure a higher load")
    if lengths and max(lengths) < SEVERAL * min(lengths):
        notes.append("how a prompt's time grows with its length: all were about as long; measure another workload")
    return notes


def is_known(model: str) -> bool:
    """Return whether latencies are known of a model."""
    try:
        find_model(model)
    except UsageError:
        return False
    return True


def residuals(samples: Sequence[Sample], errors: Sequence[float]) -> dict[str, Any]:
    """Return count, median and 90th percentile of the relative errors of each kind of timing."""
    report: dict[str, Any] = {}
    for name, first in (("first_token", True), ("decode", False)):
        each = [abs(e) for e, sample in zip(errors, samples, strict=True) if isinstance(sample, FirstToken) == first]
        if each:
            report[name] = {
                "timings": len(each),
                "median_error": round(float(np.median(each)), 5),
                "p90_error": round(float(np.percentile(each, 90)), 5),
            }
    return report


def print_calibration(calibration: Calibration, samples: Sequence[Sample], errors: Sequence[float]) -> None:
    """Print the constants, the residuals and the worst rows."""
    console = console_for_output()
    table = Table(title="Constants", title_justify="left")
    table.add_column("constant")
    table.add_column("value", justify="right")
    for name, value in _constants(calibration):
        table.add_row(name, value)
    console.print(table)
    table = Table(title="Residuals (predicted against measured)", title_justify="left")
    for name in ("timing", "count", "median error", "90th percentile"):
        table.add_column(name, justify="left" if name == "timing" else "right")
    fit = calibration.fit or {}
    for name, each in ((name, each) for name, each in fit.items() if name not in ("measured", "unknown")):
        row = (f"{each['timings']}", f"{each['median_error']:.1%}", f"{each['p90_error']:.1%}")
        table.add_row(name.replace("_", " "), *row)
    console.print(table)
    if measured := fit.get("measured"):
        console.print(f"Measured: {measured}; predictions beyond are extrapolated", markup=False, soft_wrap=True)
    for note in fit.get("unknown", ()):
        console.print(f"Not known: {note}", markup=False, soft_wrap=True)
    order = sorted(range(len(errors)), key=lambda i: -abs(errors[i]))[:WORST]
    for i in order:
        console.print(f"Off by {errors[i]:+.0%}: {_said(samples[i])}", markup=False, soft_wrap=True)


def _constants(calibration: Calibration) -> list[tuple[str, str]]:
    stack = calibration.stack
    rows = [(f"{name} (ms)", f"{getattr(stack, f'{name}_ms'):.2f}") for name in ("per_request", "idle", "hop")]
    rows += [(f"{name} (ms)", f"{getattr(stack, f'{name}_ms'):.2f}") for name in ("hop_busy", "hop_stall")]
    rows.append(("100 tokens handed over (ms)", f"{stack.hop_token_ms * 100:.2f}"))
    rows += [(f"{name} (ms)", f"{getattr(stack, f'{name}_ms'):.2f}") for name in ("image_host", "embedding_hop")]
    oracle = calibration.oracle
    if oracle is None:
        return [("scale", f"{stack.scale:.3f}"), *rows]
    return [
        *rows,
        ("a busy neighbour", f"{stack.neighbour:+.0%}"),
        ("a step (ms)", f"{oracle.base_ms:.3f}"),
        ("a prompt token (ms)", f"{oracle.token_ms:.4f}"),
        ("1000 prompt tokens attending to 1000 (ms)", f"{oracle.pair_ms * 1e6:.2f}"),
        ("a decoding sequence (ms)", f"{oracle.sequence_ms:.4f}"),
        ("1000 tokens of context (ms)", f"{oracle.context_ms * 1e3:.4f}"),
        ("a picture (ms)", f"{oracle.image_ms:.1f}"),
        ("KV that fits (tokens)", f"{oracle.kv_tokens}"),
    ]


def _said(sample: Sample) -> str:
    if isinstance(sample, FirstToken):
        way = ", handed over" if sample.handoff else ""
        return f"first token of {sample.tokens} tokens after {sample.prefix} cached{way}, {sample.observed_ms:.1f} ms"
    each, batch = sample.observed_ms / sample.steps, f"{sample.batch:.1f} sequences of {sample.context:.0f} tokens"
    return f"{sample.steps} decode steps of {batch}, {each:.2f} ms each"


def _kv_token_bytes(model: str | None) -> int:
    return find_model(model).shape.kv_token_bytes() if model and is_known(model) else 0


def _kv_tokens(engines: Iterable[Mapping[str, Any]], token_bytes: int) -> int:
    for engine in engines:
        blocks, size = int(engine.get("kv_blocks") or 0), int(engine.get("block_size") or 0)
        if blocks and size:
            return blocks * size
        if engine.get("engine") == "tercet" and token_bytes:
            return CPU_KV_BYTES // token_bytes
    return MANY_TOKENS
