"""A whole benchmark of a server that already runs."""

from __future__ import annotations

import asyncio
import json
import os
from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from tercet.bench.benchmark import Benchmark
from tercet.bench.job import Header
from tercet.bench.plan import Plan
from tercet.core.errors import TercetError, UsageError
from tercet.results.file import to_json, validate
from tercet.results.serving import serving_figures
from tercet.results.slo import Slo
from tercet.traffic.pictures import Pictures
from tercet.traffic.prompts import PromptForm
from tercet.traffic.spec import LoadKind, TrafficSpec
from tercet.traffic.workload import Workload

from .stand_in import VISION_TOKENS, Silent, StandIn, serving

TRAFFIC = TrafficSpec(Workload("t", 32, 4), qps=50.0, num_requests=6, turns=2, seed=1)


def plan(url: str, **changes: Any) -> Plan:
    values: dict[str, Any] = {"load_kind": LoadKind.QPS, "loads": (100.0, 200.0), "salt": os.urandom(4).hex()}
    return Plan(url, **{"traffic": TRAFFIC, **values, **changes})


async def done(planned: Plan) -> Benchmark:
    benchmark = Benchmark(planned, Silent(), ("tercet", "bench"))
    await benchmark.run()
    return benchmark


async def test_every_load_of_every_run_is_recorded() -> None:
    async with serving(StandIn()) as url:
        benchmark = await done(plan(url, runs=2, slo=Slo(ttft_ms=500.0)))
    results = benchmark.results()
    validate(to_json(results), "results")
    places = [(run.mode, run.workload, run.load_kind, run.load, run.block, run.order) for run in results.runs]
    assert places == [
        ("server", "t", "qps", 100.0, 0, 0),
        ("server", "t", "qps", 200.0, 0, 1),
        ("server", "t", "qps", 100.0, 1, 2),
        ("server", "t", "qps", 200.0, 1, 3),
    ]
    assert all(len(run.finished) == 6 and run.complete for run in results.runs)
    assert (results.kind, results.model, results.traffics[0].options) == ("bench", "m", {"slo": "ttft:500"})
    for run in results.runs:
        for request in run.requests:
            assert request.prompt_tokens == request.expected_prompt_tokens == (32 if request.turn == 1 else 68)
            assert request.output_tokens == request.expected_output_tokens == 4
            assert request.chunk_tokens is not None and sum(request.chunk_tokens) == 4
            assert request.headers_s is not None and request.sent_s <= request.headers_s <= request.chunk_s[0]


@pytest.mark.parametrize(
    ("said", "devices", "note"),
    [
        (None, 1, "its devices and its other load are not known here"),
        ({"workers": 3}, 1, "its devices and its other load are not known here"),
        (
            {"workers": [{"url": "http://p", "ranks": [{}]}, {"url": "http://d", "ranks": [{}, {}]}]},
            3,
            "its router counts 3 ranks, taken for devices; its other load is not known here",
        ),
    ],
)
async def test_a_routers_ranks_are_counted_as_devices(said: object, devices: int, note: str) -> None:
    async with serving(StandIn(router=said)) as url:
        results = (await done(plan(url))).results()
    validate(to_json(results), "results")
    assert [each.devices for each in results.architectures] == [devices]
    assert {each.devices for each in results.summaries} == {devices}
    assert note in results.notes[0]


async def test_no_run_repeats_anothers_prompts_unless_asked() -> None:
    stand_in = StandIn()
    async with serving(stand_in) as url:
        first = await done(plan(url, runs=2))
        assert not any(request.cached_tokens for run in first.runs for request in run.requests)
        again = [await done(plan(url, salt="a", loads=(100.0,))) for _ in range(2)]
        reset = await done(plan(url, salt="a", loads=(100.0,), reset_caches=True))
    assert "first turns found 96 tokens" in again[1].runs[0].invalid_reasons[-1]
    assert not again[0].runs[0].invalid_reasons[1:] and stand_in.resets == 1
    assert not any("first turns" in reason for reason in reset.runs[0].invalid_reasons)


async def test_a_closed_loop_sends_for_its_duration() -> None:
    async with serving(StandIn(delay_s=0.01)) as url:
        traffic = replace(TRAFFIC, num_requests=0, duration_s=3.0, turns=1)
        benchmark = await done(plan(url, traffic=traffic, load_kind=LoadKind.CONCURRENCY, loads=(3.0,)))
    (run,) = benchmark.runs
    assert len(run.requests) >= 6 and serving_figures((run,)).peak_concurrency == 3
    assert max(request.due_s for request in run.requests) < 3.0


