"""What GuideLLM writes (`benchmarks.json`): a benchmark for each load, with its requests by how they ended."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tercet.results.foreign_run import ForeignRun, failed_kind, spread_pieces
from tercet.results.record import RequestRecord

TOOL = "GuideLLM"
EVENLY = "GuideLLM keeps a request's first and last token's times: the pieces between are spread evenly."


def is_guidellm(data: Any) -> bool:
    """Return whether this is such a file."""
    benchmarks = data.get("benchmarks") if isinstance(data, dict) else None
    return isinstance(benchmarks, list) and all(isinstance(b, dict) and "requests" in b for b in benchmarks)


def guidellm_runs(path: Path, data: Mapping[str, Any]) -> list[ForeignRun]:
    """Return a run for each of its benchmarks. A request that was cut off at the end is neither whole nor a failure."""
    return [_run(benchmark) for benchmark in data["benchmarks"]]


def _run(benchmark: Mapping[str, Any]) -> ForeignRun:
    found = benchmark["requests"]
    entries = [
        (entry, well) for kind, well in (("successful", True), ("errored", False)) for entry in found[kind] or ()
    ]
    starts = [start for entry, _ in entries if (start := _timing(entry, "request_start")) is not None]
    begin = min(starts, default=float(benchmark.get("start_time") or 0.0))
    requests = tuple(_request(entry, well, i, begin) for i, (entry, well) in enumerate(entries))
    kind, load = _load(benchmark, len(requests))
    return ForeignRun(
        tool=TOOL,
        label=TOOL,
        model=str((benchmark.get("config") or {}).get("backend", {}).get("model") or "unknown"),
        load_kind=kind,
        load=load,
        started=datetime.fromtimestamp(begin, UTC),
        duration_s=float(benchmark.get("duration") or max((r.done_s for r in requests), default=0.0)),
        requests=requests,
        notes=(EVENLY,),
    )


def _load(benchmark: Mapping[str, Any], count: int) -> tuple[str, float]:
    strategy = (benchmark.get("config") or {}).get("strategy") or {}
    if (rate := strategy.get("rate")) is not None:
        return "qps", float(rate)
    streams = strategy.get("streams") or strategy.get("max_concurrency")
    if strategy.get("type_") == "synchronous":
        return "concurrency", 1.0
    return "concurrency", float(streams or max(1, count))


def _request(entry: Mapping[str, Any], well: bool, i: int, begin: float) -> RequestRecord:
    def at(name: str) -> float | None:
        time = _timing(entry, name)
        return None if time is None else time - begin

    sent_s = at("request_start") or 0.0
    first_s, last_s = at("first_token_iteration"), at("last_token_iteration")
    done_s = at("request_end")
    done_s = sent_s if done_s is None else done_s
    tokens = int(entry.get("output_tokens") or 0)
    if well and first_s is None:
        ttft = entry.get("time_to_first_token_ms")
        first_s = done_s if ttft is None else sent_s + ttft / 1e3
    if well and last_s is None and first_s is not None:
        per_token = entry.get("inter_token_latency_ms")  # its time_per_output_token_ms includes TTFT
        last_s = done_s if per_token is None else first_s + per_token / 1e3 * max(0, tokens - 1)
    chunks = spread_pieces(first_s, last_s, tokens) if well and first_s is not None and last_s is not None else ()
    message = str((entry.get("info") or {}).get("error") or "")
    due_s = at("targeted_start")
    return RequestRecord(
        conversation=str(entry.get("request_id", f"request-{i}")),
        turn=int((entry.get("info") or {}).get("turn_index") or 0) + 1,
        due_s=sent_s if due_s is None else min(due_s, sent_s),
        sent_s=sent_s,
        done_s=done_s,
        chunk_s=chunks,
        prompt_tokens=int(entry.get("prompt_tokens") or 0),
        output_tokens=tokens if well else 0,
        expected_output_tokens=0,
        cached_tokens=entry.get("cached_tokens"),
        status=200 if well else 0,
        error=None if well else message[:200] or "it failed",
        failure=None if well else failed_kind(message),
    )


def _timing(entry: Mapping[str, Any], name: str) -> float | None:
    value = ((entry.get("info") or {}).get("timings") or {}).get(name)
    return None if value is None else float(value)
