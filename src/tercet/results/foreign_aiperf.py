"""What AIPerf writes: a summary, and a line a request beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

from tercet.core.errors import UsageError
from tercet.results.foreign_run import ForeignRun, failed_kind, spread_pieces
from tercet.results.record import RequestRecord

TOOL = "AIPerf"
RECORDS = "profile_export.jsonl"


def is_aiperf(data: Any) -> bool:
    """Return whether this is AIPerf's summary."""
    return isinstance(data, dict) and "input_config" in data and "request_latency" in data


def aiperf_run(path: Path, summary: Mapping[str, Any], lines: str | None) -> ForeignRun:
    """Return the run of a summary and the records beside it, or of the records alone (`lines`). Raises UsageError."""
    if lines is None:
        lines = _records_beside(path)
    entries = [json.loads(line) for line in lines.split("\n") if line.strip()]
    entries = [entry for entry in entries if entry["metadata"].get("benchmark_phase", "profiling") == "profiling"]
    if not entries:
        raise UsageError(f"{path} holds no requests")
    begin_ns = min(entry["metadata"]["request_start_ns"] for entry in entries)
    requests = tuple(_request(entry, i, begin_ns) for i, entry in enumerate(entries))
    end_s = max(request.done_s for request in requests)
    kind, load = _load(summary, len(requests) / end_s if end_s > 0 else 1.0)
    return ForeignRun(
        tool=TOOL,
        label=TOOL,
        model=_model(summary.get("input_config") or {}),
        load_kind=kind,
        load=load,
        started=datetime.fromtimestamp(begin_ns / 1e9, UTC),
        duration_s=end_s,
        requests=requests,
        complete=not summary.get("was_cancelled", False),
        notes=() if summary else ("The load is the mean rate of requests: the records alone do not say it.",),
    )


def _records_beside(path: Path) -> str:
    for beside in (path.with_suffix(".jsonl"), path.with_name(RECORDS)):
        if beside.is_file():
            return beside.read_text(encoding="utf-8-sig")
    raise UsageError(
        f"{path} holds sums only, and {RECORDS} is not beside it: AIPerf writes it at --export-level records"
    )


def _load(summary: Mapping[str, Any], rate: float) -> tuple[str, float]:
    asked = summary.get("input_config")
    for kind, name in (("qps", "request_rate"), ("qps", "rate"), ("concurrency", "concurrency")):
        found = _find(asked, (name,))
        if isinstance(found, int | float) and found > 0:
            return kind, float(found)
    return "qps", round(rate, 6)


def _model(asked: Mapping[str, Any]) -> str:
    items = asked["models"].get("items") if isinstance(asked.get("models"), dict) else None
    return str((items[0]["name"] if items else _find(asked, ("model_names", "models", "model"))) or "unknown")


def _find(data: Any, names: tuple[str, ...]) -> Any:
    """Return the first plain value under one of these names, however deep: the layout differs between versions."""
    for name, value in _leaves(data):
        if name in names and value is not None:
            return value
    return None


def _leaves(data: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _leaves(value, key)
    elif isinstance(data, list):
        for value in data:
            yield from _leaves(value, name)
    else:
        yield name, data


def _request(entry: Mapping[str, Any], i: int, begin_ns: int) -> RequestRecord:
    about, metrics, error = entry["metadata"], entry.get("metrics") or {}, entry.get("error")

    def at(name: str) -> float | None:
        return None if about.get(name) is None else (about[name] - begin_ns) / 1e9

    sent_s = at("request_start_ns") or 0.0
    tokens = int(_value(metrics, "output_sequence_length") or 0)
    ttft, whole = _seconds(metrics, "time_to_first_token"), _seconds(metrics, "request_latency")
    well = error is None and whole is not None and not about.get("was_cancelled")
    chunks: tuple[float, ...] = ()
    if well and whole is not None:
        first_s = sent_s + (whole if ttft is None else ttft)
        gaps = _value(metrics, "inter_chunk_latency")
        scale = _SECONDS[metrics["inter_chunk_latency"]["unit"]] if gaps else 0.0
        per_token = _seconds(metrics, "inter_token_latency")
        last_s = sent_s + whole if per_token is None else first_s + per_token * max(0, tokens - 1)
        chunks = (
            tuple(accumulate((gap * scale for gap in gaps), initial=first_s))
            if isinstance(gaps, list)
            else spread_pieces(first_s, last_s, tokens)
        )
    message = "" if error is None else str(error.get("message") or error.get("type") or error)
    return RequestRecord(
        conversation=str(about.get("conversation_id") or f"session-{about.get('session_num', i)}"),
        turn=int(about.get("turn_index") or 0) + 1,
        due_s=min(sent_s, sent_s if (due := at("credit_issued_ns")) is None else due),
        sent_s=sent_s,
        done_s=at("request_end_ns") or sent_s,
        chunk_s=chunks,
        prompt_tokens=int(_value(metrics, "input_sequence_length") or 0),
        output_tokens=tokens if well else 0,
        expected_output_tokens=0,
        status=200 if well else 0,
        error=None if well else message[:200] or "cancelled",
        failure=None if well else failed_kind(message),
        headers_s=at("request_ack_ns"),
    )


_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "sec": 1.0, "s": 1.0}


def _value(metrics: Mapping[str, Any], name: str) -> Any:
    return metrics[name]["value"] if name in metrics else None


def _seconds(metrics: Mapping[str, Any], name: str) -> float | None:
    return float(metrics[name]["value"]) * _SECONDS[metrics[name]["unit"]] if name in metrics else None