async def test_several_processes_send_every_conversation_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('of the folder that it is started in')")
    monkeypatch.chdir(tmp_path)
    stand_in = StandIn(delay_s=0.05)
    async with serving(stand_in) as url:
        traffic = replace(TRAFFIC, num_requests=24)
        benchmark = await done(plan(url, traffic=traffic, workers=3, loads=(100.0,), salt="w"))
        alone = await done(plan(url, traffic=traffic, loads=(100.0,), salt="w", reset_caches=True))
    run, single = benchmark.runs[0], alone.runs[0]
    assert run.complete and all(request.ok for request in run.requests)
    places = [sorted((r.conversation, r.turn, r.prompt_tokens) for r in each.requests) for each in (run, single)]
    assert places[0] == places[1] and len(places[0]) == 24
    due = [sorted(r.due_s for r in each.requests if r.turn == 1) for each in (run, single)]
    assert due[0] == pytest.approx(due[1], abs=2e-6)  # one start, on the clock that the processes share
    assert run.client.cpu_fraction > 0 and run.client.loop_lag_ms_max >= run.client.loop_lag_ms_p99 >= 0


async def test_warm_up_requests_are_sent_and_not_measured() -> None:
    stand_in = StandIn()
    async with serving(stand_in) as url:
        benchmark = await done(plan(url, warmup=10, loads=(100.0,)))
    assert len(benchmark.runs) == 1 and len(benchmark.runs[0].requests) == 6
    assert len(stand_in.bodies) == 1 + 10 + 6  # one to find out what the server takes


async def test_a_server_of_texts_alone_gets_chats_of_the_same_length() -> None:
    stand_in = StandIn(takes_tokens=False, template=7, later_template=3)
    async with serving(stand_in) as url:
        benchmark = await done(plan(url, loads=(100.0,)))
    requests = benchmark.runs[0].requests
    assert {r.prompt_tokens for r in requests if r.turn == 1} == {32}
    # 32 of turn 1, 4 of its answer, 32 of turn 2: the template's tokens are counted in.
    assert {r.prompt_tokens for r in requests if r.turn == 2} == {68}
    assert any("chats" in note for note in benchmark.notes)


async def test_a_tokeniser_of_more_tokens_a_word_gets_later_turns_of_the_same_length() -> None:
    stand_in = StandIn(takes_tokens=False, template=6, later_template=4, per_word=2)
    async with serving(stand_in) as url:
        benchmark = await done(plan(url, loads=(100.0,)))
    requests = benchmark.runs[0].requests
    assert {r.prompt_tokens for r in requests if r.turn == 1} == {32}
    # 32 of turn 1, the 4 words of its answer, 32 of turn 2.
    assert {r.prompt_tokens for r in requests if r.turn == 2} == {32 + 2 * 4 + 32}


async def test_a_plain_openai_server_gets_no_field_it_does_not_know() -> None:
    stand_in = StandIn(takes_tokens=False, takes_extensions=False)
    async with serving(stand_in) as url:
        benchmark = await done(plan(url, loads=(100.0,), extra={"top_p": 0.5}))
    assert all(request.ok for request in benchmark.runs[0].requests)
    assert not any({"ignore_eos", "cache_salt"} & set(body) for body in stand_in.bodies[-6:])
    assert stand_in.bodies[-1]["top_p"] == 0.5 and any("no ignore_eos" in note for note in benchmark.notes)


