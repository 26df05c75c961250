"""`tercet top`: its figures and its picture by hand-made answers, the command against a router on a socket."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tercet.cli.main import build_app
from tercet.cli.top_figures import Figures, e2e_ms, phase_ms, quantile, tpot_ms, ttft_ms
from tercet.cli.top_view import frame, milliseconds, spark, timeline
from tercet.core.api_keys import ApiKey, digest_of
from tercet.core.errors import UsageError
from tests.unit.router.harness import routing

ADMIN, USER = "the-admins-key", "some-users-key"


def span(phase: str, start: float, end: float, worker: str | None = "P0", **more: str) -> dict[str, Any]:
    return {"phase": phase, "worker": worker, "start_ms": start, "end_ms": end, **more}


def record(i: int, ended: float = 100.0, **more: Any) -> dict[str, Any]:
    spans = [span("queue", 0, 5, None), span("prefill", 5, 45), span("decode_first_token", 45, 60, "D0")]
    return {
        "id": f"r{i}",
        "started_at": ended - 0.26,
        "duration_ms": 260.0,
        "mode": "pd",
        "turn": "first",
        "stream": True,
        "status": 200,
        "finish_reason": "length",
        "error": None,
        "route": "P0>D0",
        "prompt_tokens": 400,
        "cached_tokens": 100,
        "output_tokens": 21,
        "retries": 0,
        "spans": [*spans, span("stream", 60, 260, "D0")],
        **more,
    }


def rank(name: str, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"name": name, "address": f"http://w/{name}", "ready": True, "breaker": "closed"}
    given |= {"requests": 3, "tokens": 1200, "routed": 9, "prefix_blocks": 7, "told_blocks": None, "kv_use": 0.4}
    return {**given, "unaccepted_handoffs": 1, **more}


def worker(role: str, *ranks: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": role, "draining": False, "drain_left_s": None, "problem": None, "ranks": list(ranks), **more}


def status(at: float, requests: int = 0, **more: Any) -> dict[str, Any]:
    counts = {"requests": requests, "ok": requests - requests // 10, "failed": requests // 10}
    answer: dict[str, Any] = {"version": "1", "time": at, "mode": "pd", "ready": True, "reason": None, "uptime_s": at}
    answer |= {"in_flight": 4, "waiting": 0, "workers": [worker("P", rank("P0")), worker("D", rank("D0"))]}
    answer |= {"pairs": [], "unmatched": None, "counts": {"pd": {**counts, "routes": {"P0>D0": requests}}}}
    return {**answer, **more}


def shown(figures: Figures, *, width: int = 170, **options: Any) -> str:
    console = Console(width=width, no_color=True, force_terminal=False)
    with console.capture() as captured:
        console.print(frame(figures, "http://r", width=width, height=40, **options))
    return captured.get()


def test_figures_of_a_record() -> None:
    assert (ttft_ms(record(0)), tpot_ms(record(0)), e2e_ms(record(0))) == (60.0, 10.0, 260.0)
    assert phase_ms("prefill")(record(0)) == 40.0 and phase_ms("encode")(record(0)) is None
    whole, failed = record(0, stream=False), record(0, status=502)
    assert (ttft_ms(whole), tpot_ms(whole), e2e_ms(whole)) == (None, None, 260.0)
    assert (ttft_ms(failed), tpot_ms(failed), e2e_ms(failed), phase_ms("queue")(failed)) == (None,) * 4
    retried = record(0, spans=[span("stream", 1, 2, "D1"), *record(0)["spans"]])
    assert (ttft_ms(retried), tpot_ms(retried)) == (60.0, 10.0)
    assert tpot_ms(record(0, output_tokens=1)) is None and tpot_ms(record(0, output_tokens=None)) is None


def test_rates_are_of_the_last_seconds() -> None:
    figures = Figures()
    figures.take(status(100.0, 50), [])
    assert figures.rate("requests") is None and figures.rank_rates() == {}
    figures.take(status(105.0, 60), [record(1, 104.0), record(2, 103.0)])
    assert figures.rate("requests") == 2.0 and figures.rank_rates() == {"P0": 2.0, "D0": 2.0}
    assert figures.failed_share() == pytest.approx(0.1)
    assert figures.tokens_per_second() == pytest.approx(1.8 * 21)
    figures.take(status(120.0, 60), [])
    assert figures.rate("requests") == 0.0


def test_records_are_kept_once_and_forgotten_with_their_router() -> None:
    figures = Figures()
    assert figures.take(status(100.0), [record(2), record(1)]) == 2
    assert figures.take(status(101.0), [record(3), record(2)]) == 1
    assert [kept["id"] for kept in figures.latest(2)] == ["r3", "r2"]
    assert len(figures.values(ttft_ms)) == 3 and figures.values(ttft_ms, seconds=0.5) == []
    assert figures.series(ttft_ms)[-1] == 60.0 and figures.series(ttft_ms)[0] is None
    figures.take({**status(102.0), "uptime_s": 0.5}, [])
    assert figures.latest(9) == [] and len(figures.counts) == 1


def test_records_that_were_missed_in_a_burst_take_their_place() -> None:
    figures = Figures()
    figures.take(status(100.0), [record(4, 99.0), record(3, 98.0)])
    assert figures.take(status(101.0), [record(i, 95.0 + i) for i in (5, 4, 3, 2, 1)]) == 3
    assert [kept["id"] for kept in figures.latest(9)] == ["r5", "r4", "r3", "r2", "r1"]


def test_rates_begin_anew_when_the_counters_do() -> None:
    figures = Figures()
    figures.take(status(100.0, 50), [])
    figures.take(status(101.0, 2), [])  # POST /metrics/clear
    assert figures.rate("requests") is None and figures.rank_rates() == {} and figures.failed_share() is None
    figures.take(status(103.0, 12), [])
    assert figures.rate("requests") == 5.0


def test_quantiles_and_words() -> None:
    assert quantile([], 0.5) is None and quantile([3.0, 1.0, 2.0], 0.5) == 2.0 and quantile([0.0, 10.0], 0.95) == 9.5
    assert [milliseconds(v) for v in (None, 0.123, 12.34, 123.4, 1234.0)] == [
        "-",
        "0.12 ms",
        "12.3 ms",
        "123 ms",
        "1.23 s",
    ]
    assert spark([None, 0.0, 5.0, 10.0]) == " ▁▅█" and spark([None, None]) == "  "
    assert timeline(record(0), 60.0, 12).plain == "qppppppppddd"
    assert timeline(record(0, spans=[span("prefill", 0, 60, error="gone")]), 60.0, 4).plain == "xxxx"


def test_the_picture_holds_everything() -> None:
    figures = Figures()
    figures.take(status(100.0, 50), [])
    figures.take(status(102.0, 60), [record(1, 101.0), record(2, 101.5, status=502, error="worker_unreachable")])
    text = shown(figures)
    for word in (
        "mode pd",
        "● ready",
        "requests/s 5.0",
        "TTFT p50 60.0 ms",
        "1,200",
        "████░░░░░░  40%",
        "P0>D0",
        "25%",
    ):
        assert word in text, (word, text)
    assert "502 worker_unreachable" in text and "qppp" in text
    assert "no answer: gone" in shown(figures, problem="gone")


@pytest.mark.parametrize("width", [80, 90, 100, 110, 120, 140, 170])
def test_nothing_is_cut_off_on_a_narrow_terminal(width: int) -> None:
    figures = Figures()
    addressed = worker("D", rank("D0", address="http://10.0.0.12:8000"))
    figures.take(status(100.0, 50, workers=[addressed]), [])
    figures.take(status(102.0, 60, workers=[addressed]), [record(1, 101.0, duration_ms=1234.0)])
    text = shown(figures, width=width)
    assert "…" not in text and "failed 10.0%" in text and "P0>D0" in text and "10.0.0.12:8000" in text
    assert max(map(len, text.splitlines())) <= width


def test_what_is_wrong_is_said() -> None:
    figures = Figures()
    workers = [
        worker("P", rank("P0", ready=False, kv_use=None), problem="cannot connect"),
        worker("P", rank("P1", ready=False), draining=True, drain_left_s=12.0),
        worker("D", rank("D0", ready=False, breaker="open")),
        worker("E", rank("E0", ready=False)),
    ]
    pairs = [{"pair": "P1>D0", "ready": False, "problem": "a request did not cross"}]
    answer = status(
        1.0, workers=workers, pairs=pairs, ready=False, reason="no prefill worker", unmatched="2 and 3 ranks"
    )
    figures.take(answer, [])
    text = shown(figures)
    for word in (
        *("NOT READY: no prefill worker", "DOWN", "draining 12 s", "breaker open", "probing"),
        *("P0: cannot connect", "P1>D0: a request did not cross", "2 and 3 ranks"),
    ):
        assert word in text, (word, text)


async def run(*arguments: str) -> tuple[str, BaseException | None]:
    """Run the command in another thread, as it has an event loop of its own; return what it printed, and its error."""
    app = build_app(["top"])
    done = await asyncio.to_thread(CliRunner().invoke, app, ["top", *arguments])
    return done.stdout, done.exception


async def test_against_a_router_with_keys(tmp_path: Path) -> None:
    admin, user = tmp_path / "admin", tmp_path / "user"
    admin.write_text(ADMIN)
    user.write_text(USER)
    keys = (ApiKey("ops", digest_of(ADMIN), admin=True).line(), ApiKey("user", digest_of(USER)).line())
    async with routing("PD", "pd", api_keys=keys, worker_api_key="w") as setup:
        await setup.chat("hello", stream=True, max_tokens=4, headers={"Authorization": f"Bearer {ADMIN}"})
        text, error = await run(setup.url, "--interval", "0.1", "--api-key-file", str(admin))
        assert error is None and "P0>D0" in text and "mode pd" in text, (text, error)
        line, error = await run(setup.url, "--once", "--json", "--api-key-file", str(admin))
        data = json.loads(line)
        assert data["status"]["mode"] == "pd" and [r["route"] for r in data["requests"]] == ["P0>D0"] and error is None
        for given, said in ((), "wants an API key"), (("--api-key-file", str(user)), "admin's key"):
            text, error = await run(setup.url, *given)
            assert isinstance(error, UsageError) and said in str(error) and text == ""


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "neither a router's URL"),
        ("ftp://127.0.0.1:9", "neither a router's URL"),
        ("http://127.0.0.1:9", "no router answers on http://127.0.0.1:9"),
    ],
)
async def test_a_wrong_url_is_the_users_mistake(url: str, said: str) -> None:
    text, error = await run(url, "--once")
    assert isinstance(error, UsageError) and said in str(error) and text == ""


async def test_what_is_no_router_is_not_taken_for_one() -> None:
    async with routing("A") as setup:
        text, error = await run(setup.workers[0].url, "--once")
    assert isinstance(error, UsageError) and "is it one?" in str(error) and text == ""


def test_such_a_mistake_ends_with_2() -> None:
    command = [sys.executable, "-m", "tercet", "top", "http://127.0.0.1:9"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("error: no router answers")
