"""The load generator against a server whose own clock says what the figures must be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from time import perf_counter_ns

import pytest
import uvloop

from tercet.bench.health import Vitals, judge
from tercet.bench.load import run_load
from tercet.bench.result import RequestResult
from tercet.bench.sender import Sender
from tercet.http.client import Client

from .talks import talks

STREAMS = 32
TOKENS = 64


@pytest.fixture(scope="module")
def truth_url() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("truth_server.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def _measure(url: str, *, chat: bool) -> tuple[list[RequestResult], Vitals]:
    results: list[RequestResult] = []

    async def main() -> Vitals:
        client = Client()
        vitals = await run_load(
            Sender(client, url),
            talks(STREAMS, tokens=TOKENS, every_s=0.003, chat=chat),
            model="m",
            origin_ns=perf_counter_ns() + 100_000_000,
            on_result=results.append,
        )
        await client.close()
        return vitals

    return results, uvloop.run(main())


@dataclass(frozen=True)
class Errors:
    """What was measured minus what the server's clock says, in milliseconds."""

    ttft: list[float]
    tpot: list[float]

    def small(self) -> bool:
        return 0 < median(self.ttft) < 2.0 and abs(median(self.tpot)) < 0.1 and abs(mean(self.tpot)) < 0.1


def _errors(results: list[RequestResult]) -> Errors:
    ttft, tpot = [], []
    for result in results:
        stamps = [tuple(map(int, pair.split(","))) for pair in result.text.split(";")[:-1]]
        assert len(stamps) == TOKENS == result.completion_tokens
        assert result.ttft_ms is not None and result.tpot_ms is not None
        received_ns, first_ns, last_ns = stamps[0][0], stamps[0][1], stamps[-1][1]
        assert result.chunk_ns[0] >= first_ns  # the role chunk and the comment at 0 ms are no content
        ttft.append(result.ttft_ms - (first_ns - received_ns) / 1e6)
        tpot.append(result.tpot_ms - (last_ns - first_ns) / 1e6 / (TOKENS - 1))
    return Errors(ttft, tpot)


@pytest.mark.parametrize("chat", [False, True], ids=["completions", "chat"])
def test_figures_agree_with_the_servers_own_clock(truth_url: str, chat: bool) -> None:
    for _ in range(4):
        results, vitals = _measure(truth_url, chat=chat)
        assert [result.error for result in results] == [None] * STREAMS
        assert all(result.ttft_ms is not None and result.ttft_ms > 99 for result in results)
        errors = _errors(results)
        if errors.small():
            return
    lag = judge((), (vitals,)).loop_lag_ms_p99
    if lag > 4.0:
        pytest.skip(f"this machine lets an idle loop wait {lag:.1f} ms: it is too busy to measure on")
    pytest.fail(f"TTFT is off by {median(errors.ttft)} ms, TPOT by {median(errors.tpot)} ms (medians): {errors}")


def test_everything_the_server_said_is_kept(truth_url: str) -> None:
    results, _ = _measure(truth_url, chat=False)
    for result in results:
        assert (result.prompt_tokens, result.cached_tokens, result.completion_tokens) == (7, 3, TOKENS)
        assert result.token_ids == tuple(range(TOKENS)) and result.route == "D0" and result.status == 200
        assert len(result.chunk_ns) <= TOKENS
        assert result.scheduled_ns <= result.sent_ns < result.chunk_ns[0] < result.done_ns