async def test_pictures_arrive_whole_distinct_and_counted() -> None:
    stand_in = StandIn(template=5)
    workload = Workload("images", 16, 2, pictures=Pictures(1, 3, 48, 32))
    traffic = TrafficSpec(workload, qps=1.0, num_requests=12)
    async with serving(stand_in) as url:
        # By this salt the twelve show all numbers of pictures: by one in fifty they don't.
        asked = plan(url, traffic=traffic, load_kind=LoadKind.CONCURRENCY, loads=(4.0,), salt="pictures")
        benchmark = await done(asked)
    (run,) = benchmark.runs
    assert {request.images for request in run.requests} == {1, 2, 3}
    assert all(request.vision_tokens == VISION_TOKENS * request.images for request in run.requests)
    figures = serving_figures(benchmark.runs)
    assert figures.images is not None and (figures.images.low, figures.images.high) == (1, 3)
    assert (
        figures.text_tokens == 12 * 16 and figures.vision_tokens == sum(r.images for r in run.requests) * VISION_TOKENS
    )
    parts = [part for body in stand_in.bodies[-12:] for part in body["messages"][0]["content"]]
    shown = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    assert len(shown) == len(set(shown)) == sum(request.images for request in run.requests)
    for uri in shown:
        assert b64decode(uri.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG\r\n")


async def test_answers_are_counted_again_by_the_tokeniser_that_is_named(tmp_path: Path) -> None:
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "so": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    async with serving(StandIn()) as url:
        benchmark = await done(plan(url, loads=(100.0,), tokenizer=tmp_path))
    assert serving_figures(benchmark.runs).retokenized_tokens == 6 * 4
    with pytest.raises(UsageError, match=r"tokenizer\.json"):
        Benchmark(plan(url, tokenizer=tmp_path / "none"), Silent(), ())


@pytest.mark.parametrize("workers", [1, 2])
async def test_cutting_a_run_short_keeps_its_finished_requests(workers: int) -> None:
    stand_in = StandIn(stuck_after=4)
    async with serving(stand_in) as url:
        display = Silent()
        traffic = replace(TRAFFIC, num_requests=12)
        benchmark = Benchmark(plan(url, loads=(100.0,), traffic=traffic, workers=workers), display, ())
        task = asyncio.create_task(benchmark.run())
        async with asyncio.timeout(60):
            while not display.tallies or display.tallies[0].done < 3 or len(stand_in.bodies) < 6:
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    results = benchmark.results(stopped_by="an interrupt")
    (run,) = results.runs
    assert not run.complete and len(run.finished) == 3 and results.interrupted
    assert "Stopped early by an interrupt" in results.notes[-1]
    validate(to_json(results), "results")


async def test_keys_and_models_are_asked_for() -> None:
    async with serving(StandIn(key="secret")) as url:
        with pytest.raises(TercetError, match="--api-key"):
            await done(plan(url))
        keyed = plan(url, loads=(100.0,), headers=(Header("Authorization", "Bearer secret"),), model="other")
        results = (await done(keyed)).results()
        with pytest.raises(UsageError, match="it lists m, other"):
            await done(replace(keyed, model="third"))
    assert results.model == "other" and "secret" not in json.dumps(to_json(results))


@pytest.mark.parametrize("listed", [[], {"data": ["m"]}, {"data": {"id": "m"}}, {"data": [{"name": "m"}]}], ids=str)
async def test_a_list_of_models_that_is_none_is_said_to_be_none(listed: object) -> None:
    async with serving(StandIn(models=listed)) as url:
        with pytest.raises(TercetError, match="is this an OpenAI-compatible server"):
            await done(plan(url))
        results = (await done(plan(url, loads=(100.0,), model="m"))).results()
    assert results.model == "m" and results.runs[0].finished


async def test_sizes_that_are_no_numbers_are_not_known() -> None:
    async with serving(StandIn(models={"data": [{"id": "m", "vocab_size": "many", "max_model_len": "64"}]})) as url:
        assert (await done(plan(url, loads=(100.0,)))).runs[0].finished


async def test_what_cannot_be_measured_is_said_plainly() -> None:
    with pytest.raises(TercetError, match="cannot connect"):
        await done(plan("http://127.0.0.1:9"))
    with pytest.raises(UsageError, match="write for instance http://"):
        await done(plan("nowhere"))
    async with serving(StandIn(max_model_len=71)) as url:
        with pytest.raises(UsageError, match="grow to 72 tokens, m takes 71"):
            await done(plan(url))
    async with serving(StandIn(takes_tokens=False)) as url:
        with pytest.raises(TercetError, match="the prompt must be text"):
            await done(plan(url, form=PromptForm.TOKENS))
        with pytest.raises(UsageError, match="--prompt-format tokens"):
            pictures = replace(TRAFFIC, workload=replace(TRAFFIC.workload, pictures=Pictures()))
            await done(plan(url, traffic=pictures, form=PromptForm.TOKENS))


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"loads": (1.0, 1.0)}, "--qps"),
        ({"runs": 0}, "--runs"),
        ({"warmup": -1}, "--warmup"),
        ({"workers": 0}, "--workers"),
        ({"idle_timeout_s": 0.0}, "--idle-timeout"),
    ],
)
def test_an_impossible_plan_is_refused_by_the_flag_that_asked_for_it(change: dict[str, Any], flag: str) -> None:
    with pytest.raises(UsageError, match=flag):
        plan("http://127.0.0.1:9", **change)
