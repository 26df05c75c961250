"""Whole made-up comparisons: latencies from a queueing formula, so that curves bend and cross as real ones do."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from tercet.results.curve import Interference, RatioCurve, RatioPoint, Region
from tercet.results.document import ArchitectureRecord, Machine, Method, Results, TrafficRecord
from tercet.results.record import ClientHealth, RequestRecord, RunRecord, StageBusy
from tercet.results.summary import summarise
from tercet.results.verdict import BEATEN, Margin, Verdict

HEALTHY = ClientHealth(0.4, 0.9, 0.6, 1.5, 0.05, saturated=False)
LATE = replace(HEALTHY, lateness_ms_p99=80.0, saturated=True, reasons=("1% of the requests were sent 80.0 ms late",))

WORKLOADS = {"W1": (512, 256), "W2": (4096, 128), "W3": (256, 1024), "W4": (8192, 64)}
SHAPES = {
    "replicated": (0.020, 0.0080, 0.62, "2A"),
    "pd": (0.034, 0.0058, 0.8, "1P1D"),
    "ppd": (0.030, 0.0062, 1.3, "1P1D"),
    "aggregated": (0.022, 0.0082, 0.95, "2A"),
    "epd": (0.030, 0.0055, 1.2, "1E1P1D"),
}
"""Seconds before the first token, seconds a token, capacity against the first's, short form."""


def comparison(
    modes: Sequence[str] = ("replicated", "pd", "ppd"),
    *,
    workloads: Sequence[str] = ("W1", "W2", "W3", "W4"),
    loads: Sequence[float] = (0.5, 1, 2, 4, 8),
    load_kind: str = "qps",
    blocks: int = 5,
    conversations: int = 8,
    turns: int = 2,
    invalid: tuple[str, float] | None = None,
    devices: dict[str, int] | None = None,
) -> Results:
    """Return a whole comparison. `invalid` names an architecture and a load at which the client was late."""
    chance = random.Random(7)
    runs: list[RunRecord] = []
    for block in range(blocks):
        for workload in workloads:
            for load in loads:
                for mode in modes:
                    late = (mode, load) == invalid
                    runs.append(
                        _run(chance, mode, workload, load_kind, load, block, len(runs), conversations, turns, late)
                    )
    counts = {mode: (devices or {}).get(mode, 2) for mode in modes}
    return Results(
        kind="compare",
        created_at="2026-01-02T03:04:05+00:00",
        command=("tercet", "compare", "--workload", "all"),
        versions={"python": "3.11.9", "tercet": "0.1.0"},
        machine=Machine("A <fast> CPU & more", 2, 2, 24 << 30, "Linux"),
        model="smollm2-135m",
        seed=1,
        traffics=tuple(
            TrafficRecord(w, 1.0, *WORKLOADS.get(w, (600, 64)), turns, 0.0, "poisson", conversations * turns)
            for w in workloads
        ),
        architectures=tuple(
            ArchitectureRecord(
                mode,
                mode,
                SHAPES[mode][3],
                {f"worker-{i}": (f"cpu:{i}",) for i in range(counts[mode])},
                counts[mode],
                {"engine": "tercet", "dtype": "bf16"},
                {"balancer": None},
            )
            for mode in modes
        ),
        runs=tuple(runs),
        summaries=summarise(runs, counts),
        verdicts=tuple(
            _verdict(runs, workload, load_kind, load, metric, modes)
            for workload in workloads
            for load in loads
            for metric in ("ttft", "throughput")
        ),
        answers=None,
        curves=tuple(
            _curve(runs, workload, load_kind, loads, modes[0], other) for workload in workloads for other in modes[1:]
        ),
        interference=(Interference(modes[0], 4, 2048, 3, 8.1, 12.0, 31.0, 240.0, 410.0),),
        method=Method(blocks, ("ttft", "throughput"), 0.03, "turn", len(set(counts.values())) > 1),
    )


