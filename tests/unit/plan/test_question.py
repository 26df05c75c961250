"""The traffic of a trial: its seed, and a trace at the load that is asked about."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tercet.core.stage import Mode
from tercet.plan.architecture import Architecture
from tercet.plan.means import means_of
from tercet.plan.question import Question
from tercet.plan.search import SEEDS
from tercet.plan.trial import Trial, run_trials
from tercet.traffic.arrivals import Arrivals
from tercet.traffic.conversation import TokenRange
from tercet.traffic.scripts import Dataset, Script, ScriptTurn, read_dataset
from tercet.traffic.spec import LoadKind, TrafficSpec, conversations
from tests.unit.plan.questions import question


def starts(traffic: TrafficSpec) -> list[float]:
    return [talk.arrival_s for talk in conversations(traffic, salt="s", tokens=TokenRange())]


def traced(scripts: int) -> Question:
    """Return a question of a trace that is slow in its first half, and ten times as fast in its second."""
    half = scripts // 2
    times = [*(float(i) for i in range(half)), *(half + i / 10 for i in range(scripts - half))]
    data = Dataset(
        "trace",
        tuple(Script((ScriptTurn(16, input_tokens=100 + i),), at_s, (i,)) for i, at_s in enumerate(times)),
    )
    asked = question()
    return replace(asked, traffic=replace(asked.traffic, qps=data.rate(), arrivals=Arrivals.TRACE, dataset=data))


def test_another_seed_is_other_traffic() -> None:
    asked = question()
    other = replace(asked, traffic=replace(asked.traffic, seed=7))
    seen = [starts(each.traffic_at(4.0, 20, seed)) for each in (asked, other) for seed in range(SEEDS)]
    assert len({tuple(each) for each in seen}) == 2 * SEEDS
    assert starts(asked.traffic_at(4.0, 20, 1)) == seen[1]


def test_a_part_of_a_trace_comes_at_the_load_that_is_asked_about() -> None:
    asked = traced(800)
    for seed in range(SEEDS):
        times = starts(asked.traffic_at(8.0, 200, seed))
        assert (times[0], len(times)) == (0.0, 200)
        assert len(times) / times[-1] == pytest.approx(8.0, rel=1e-3)


def test_seeds_replay_other_parts_of_a_trace_where_there_are_some() -> None:
    asked = traced(800)
    parts = [conversations(asked.traffic_at(8.0, 200, seed), salt="s", tokens=TokenRange()) for seed in range(SEEDS)]
    assert [part[0].turns[0].new_input_tokens for part in parts] == [100, 300, 500]
    assert len(starts(traced(60).traffic_at(8.0, 150, 2))) == 60, "all of a short one"


def test_pictures_of_a_recorded_traffic_count(tmp_path: Path) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 4000}}
    seen = [{"role": "user", "content": [picture, {"type": "text", "text": "a" * 40}, picture]}]
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(map(json.dumps, ({"messages": seen, "max_tokens": 8}, {"prompt": "b"}))))
    data = read_dataset(path)
    asked = question()
    asked = replace(asked, traffic=replace(asked.traffic, dataset=data))
    means = means_of(asked.traffic)
    assert (means.images, means.new) == (1.0, 5.5)
    assert asked.pictures and asked.traffic.most_pictures == 2, "so that encoders apart are tried"
    plain = replace(asked, traffic=replace(asked.traffic, dataset=Dataset("jsonl", data.scripts[1:])))
    assert not plain.pictures and question("images").pictures


def test_what_is_offered_is_the_rate_or_as_fast_as_answers_come() -> None:
    """A rate goes on after the run; so many at a time send as they are answered, and without limits all count."""
    alone = Architecture(Mode.AGGREGATED, whole=1)
    limited, free = question("256/8", 5.0, gpus=1), question("256/8", 5.0, gpus=1, slo=None)
    closed = replace(limited, kind=LoadKind.CONCURRENCY)
    rate, at_once, all_count = run_trials([(asked, Trial(alone, 5.0)) for asked in (limited, closed, free)])
    assert (rate.offered, rate.good) == (5.0, 1.0) and rate.served != 5.0
    assert at_once.offered == at_once.served > 2 * rate.served
    assert all_count.offered == all_count.served == rate.served
