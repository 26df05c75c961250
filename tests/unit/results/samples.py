"""Small results to test with."""

from __future__ import annotations

from dataclasses import replace

from tercet.results.document import ArchitectureRecord, Machine, Results, TrafficRecord
from tercet.results.record import ClientHealth, RequestRecord, RunRecord
from tercet.results.summary import summarise

HEALTHY = ClientHealth(0.4, 0.9, 1.1, 1.5, 0.05, saturated=False)


def request(conversation: str, turn: int, ttft_s: float, tpot_s: float, tokens: int = 5) -> RequestRecord:
    """Return an answered request that was sent one second into the run per turn."""
    chunks = tuple(turn + ttft_s + i * tpot_s for i in range(tokens))
    return RequestRecord(
        conversation,
        turn,
        float(turn),
        float(turn),
        chunks[-1] + 0.001,
        chunks,
        prompt_tokens=20 * turn,
        output_tokens=tokens,
        expected_output_tokens=tokens,
        cached_tokens=16 * (turn - 1),
        external_tokens=4 * turn,
        output_digest=f"{conversation}-{turn}",
        route="P0>D0",
    )


def run(mode: str, requests: tuple[RequestRecord, ...], *, qps: float = 1.0, number: int = 0) -> RunRecord:
    """Return a valid run of ten seconds."""
    return RunRecord(
        mode,
        mode,
        "W1",
        "qps",
        qps,
        number,
        number,
        f"s-b{number}",
        "2026-01-02T03:04:05+00:00",
        10.0,
        HEALTHY,
        requests=requests,
    )


def failed(record: RequestRecord) -> RequestRecord:
    """Return the same request, failed."""
    return replace(record, chunk_s=(), output_tokens=0, status=503, error="503 no worker", output_digest=None)


def architecture(mode: str) -> ArchitectureRecord:
    """Return a mode on 1P1D."""
    workers = {"prefill-0": ("cpu:0",), "decode-0": ("cpu:1",)}
    return ArchitectureRecord(mode, mode, "1P1D", workers, 2, {"dtype": "fp32"}, {})


def results() -> Results:
    """Return a whole small results document."""
    runs = (
        run("pd", (request("c0", 1, 0.5, 0.01), request("c0", 2, 0.25, 0.01))),
        run("ppd", (request("c0", 1, 0.5, 0.01), failed(request("c0", 2, 0.1, 0.01)))),
    )
    return Results(
        kind="compare",
        created_at="2026-01-02T03:04:05+00:00",
        command=("tercet", "compare"),
        versions={"python": "3.11"},
        machine=Machine("cpu", 2, 2, 1 << 30, "Linux"),
        model="smollm2-135m",
        seed=0,
        traffics=(TrafficRecord("W1", 0.125, 64, 32, 2, 0.0, "poisson", 2),),
        architectures=tuple(architecture(mode) for mode in ("pd", "ppd")),
        runs=runs,
        summaries=summarise(runs, {"pd": 2, "ppd": 2}),
        verdicts=(),
        answers=None,
    )
