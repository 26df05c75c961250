"""Whole comparisons against fake deployments over real sockets."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tercet.compare.architecture import Architecture, of_mode
from tercet.compare.journal import Journal
from tercet.compare.request import Settings, ready
from tercet.compare.run import Comparison, plan_of
from tercet.compare.seams import Drive
from tercet.compare.spec import WARM, CompareSpec
from tercet.core.errors import TercetError, UsageError
from tercet.core.stage import Mode
from tercet.core.topology import Topology, parse_short_form
from tercet.report.progress import PlainNarrator
from tercet.results.file import to_json, validate
from tercet.results.record import ClientHealth
from tercet.results.slo import Slo
from tercet.traffic.scripts import Dataset, Script, ScriptTurn
from tercet.traffic.spec import LoadKind, Talk, TrafficSpec
from tercet.traffic.workload import Workload

from .fakes import Behaviour, FakeDeployment, punctual_drive

TRAFFIC = TrafficSpec(Workload("t", 32, 4), qps=50.0, num_requests=4, turns=2, seed=1)


def modes(*names: Mode, dtype: str = "fp32") -> tuple[Architecture, ...]:
    settings = Settings({"dtype": dtype, "devices": ("cpu:0",)}, TRAFFIC.longest)
    return ready([of_mode(mode) for mode in names], settings)


def spec(*names: Mode, **changes: Any) -> CompareSpec:
    values: dict[str, Any] = {
        "architectures": modes(*(names or (Mode.REPLICATED, Mode.PD, Mode.PPD))),
        "traffics": (TRAFFIC,),
        "load_kind": LoadKind.QPS,
        "loads": (50.0,),
        "blocks": 1,
        "probe": False,
    }
    return CompareSpec(**{**values, **changes})


class Lab:
    """A comparison with fakes, and what they saw and said."""

    def __init__(
        self,
        wanted: CompareSpec,
        behaviour: Behaviour | None = None,
        *,
        journal: Journal | None = None,
        folder: Path,
        drive: Drive = punctual_drive,
    ) -> None:
        self.log: list[str] = []
        self.out = io.StringIO()
        self.journal = journal or Journal.create(
            folder, created_at="2026-01-02T03:04:05+00:00", nonce="s1", plan=plan_of(wanted)
        )

        def deploy(topology: Topology) -> FakeDeployment:
            return FakeDeployment(topology, behaviour or Behaviour(), self.log)

        self.comparison = Comparison(
            wanted,
            deploy=deploy,
            drive=drive,
            narrator=PlainNarrator(Console(file=self.out, width=200)),
            journal=self.journal,
            command=("tercet", "compare"),
        )


async def test_the_first_blocks_answers_are_shown_on_request(tmp_path: Path) -> None:
    lab = Lab(spec(Mode.REPLICATED, Mode.PD, blocks=2, show_responses=2), folder=tmp_path)
    await lab.comparison.run()
    lines = [line.split(", turn ")[0].strip() for line in lab.out.getvalue().splitlines() if ", turn " in line]
    assert sorted(lines) == ["pd", "pd", "replicated", "replicated"]


@pytest.mark.slow
async def test_every_architecture_answers_the_same_conversations_and_the_faster_one_wins(tmp_path: Path) -> None:
    # Ten times slower on later turns: no noise of a loaded machine hides that.
    lab = Lab(spec(blocks=3), Behaviour(later_s={"pd": 0.2, "replicated": 0.2}), folder=tmp_path)
    await lab.comparison.run()
    results = lab.comparison.results()
    validate(to_json(results), "results")
    for block in range(3):
        runs = [run for run in results.runs if run.block == block]
        assert {run.architecture for run in runs} == {"replicated", "pd", "ppd"}
        asked = [{(r.conversation, r.turn, r.prompt_tokens) for r in run.requests} for run in runs]
        assert asked[0] == asked[1] == asked[2]
        assert len(asked[0]) == 4
    later = next(verdict for verdict in results.verdicts if verdict.metric == "ttft_later")
    assert (later.ahead, later.basis) == ("ppd", "3 blocks")
    assert results.answers is not None
    assert (results.answers.compared, results.answers.equal, results.answers.passed) == (12, 12, True)
    assert results.answers.capital == {"replicated": "Paris.", "pd": "Paris.", "ppd": "Paris."}
    assert [summary.architecture for summary in results.summaries] == ["replicated", "pd", "ppd"]
    (saved,) = [found for found in results.improvements if (found.metric, found.second) == ("ttft_later", "pd")]
    assert saved.mean > 0
    busy = {stage.worker for run in results.runs if run.architecture == "pd" for stage in run.stages}
    assert busy == {"prefill-0", "decode-0"}


async def test_architectures_on_equal_workers_share_processes_and_start_from_nothing(tmp_path: Path) -> None:
    lab = Lab(spec(blocks=2), folder=tmp_path)
    await lab.comparison.run()
    starts = [line for line in lab.log if line.startswith(("start", "stop"))]
    # Two groups in either order in both blocks: the second block may begin with what still runs.
    assert starts.count("start 1P1D") == starts.count("stop 1P1D") <= 2
    assert all(starts[i].split()[1] == starts[i + 1].split()[1] for i in range(0, len(starts), 2)), "never two at once"
    for run in lab.comparison.runs:
        assert not run.invalid
        assert sum(request.cached_tokens or 0 for request in run.requests if request.turn == 1) == 0
        assert sum(request.cached_tokens or 0 for request in run.requests if request.turn == 2) > 0


async def test_kept_warm_everything_starts_once_and_takes_turns_at_every_load(tmp_path: Path) -> None:
    lab = Lab(spec(keep=WARM, loads=(50.0, 80.0)), folder=tmp_path)
    await lab.comparison.run()
    assert sorted(line for line in lab.log if line.startswith("start")) == ["start 1P1D", "start 2A"]
    assert len(lab.comparison.runs) == 6
    by_threes = [lab.comparison.runs[:3], lab.comparison.runs[3:]]
    assert all(len({run.salt for run in three}) == 1 for three in by_threes)
    assert len({run.salt for run in lab.comparison.runs}) == 2


async def test_a_late_client_measures_again_and_at_last_says_so(tmp_path: Path) -> None:
    late = [True, False, True, True, True]

    async def drive(url: str, conversations: Iterable[Talk], **options: Any) -> ClientHealth:
        health = await punctual_drive(url, conversations, **options)
        if "warm" in str(options["cache_salt"]) or not late.pop(0):
            return health
        return replace(health, saturated=True, reasons=("late",))

    lab = Lab(spec(Mode.PD, blocks=2), folder=tmp_path, drive=drive)
    await lab.comparison.run()
    first, second = lab.comparison.runs
    assert (first.invalid, second.invalid, late) == (False, True, [])
    assert second.invalid_reasons == ("late",), "its first turns found empty caches every time"
    assert len(first.requests) == len(second.requests) == 4


async def test_an_interrupt_while_measuring_again_keeps_what_was_late(tmp_path: Path) -> None:
    again = asyncio.Event()
    measured: list[str] = []

    async def drive(url: str, conversations: Iterable[Talk], **options: Any) -> ClientHealth:
        if "warm" in str(options["cache_salt"]):
            return await punctual_drive(url, conversations, **options)
        if measured:
            again.set()
            await asyncio.Event().wait()
        measured.append(url)
        return replace(await punctual_drive(url, conversations, **options), saturated=True, reasons=("late",))

    lab = Lab(spec(Mode.PD, blocks=2), folder=tmp_path, drive=drive)
    task = asyncio.create_task(lab.comparison.run())
    await asyncio.wait_for(again.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (late,) = lab.comparison.runs
    assert (late.invalid, len(late.requests)) == (True, 4)
    assert not lab.comparison.journal.kept.runs, "a continuation measures it anew"


async def test_a_closed_loop_keeps_so_many_under_way(tmp_path: Path) -> None:
    lab = Lab(spec(Mode.PD, Mode.PPD, load_kind=LoadKind.CONCURRENCY, loads=(2.0,)), folder=tmp_path)
    await lab.comparison.run()
    results = lab.comparison.results()
    assert {(run.load_kind, run.load) for run in results.runs} == {("concurrency", 2.0)}
    assert results.traffics[0].arrivals == "closed"
    for run in results.runs:
        changes = sorted([(r.sent_s, 1) for r in run.requests] + [(r.done_s, -1) for r in run.requests])
        under_way = [sum(change for _, change in changes[: i + 1]) for i in range(len(changes))]
        assert max(under_way) <= 2


async def test_unequal_tokens_in_fp32_are_a_fault_and_in_bf16_are_told(tmp_path: Path) -> None:
    lab = Lab(spec(Mode.PD, Mode.PPD), Behaviour(mistaken_mode="ppd"), folder=tmp_path)
    await lab.comparison.run()
    check = lab.comparison.results().answers
    assert check is not None
    assert (check.equal, check.passed) == (0, False)
    assert check.first_difference == "turn 1 of s1-b0-t-q50-c0 (t at 50, block 1)"
    rough = replace(lab.comparison.spec, architectures=modes(Mode.PD, Mode.PPD, dtype="bf16"))
    lab.comparison.spec = rough
    again = lab.comparison.results().answers
    assert again is not None
    assert (again.must_agree, again.passed) == (False, True)


async def test_the_wrong_capital_is_a_fault(tmp_path: Path) -> None:
    lab = Lab(spec(Mode.PD), Behaviour(capital="Rome"), folder=tmp_path)
    await lab.comparison.run()
    check = lab.comparison.results().answers
    assert check is not None
    assert not check.passed


async def test_what_cannot_serve_stops_the_comparison_and_keeps_the_others(tmp_path: Path) -> None:
    lab = Lab(spec(keep=WARM), Behaviour(failing_mode="ppd"), folder=tmp_path)
    with pytest.raises(TercetError, match="ppd can't serve"):
        await lab.comparison.run()
    assert "ppd" not in {run.architecture for run in lab.comparison.results().runs}
    starts = [line.split()[0] for line in lab.log]
    assert starts.count("start") == starts.count("stop")


async def test_cancelling_stops_everything_and_a_continuation_measures_only_the_rest(tmp_path: Path) -> None:
    wanted = spec(Mode.REPLICATED, Mode.PPD, blocks=3)
    lab = Lab(wanted, Behaviour(stuck_mode="ppd", stuck_after=5), folder=tmp_path)
    task = asyncio.create_task(lab.comparison.run())
    while "stuck" not in lab.log:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    results = lab.comparison.results(stopped_by="an interrupt")
    validate(to_json(results), "results")
    starts = [line.split()[0] for line in lab.log]
    assert starts.count("start") == starts.count("stop")
    assert results.interrupted
    assert results.notes[-1].startswith("Stopped early by an interrupt")
    done = [run for run in results.runs if run.complete]
    assert 1 <= len(done) < 6
    lab.journal.close()

    journal = Journal.latest(tmp_path, plan_of(wanted))
    assert journal is not None
    rest = Lab(wanted, journal=journal, folder=tmp_path)
    await rest.comparison.run()
    whole = rest.comparison.results()
    assert len(whole.runs) == 6
    assert len({(run.architecture, run.block) for run in whole.runs}) == 6
    salts = {run.block: run.salt for run in whole.runs}
    assert all(run.salt == salts[run.block] for run in whole.runs), "the same conversations after the stop"
    kept = {(run.architecture, run.block): run.started_at for run in whole.runs}
    assert all(kept[run.architecture, run.block] == run.started_at for run in done), "nothing is measured twice"
    journal.remove()
    assert list(tmp_path.iterdir()) == []


async def test_every_architecture_is_recorded(tmp_path: Path) -> None:
    records = Lab(spec(), folder=tmp_path).comparison.results().architectures
    assert [(record.label, record.mode, record.short_form, record.devices) for record in records] == [
        ("replicated", "replicated", "2A", 1),
        ("pd", "pd", "1P1D", 1),
        ("ppd", "ppd", "1P1D", 1),
    ]
    assert "api_key_file" not in records[0].router


async def test_prefill_amid_decode_is_probed_once_per_architecture(tmp_path: Path) -> None:
    lab = Lab(spec(Mode.PD, blocks=2, probe=True), folder=tmp_path)
    await lab.comparison.run()
    (found,) = lab.comparison.results().interference
    assert (found.architecture, found.streams, found.prompt_tokens) == ("pd", 4, 512)
    assert found.quiet_itl_ms_mean > 0


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@asynccontextmanager
async def servers(*forms: str, behaviour: Behaviour | None = None) -> AsyncIterator[list[FakeDeployment]]:
    started = [
        FakeDeployment(Topology("t", "m", Mode.PD, parse_short_form(form)), behaviour or Behaviour(), [])
        for form in forms
    ]
    for server in started:
        await server.start()
    yield started
    for server in started:
        await server.stop()


async def test_running_servers_are_compared_without_touching_their_caches(tmp_path: Path) -> None:
    async with servers("1P1D", "1P1D") as (one, two):
        urls = (Architecture("old", None, url=one.url), Architecture("new", Mode.PPD, url=two.url))
        lab = Lab(spec(architectures=urls, blocks=2), folder=tmp_path)
        await lab.comparison.run()
        results = lab.comparison.results()
    assert [(record.label, record.mode, record.devices, record.url) for record in results.architectures] == [
        ("old", "pd", 2, one.url),
        ("new", "ppd", 2, two.url),
    ]
    assert results.model == "fake"
    assert "clear" not in one.log + two.log
    assert len(results.runs) == 4
    assert all(len(run.finished) == 4 for run in results.runs)
    assert all(run.foreign_cores is None for run in results.runs)


async def test_a_server_that_wants_a_key_gets_it_with_every_request(tmp_path: Path) -> None:
    async with servers("1P1D", behaviour=Behaviour(api_key="k-123")) as (server,):
        wanted = spec(architectures=(Architecture("now", Mode.PPD, url=server.url),), blocks=1, probe=True)
        with pytest.raises(TercetError, match="401"):
            await Lab(wanted, folder=made(tmp_path / "1")).comparison.run()
        lab = Lab(replace(wanted, headers=(("Authorization", "Bearer k-123"),)), folder=made(tmp_path / "2"))
        await lab.comparison.run()
        results = lab.comparison.results()
    assert [len(run.finished) for run in results.runs] == [4] and server.mode == "ppd"
    assert [found.architecture for found in results.interference] == ["now"]
    assert not any(b"k-123" in path.read_bytes() for path in tmp_path.rglob("*.*"))


async def test_servers_with_unequal_or_unknown_devices_are_refused(tmp_path: Path) -> None:
    async with servers("1P1D", "2P2D") as (one, two):
        urls = (Architecture("old", None, url=one.url), Architecture("new", None, url=two.url))
        with pytest.raises(UsageError, match=r"unequal numbers of devices \(old 2, new 4\): pass --allow-unequal"):
            await Lab(spec(architectures=urls), folder=made(tmp_path / "1")).comparison.run()
        allowed = Lab(spec(architectures=urls, allow_unequal=True), folder=made(tmp_path / "2"))
        await allowed.comparison.run()
        assert [record.devices for record in allowed.comparison.results().architectures] == [2, 4]
        labels = {verdict.label for verdict in allowed.comparison.results().verdicts}
        assert "output tokens/s per device" in labels
        one.topology = replace(one.topology, workers=())
        with pytest.raises(UsageError, match="say --url-devices old=N"):
            await Lab(spec(architectures=urls), folder=made(tmp_path / "3")).comparison.run()


async def test_going_on_finds_nothing_of_the_interrupted_run_in_a_servers_cache(tmp_path: Path) -> None:
    async with servers("1P1D", behaviour=Behaviour(stuck_mode="pd", stuck_after=6)) as (server,):
        wanted = spec(architectures=(Architecture("now", None, url=server.url),), blocks=2)
        lab = Lab(wanted, folder=tmp_path)
        task = asyncio.create_task(lab.comparison.run())
        while "stuck" not in server.log and not task.done():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        lab.journal.close()
        server.behaviour.stuck_mode = None
        journal = Journal.latest(tmp_path, plan_of(wanted))
        assert journal is not None
        rest = Lab(wanted, journal=journal, folder=tmp_path)
        await rest.comparison.run()
        journal.close()
    runs = rest.comparison.runs
    assert [(run.block, run.invalid_reasons) for run in runs] == [(0, ()), (1, ())]
    sent_before = {request.conversation for run in lab.comparison.runs for request in run.requests}
    assert {request.conversation for request in runs[1].requests} & sent_before, "the same conversations"


async def test_real_texts_go_as_chats_and_the_journal_names_their_file(tmp_path: Path) -> None:
    talk = Script((ScriptTurn(4, text="Why?"), ScriptTurn(4, text="And then?")))
    data = Dataset("sharegpt", (talk, talk, replace(talk, turns=talk.turns[:1])))
    wanted = spec(Mode.PD, Mode.PPD, traffics=(replace(TRAFFIC, dataset=data),))
    lab = Lab(wanted, folder=tmp_path)
    await lab.comparison.run()
    results = lab.comparison.results()
    validate(to_json(results), "results")
    assert {run.workload for run in results.runs} == {"sharegpt"}
    asked = [[(r.conversation, r.turn, r.ok) for r in run.requests] for run in results.runs]
    assert asked[0] == asked[1] and {ok for *_, ok in asked[0]} == {True} and len(asked[0]) == 4
    assert plan_of(wanted)["traffics"][0]["dataset"] == data.fingerprint
    other = replace(data, scripts=data.scripts[::-1])
    assert plan_of(replace(wanted, traffics=(replace(TRAFFIC, dataset=other),))) != plan_of(wanted)


async def test_a_server_that_ends_answers_where_it_likes_answers_nothing_wrong(tmp_path: Path) -> None:
    data = Dataset("sharegpt", (Script((ScriptTurn(4, text="Why?"), ScriptTurn(4, text="And then?"))),))
    async with servers("1P1D", behaviour=Behaviour(plain=True)) as (server,):
        wanted = spec(
            architectures=(Architecture("now", None, url=server.url),),
            traffics=(replace(TRAFFIC, dataset=data),),
            probe=False,
        )
        lab = Lab(wanted, folder=tmp_path)
        await lab.comparison.run()
        results = lab.comparison.results()
    assert {request.output_tokens for run in results.runs for request in run.finished} == {3}
    assert results.answers is not None and results.answers.lengths_wrong == 0 and results.answers.passed
    assert [note for note in results.notes if "ignore_eos" in note]


async def test_of_recorded_pictures_the_first_is_not_the_first_that_anybody_sends(tmp_path: Path) -> None:
    """What encodes and who hands embeddings on is warmed up, too."""
    warm: list[int] = []

    async def watched(url: str, conversations: Iterable[Talk], **rest: Any) -> ClientHealth:
        talks = tuple(conversations)
        warm.extend(talk.images(0) for talk in talks if "-warm-" in talk.id)
        return await punctual_drive(url, talks, **rest)

    seen = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]
    data = Dataset("jsonl", (Script((ScriptTurn(4, messages=json.dumps(seen), images=1),)),))
    traffic = replace(TRAFFIC, dataset=data, turns=1)
    await Lab(spec(Mode.PD, Mode.PPD, traffics=(traffic,)), folder=tmp_path, drive=watched).comparison.run()
    assert len(warm) >= 2 and set(warm) == {1}


async def test_what_goodput_asks_for_is_kept_and_judged(tmp_path: Path) -> None:
    lab = Lab(spec(Mode.PD, Mode.PPD, slo=Slo(ttft_ms=60_000)), folder=tmp_path)
    await lab.comparison.run()
    results = lab.comparison.results()
    validate(to_json(results), "results")
    assert [traffic.slo for traffic in results.traffics] == [Slo(ttft_ms=60_000)]
    assert "goodput" in {verdict.metric for verdict in results.verdicts}