def _run(
    chance: random.Random,
    mode: str,
    workload: str,
    load_kind: str,
    load: float,
    block: int,
    order: int,
    conversations: int,
    turns: int,
    late: bool,
) -> RunRecord:
    first_s, token_s, capacity, form = SHAPES[mode]
    tokens_in, tokens_out = WORKLOADS.get(workload, (600, 64))
    use = min(0.96, load / 9 * (tokens_in / 2048 + tokens_out / 1024) ** 0.5 / capacity)
    weather = chance.gauss(1, 0.04)
    requests: list[RequestRecord] = []
    for talk in range(conversations):
        for turn in range(1, turns + 1):
            sent = talk * turns / load + turn * 3
            warm = 0.3 if turn > 1 and mode in ("ppd", "replicated") else 1.0
            prefill = first_s * (0.4 + tokens_in / 1024) * warm
            queue = prefill * use / (1 - use) * chance.uniform(0.2, 1.8)
            ttft = (prefill * chance.uniform(0.9, 1.1) + queue) * weather
            step = token_s * (1 + use) * weather
            pieces = min(tokens_out, 12)
            chunks = tuple(sent + ttft + i * step * (tokens_out - 1) / (pieces - 1) for i in range(pieces))
            handoff = 4.0 if "P" in form else 0.0
            requests.append(
                RequestRecord(
                    f"c{talk}", turn, sent, sent, chunks[-1] + 0.001, chunks, tokens_in * turn, tokens_out, tokens_out,
                    cached_tokens=0, output_digest=f"{talk}-{turn}", route="P0>D0",
                    phases_ms={
                        "queue": queue * 1e3, "prefill": prefill * 1e3, "handoff": handoff,
                        "decode": (chunks[-1] - chunks[0]) * 1e3,
                    },
                )
            )  # fmt: skip
    if use > 0.9:
        requests[-1] = replace(
            requests[-1], chunk_s=(), output_tokens=0, status=503, error="503 busy", failure="http_5xx"
        )
    done = max(request.done_s for request in requests)
    return RunRecord(
        mode, mode, workload, load_kind, load, block, order, f"s-{block}", "2026-01-02T03:04:05+00:00",
        done - requests[0].sent_s, LATE if late else HEALTHY, tuple(requests),
        invalid_reasons=LATE.reasons if late else (),
        foreign_cores=0.1,
        stages=tuple(
            StageBusy(f"w-{stage}", stage, use if stage == "prefill" else use * 0.4) for stage in ("prefill", "decode")
        ),
    )  # fmt: skip


def _median(runs: Sequence[RunRecord], workload: str, load: float, mode: str) -> float:
    mine = [run for run in runs if (run.workload, run.load, run.architecture) == (workload, load, mode)]
    values = sorted(request.ttft_ms for run in mine for request in run.finished)
    return values[len(values) // 2]


def _verdict(
    runs: Sequence[RunRecord], workload: str, load_kind: str, load: float, metric: str, modes: Sequence[str]
) -> Verdict:
    values = {mode: _median(runs, workload, load, mode) for mode in modes}
    best = min(values, key=values.__getitem__)
    margins = tuple(
        Margin(mode, value / values[best] - 1, value / values[best] - 1.1, value / values[best] - 0.9, 0.01, BEATEN)
        for mode, value in values.items()
        if mode != best
    )
    label, unit = ("TTFT", "ms") if metric == "ttft" else ("output tokens/s", "")
    return Verdict(
        workload, load_kind, load, metric, label, unit, metric == "ttft", True, values, (best,), margins, "5 blocks"
    )


def _curve(
    runs: Sequence[RunRecord], workload: str, load_kind: str, loads: Sequence[float], first: str, second: str
) -> RatioCurve:
    points = []
    for load in loads:
        ratio = _median(runs, workload, load, first) / _median(runs, workload, load, second)
        points.append(RatioPoint(load, ratio, ratio / 1.15, ratio * 1.15, 5))
    sides = [first if point.high < 1 else second if point.low > 1 else None for point in points]
    regions: list[Region] = []
    for a, b, side in zip(loads, loads[1:], sides, strict=False):
        if regions and regions[-1].better == side:
            regions[-1] = Region(regions[-1].start, b, side)
        else:
            regions.append(Region(a, b, side))
    changes = len({side for side in sides if side}) > 1
    sentence = f"{first} better up to 2, {second} better from 4, undecided between" if changes else "none in this range"
    return RatioCurve(
        workload, load_kind, "ttft", "TTFT", True, first, second, tuple(points), tuple(regions),
        "crossover" if changes else "none", sentence,
    )  # fmt: skip
