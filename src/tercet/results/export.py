"""Results in other tools' formats, each metric under the name that means the same there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from tercet.results.document import Results
from tercet.results.record import RequestRecord, RunRecord
from tercet.results.serving import serving_figures
from tercet.results.slo import Slo

_PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)


def export(results: Results, beside: Path, format_: str, slo: Slo | None = None) -> list[Path]:
    """Write each run in a format of FORMATS, beside the results file, and return the paths."""
    paths: list[Path] = []
    several = len({run.architecture for run in results.runs}) > 1
    for run in results.runs:
        name = f"{run.architecture}-" if several else ""
        name += f"{run.load_kind}{run.load:g}-r{run.block}"
        for suffix, text in FORMATS[format_](results, run, slo).items():
            path = beside.with_name(f"{beside.stem}-{format_}-{name}{suffix}")
            path.write_text(text, encoding="utf-8")
            paths.append(path)
    return paths


def _vllm(results: Results, run: RunRecord, slo: Slo | None) -> dict[str, str]:
    """Return what `vllm bench serve --save-result --save-detailed` writes. Times in seconds, statistics in ms.

    Its E2EL is our E2E; a request's `itls` are the gaps between its pieces.
    """
    figures = serving_figures((run,), slo)
    closed = run.load_kind == "concurrency"
    options = results.traffic(run.workload).options
    requests = run.requests
    data: dict[str, Any] = {
        "date": datetime.fromisoformat(run.started_at).strftime("%Y%m%d-%H%M%S"),
        "endpoint_type": "openai",
        "backend": "openai",
        "label": run.architecture,
        "model_id": results.model,
        "tokenizer_id": results.model,
        "num_prompts": len(requests),
        "request_rate": "inf" if closed else run.load,
        "burstiness": options.get("burstiness", 1.0),
        "max_concurrency": int(run.load) if closed else None,
        "duration": figures.duration_s,
        "completed": figures.ok,
        "failed": figures.requests - figures.ok,
        "total_input_tokens": figures.input_tokens,
        "total_output_tokens": figures.output_tokens,
        "request_throughput": figures.requests_per_s,
        "request_goodput": figures.goodput_per_s,
        "output_throughput": figures.output_per_s,
        "total_token_throughput": figures.input_per_s + figures.output_per_s,
        "max_output_tokens_per_s": figures.peak_output_per_s,
        "max_concurrent_requests": figures.peak_concurrency,
        "input_lens": [request.prompt_tokens for request in requests],
        "output_lens": [request.output_tokens for request in requests],
        "ttfts": [request.ttft_ms / 1e3 if request.ok else 0.0 for request in requests],
        "itls": [[gap / 1e3 for gap in request.itl_ms] for request in requests],
        "latencies": [request.e2e_ms / 1e3 if request.ok else 0.0 for request in requests],
        "start_times": [request.sent_s for request in requests],
        "generated_texts": ["" for _ in requests],
        "errors": [request.error or "" for request in requests],
    }
    for name, values in (
        ("ttft", figures.ttft_ms),
        ("tpot", figures.tpot_ms),
        ("itl", figures.itl_ms),
        ("e2el", figures.e2e_ms),
    ):
        array = np.asarray(values or (0.0,))
        data[f"mean_{name}_ms"] = float(array.mean())
        data[f"median_{name}_ms"] = float(np.median(array))
        data[f"std_{name}_ms"] = float(array.std())
        data[f"p99_{name}_ms"] = float(np.percentile(array, 99))
    return {".json": json.dumps(data)}


def _aiperf(results: Results, run: RunRecord, slo: Slo | None) -> dict[str, str]:
    """Return AIPerf's summary (`profile_export_aiperf.json`) and records (`profile_export.jsonl`).

    AIPerf's inter token latency is our TPOT, its inter chunk latency our ITL, its request latency our E2E.
    """
    figures = serving_figures((run,), slo)
    finished = [request for request in run.measured if request.ok]

    def spread(unit: str, values: Sequence[float]) -> dict[str, Any] | None:
        if not values:
            return None
        array = np.asarray(values)
        points = {f"p{q}": float(np.percentile(array, q)) for q in _PERCENTILES}
        ends = {"avg": float(array.mean()), "min": float(array.min()), "max": float(array.max())}
        return {"unit": unit, **ends, **points, "std": float(array.std()), "count": len(values)}

    summary: dict[str, Any] = {
        "schema_version": "1.4",
        "was_cancelled": not run.complete,
        "input_config": {
            "model": results.model,
            "tool": "tercet",
            "request_rate" if run.load_kind == "qps" else "concurrency": run.load,
        },
        "request_latency": spread("ms", figures.e2e_ms),
        "time_to_first_token": spread("ms", figures.ttft_ms),
        "inter_token_latency": spread("ms", figures.tpot_ms),
        "inter_chunk_latency": spread("ms", figures.itl_ms),
        "input_sequence_length": spread("tokens", [float(request.prompt_tokens) for request in finished]),
        "output_sequence_length": spread("tokens", [float(request.output_tokens) for request in finished]),
        "request_throughput": {"unit": "requests/sec", "avg": figures.requests_per_s},
        "output_token_throughput": {"unit": "tokens/sec", "avg": figures.output_per_s},
        "total_token_throughput": {"unit": "tokens/sec", "avg": figures.input_per_s + figures.output_per_s},
        "request_count": {"unit": "requests", "avg": figures.ok},
        "error_request_count": {"unit": "requests", "avg": figures.requests - figures.ok},
        "benchmark_duration": {"unit": "sec", "avg": figures.duration_s},
        "total_isl": {"unit": "tokens", "avg": figures.input_tokens},
        "total_osl": {"unit": "tokens", "avg": figures.output_tokens},
    }
    if figures.goodput_per_s is not None:
        summary["goodput"] = {"unit": "requests/sec", "avg": figures.goodput_per_s}
    summary = {name: value for name, value in summary.items() if value is not None}
    begin_ns = int(datetime.fromisoformat(run.started_at).timestamp() * 1e9)
    lines = (json.dumps(_aiperf_record(number, request, begin_ns)) for number, request in enumerate(run.requests))
    return {".json": json.dumps(summary), ".jsonl": "".join(line + "\n" for line in lines)}


def _aiperf_record(number: int, request: RequestRecord, begin_ns: int) -> dict[str, Any]:
    def at(seconds: float | None) -> int | None:
        return None if seconds is None else begin_ns + int(seconds * 1e9)

    metrics: dict[str, Any] = {}
    if request.ok:
        metrics = {
            "request_latency": {"value": request.e2e_ms, "unit": "ms"},
            "time_to_first_token": {"value": request.ttft_ms, "unit": "ms"},
            "inter_chunk_latency": {"value": list(request.itl_ms), "unit": "ms"},
            "input_sequence_length": {"value": request.prompt_tokens, "unit": "tokens"},
            "output_sequence_length": {"value": request.output_tokens, "unit": "tokens"},
        }
        if (tpot := request.tpot_ms) is not None:
            metrics["inter_token_latency"] = {"value": tpot, "unit": "ms"}
    return {
        "metadata": {
            "session_num": number,
            "conversation_id": request.conversation,
            "turn_index": request.turn - 1,
            "credit_issued_ns": at(request.due_s),
            "request_start_ns": at(request.sent_s),
            "request_ack_ns": at(request.headers_s),
            "request_end_ns": at(request.done_s),
            "worker_id": "tercet",
            "record_processor_id": "tercet",
            "benchmark_phase": "profiling",
            "was_cancelled": False,
        },
        "metrics": metrics,
        "error": None if request.error is None else {"type": request.failure, "message": request.error},
    }


FORMATS: Mapping[str, Callable[[Results, RunRecord, Slo | None], dict[str, str]]] = {"vllm": _vllm, "aiperf": _aiperf}
"""What `--export` knows: makes a run into texts by the ends of their files' names."""
