"""Averages of other people's measurements, as CSV: a row for each workload, mode and load."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tercet.core.errors import UsageError
from tercet.latency.samples import FirstToken, Sample, Stretch

COLUMNS = ("workload", "mode", "target_qps", "turn2_prompt_tokens", "mean_output_tokens", "t2_ttft_avg_ms",
           "t2_tpot_avg_ms", "t2_e2e_avg_ms")  # fmt: skip
CACHED_TOKENS = 46
"""Of each prompt, from the conversation's first turn."""
DECODERS = {"pd": 1, "ppd": 1, "replication": 2}
"""Workers that decode, by the mode's name there, when no configuration is given."""


@dataclass(frozen=True, slots=True)
class MeasuredRow:
    """One row. Times are means in milliseconds; `config` is a short form such as 2R, 1P1D or 1P3pD, and
    `samples` the number of requests sent, in the mean of the runs."""

    workload: str
    mode: str
    qps: float
    real_qps: float
    prompt_tokens: int
    output_tokens: float
    ttft_ms: float
    tpot_ms: float
    e2e_ms: float
    config: str = ""
    ttft_p50_ms: float | None = None
    samples: float | None = None


def read_rows(path: Path) -> list[MeasuredRow]:
    """Read such a file. Raises UsageError that names the line."""
    rows = []
    for number, row in enumerate(_lines(path), start=2):
        try:
            rows.append(_row(row))
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{path}, line {number}: {_why(error)}; wanted are {', '.join(COLUMNS)}") from error
    return rows


def read_decode_rows(path: Path) -> list[tuple[int, float]]:
    """Read a file of batch_size, tpot_ms. Raises UsageError that names the line."""
    rows = []
    for number, row in enumerate(_lines(path), start=2):
        try:
            rows.append((int(_figure(row, "batch_size")), _figure(row, "tpot_ms")))
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{path}, line {number}: {_why(error)}; wanted are batch_size and tpot_ms") from error
    return rows


def read_csv_samples(path: Path, *, all_loads: bool = False, context: float = 2460.0) -> list[Sample]:
    """Return the samples of either kind of file: of the lowest load of each workload and mode, unless told otherwise.

    `context` is that of the decode-only file, which does not say.
    """
    first = next(iter(_lines(path)), {})
    if "batch_size" in first:
        return [Stretch(tpot, 1, float(batch), context) for batch, tpot in read_decode_rows(path)]
    rows = read_rows(path)
    return samples_of(rows if all_loads else lowest_loads(rows))


def lowest_loads(rows: Sequence[MeasuredRow]) -> list[MeasuredRow]:
    """Return the row of the lowest load of each workload, mode and configuration."""
    lowest: dict[tuple[str, str, str], MeasuredRow] = {}
    for row in rows:
        key = (row.workload, row.mode, row.config)
        if key not in lowest or row.qps < lowest[key].qps:
            lowest[key] = row
    return list(lowest.values())


def samples_of(rows: Sequence[MeasuredRow]) -> list[Sample]:
    """Return a first token and a stretch for each row; how many decode together is arrivals times their stay."""
    found: list[Sample] = []
    for row in rows:
        handoff = row.mode == "pd"
        under_way = row.real_qps * row.e2e_ms / 1e3 / DECODERS.get(row.mode, 1)
        steps = max(round(row.output_tokens) - 1, 1)
        context = row.prompt_tokens + row.output_tokens / 2
        cached = min(CACHED_TOKENS, row.prompt_tokens - 1)
        found.append(
            FirstToken(
                row.ttft_p50_ms or row.ttft_ms,
                row.prompt_tokens - cached,
                cached,
                decodes=0.0 if handoff else under_way,
                context=context,
                busy=0.0 if handoff else 1 - math.exp(-under_way),
                handoff=handoff,
                handoff_busy=1 - math.exp(-under_way) if handoff else 0.0,
            )
        )
        came = row.real_qps * row.tpot_ms * steps / 1e3 if handoff else 0.0
        found.append(Stretch(row.tpot_ms * steps, steps, 1 + under_way, context, handoffs=came))
    return found


def _row(row: Mapping[str, str]) -> MeasuredRow:
    p50 = "t2_ttft_p50_ms"
    return MeasuredRow(
        workload=row["workload"],
        mode=row["mode"],
        qps=_figure(row, "target_qps"),
        real_qps=_figure(row, "real_qps" if row.get("real_qps") else "target_qps"),
        prompt_tokens=math.ceil(_figure(row, "turn2_prompt_tokens")),
        output_tokens=_figure(row, "mean_output_tokens"),
        ttft_ms=_figure(row, "t2_ttft_avg_ms"),
        tpot_ms=_figure(row, "t2_tpot_avg_ms"),
        e2e_ms=_figure(row, "t2_e2e_avg_ms"),
        config=row.get("config") or "",
        ttft_p50_ms=_figure(row, p50) if row.get(p50) else None,
        samples=_figure(row, "samples") if row.get("samples") else None,
    )


def _figure(row: Mapping[str, str], name: str) -> float:
    """Return a figure of a row: nothing here can be zero or less, and a fit of it would come to nonsense."""
    value = float(row[name])
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is {row[name]}, a number above 0 is needed")
    return value


def _why(error: Exception) -> str:
    return f"there is no column {error}" if isinstance(error, KeyError) else str(error)


def _lines(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"can't read {path}: {error}") from error
