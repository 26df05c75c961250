"""What `vllm bench serve --save-result --save-detailed` writes: one load a file, a list for each thing measured."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

from tercet.core.errors import UsageError
from tercet.results.foreign_run import ForeignRun, failed_kind
from tercet.results.record import RequestRecord

TOOL = "vllm bench serve"
_LISTS = ("start_times", "ttfts", "itls", "input_lens", "output_lens", "errors")


def is_vllm(data: Any) -> bool:
    """Return whether this is such a file."""
    return isinstance(data, dict) and {"request_throughput", "total_output_tokens", "completed"} <= set(data)


def vllm_run(path: Path, data: Mapping[str, Any]) -> ForeignRun:
    """Return its run. Raises UsageError when it holds sums only."""
    if missing := [name for name in _LISTS if name not in data]:
        raise UsageError(f"{path} holds no {missing[0]}, only sums: repeat it with --save-detailed")
    limit, rate = data.get("max_concurrency"), data.get("request_rate", "inf")
    closed = rate == "inf"
    begin = min(data["start_times"], default=0.0)
    count = len(data["start_times"])
    requests = tuple(_request(data, i, begin) for i in range(count))
    return ForeignRun(
        tool=TOOL,
        label=str(data.get("label") or TOOL),
        model=str(data.get("model_id", "unknown")),
        load_kind="concurrency" if closed else "qps",
        load=float(limit or count) if closed else float(rate),
        started=datetime.strptime(data["date"], "%Y%m%d-%H%M%S").replace(tzinfo=UTC),
        duration_s=float(data["duration"]),
        requests=requests,
    )


def _request(data: Mapping[str, Any], i: int, begin: float) -> RequestRecord:
    """Return one request. A failed one has an error, and a TTFT of 0."""
    sent_s, ttft, error = data["start_times"][i] - begin, data["ttfts"][i], data["errors"][i]
    tokens = int(data["output_lens"][i] or 0)
    well = not error and ttft > 0
    chunks = tuple(accumulate(data["itls"][i], initial=sent_s + ttft)) if well else ()
    return RequestRecord(
        conversation=f"request-{i}",
        turn=1,
        due_s=sent_s,
        sent_s=sent_s,
        done_s=chunks[-1] if chunks else sent_s,
        chunk_s=chunks,
        prompt_tokens=int(data["input_lens"][i]),
        output_tokens=tokens if well else 0,
        expected_output_tokens=0,
        status=200 if well else 0,
        error=None if well else str(error).strip()[-200:] or "no answer",
        failure=None if well else failed_kind(str(error)),
    )
