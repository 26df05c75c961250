"""The "Serving Benchmark Result" block that users of `vllm bench serve` and SGLang know."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tercet.results.record import RunRecord
from tercet.results.serving import ServingFigures, serving_figures
from tercet.results.slo import Slo

WIDTH = 50
UNKNOWN = "n/a"
DEFAULT_PERCENTILES = (95.0, 99.0)


def serving_block(
    runs: Sequence[RunRecord],
    *,
    slo: Slo | None = None,
    percentiles: Sequence[float] = DEFAULT_PERCENTILES,
    predicted: bool = False,
) -> list[str]:
    """Return the block of one load's runs, line by line; `predicted` says that nothing was measured."""
    figures = serving_figures(runs, slo)
    title = " PREDICTED Serving Result " if predicted else " Serving Benchmark Result "
    lines = [title.center(WIDTH, "=")]
    lines += [f"{name + ':':<40} {value:<10}".rstrip() for name, value in _rows(runs, figures, slo, predicted)]
    for title, short, values in (
        ("End-to-End Latency", "E2E Latency", figures.e2e_ms),
        ("Time to First Token", "TTFT", figures.ttft_ms),
        ("Time per Output Token (excl. 1st token)", "TPOT", figures.tpot_ms),
        ("Inter-Token Latency", "ITL", figures.itl_ms),
    ):
        lines.append(title.center(WIDTH, "-"))
        lines += _latency(short, values, percentiles)
    lines.append("From schedule, not from sending".center(WIDTH, "-"))
    lines += _latency("E2E Latency", figures.scheduled_e2e_ms, percentiles, brief=True)
    lines += _latency("TTFT", figures.scheduled_ttft_ms, percentiles, brief=True)
    if not predicted:
        lines.append("Load generator".center(WIDTH, "-"))
        lines += _client(runs)
    lines.append("=" * WIDTH)
    return lines


def _rows(
    runs: Sequence[RunRecord], figures: ServingFigures, slo: Slo | None, predicted: bool
) -> list[tuple[str, str]]:
    first = runs[0]
    open_loop = first.load_kind == "qps"
    rows = [
        ("Backend", "tercet simulate" if predicted else "tercet bench"),
        ("Traffic request rate", f"{first.load:g}" if open_loop else "inf"),
        ("Max request concurrency", "not set" if open_loop else f"{first.load:g}"),
        ("Successful requests", str(figures.ok)),
        ("Failed requests", str(figures.requests - figures.ok)),
        *((f"  {kind}", str(count)) for kind, count in sorted(figures.failures.items())),
        ("Benchmark duration (s)", _two(figures.duration_s)),
        ("Total input tokens", str(figures.input_tokens)),
        ("Total input text tokens", UNKNOWN if figures.vision_tokens is None else str(figures.text_tokens)),
        ("Total input vision tokens", _count(figures.vision_tokens)),
        ("Total generated tokens", str(figures.output_tokens)),
        ("Total generated tokens (retokenized)", _count(figures.retokenized_tokens)),
        ("Request throughput (req/s)", _two(figures.requests_per_s)),
    ]
    if slo is not None and figures.goodput_per_s is not None:
        rows.append(("Request goodput (req/s)", _two(figures.goodput_per_s)))
        rows.append(("Goodput counts answers within", str(slo)))
    rows += [
        ("Input token throughput (tok/s)", _two(figures.input_per_s)),
        ("Output token throughput (tok/s)", _two(figures.output_per_s)),
        ("Peak output token throughput (tok/s)", _two(figures.peak_output_per_s)),
        ("Total token throughput (tok/s)", _two(figures.input_per_s + figures.output_per_s)),
        ("Concurrency", _two(figures.mean_concurrency)),
        ("Peak concurrent requests", str(figures.peak_concurrency)),
    ]
    if (images := figures.images) is not None:
        rows.append(("Images per request", f"min={images.low}, max={images.high}, mean={images.mean:.2f}"))
    if figures.mismatched:
        rows.append(("Prompts of another length than made", str(figures.mismatched)))
    return rows


def _latency(name: str, values: Sequence[float], percentiles: Sequence[float], *, brief: bool = False) -> list[str]:
    """Return the lines of one metric; "n/a" where nothing has it, as TPOT of single tokens."""
    labels = ["Mean", "Median", *(f"P{q:g}" for q in percentiles), *(() if brief else ("Max",))]
    figures = [UNKNOWN] * len(labels)
    if values:
        points = np.percentile(values, [50, *percentiles, 100])
        figures = [_two(float(value)) for value in (np.mean(values), *points)]
    return [f"{f'{label} {name} (ms):':<40} {figure}" for label, figure in zip(labels, figures, strict=False)]


def _client(runs: Sequence[RunRecord]) -> list[str]:
    """Return how the client fared: the worst of its runs, and why a run is no evidence."""
    health = [run.client for run in runs]
    rows = [
        ("Send delay P99 (ms)", max(one.lateness_ms_p99 for one in health)),
        ("Event loop lag P99 (ms)", max(one.loop_lag_ms_p99 for one in health)),
        ("CPU, of one core (%)", max(one.cpu_fraction for one in health) * 100),
    ]
    lines = [f"{name + ':':<40} {_two(value)}" for name, value in rows]
    for run in runs:
        which = f"run {run.block + 1} " if len(runs) > 1 else ""
        lines += [f"INVALID: {which}{reason}" for reason in run.invalid_reasons]
        if not run.complete:
            lines.append(f"INTERRUPTED: {which}holds what was measured until then")
    return lines


def _two(value: float) -> str:
    return f"{value:.2f}"


def _count(value: int | None) -> str:
    return UNKNOWN if value is None else str(value)
