"""The planner's predictions against what others measured on GPUs that are not here: a fast form of the benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.planner_accuracy.compared import TARGETS, WINNERS, Judgement, Point
from benchmarks.planner_accuracy.conversations import fitted, h100, predict, predict_four_gpu, read_four_gpu
from benchmarks.planner_accuracy.documents import dp8, llava, sglang, winners_by_ttft
from benchmarks.planner_accuracy.pinned import parse_config
from benchmarks.planner_accuracy.run import DATA, conversation_rows, judge_decode

from tercet.core.errors import UsageError


@pytest.mark.slow
@pytest.mark.parametrize("lowest", [False, True])
def test_two_turn_conversations_on_h100s(lowest: bool) -> None:
    rows, chosen = conversation_rows(DATA), h100()
    stack = fitted(rows, chosen, lowest=lowest)
    judged = Judgement("", [predict(row, chosen, stack, seeds=2) for row in rows])
    for metric, target in TARGETS.items():
        assert judged.median(metric) <= target, metric
    assert len(judged.winners()) > 40
    assert judged.right_share() >= WINNERS


def test_a_decode_step_by_batch() -> None:
    chosen = h100()
    stack = fitted(conversation_rows(DATA), chosen, lowest=True)
    errors = sorted(abs(predicted / measured - 1) for _, measured, predicted in judge_decode(DATA, chosen, stack))
    assert len(errors) == 125
    assert errors[len(errors) // 2] < 0.08


@pytest.mark.slow
def test_data_parallel_prefill_and_decode() -> None:
    [point] = dp8().points
    for metric in ("tpot", "duration", "throughput"):
        assert point.predicted[metric] == pytest.approx(point.measured[metric], rel=0.10), metric


@pytest.mark.slow
def test_pictures_aggregated_pd_and_epd() -> None:
    best = winners_by_ttft(llava().points)
    assert len(best) == 5
    assert sum(want == got for _, want, got in best) >= 4


@pytest.mark.slow
def test_encoders_apart_at_equal_gpus() -> None:
    judged = sglang()
    assert len(judged.winners()) == 2
    assert all(each.right for each in judged.winners())


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("2R", {"R": 2}),
        ("4A", {"R": 4}),
        ("1P3D", {"P": 1, "D": 3}),
        ("1R_1P_1D_1pD", {"R": 1, "P": 1, "D": 1, "pD": 1}),
    ],
)
def test_configurations_are_read(text: str, want: dict[str, int]) -> None:
    assert {letter: count for letter, count in parse_config(text).items() if count} == want


@pytest.mark.parametrize("text", ["", "2X", "1P", "1D", "P1D", "1E"])
def test_what_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no configuration"):
        parse_config(text)


def test_results_of_the_four_gpu_client_are_read_and_predicted(tmp_path: Path) -> None:
    turn = {"avg_ttft_ms": 40.0, "avg_tpot_ms": 8.5, "avg_e2e_ms": 600.0}
    for config in ("4R", "2P_2D", "1R_1P_1D_1pD"):
        data = {"config": config, "workload": "small_mid_paste", "qps": 2.0, "turn1": turn, "turn2": turn,
                "throughput": {"requests_per_sec": 3.0}}  # fmt: skip
        (tmp_path / f"{config}.json").write_text(json.dumps(data))
    rows = read_four_gpu(tmp_path)
    assert {row.config for row in rows} == {"4R", "2P_2D", "1R_1P_1D_1pD"}
    chosen = h100()
    stack = fitted(conversation_rows(DATA), chosen)
    found = {row.config: predict_four_gpu(row, chosen, stack, seeds=1).predicted for row in rows}
    assert 15 < found["4R"]["ttft"] < 50
    assert found["2P_2D"]["ttft"] > found["4R"]["ttft"] + 30  # the hop
    assert found["4R"]["ttft"] < found["1R_1P_1D_1pD"]["ttft"] < found["2P_2D"]["ttft"]  # a third of them hops
    assert all(7 < each["tpot"] < 10 for each in found.values())
    (tmp_path / "bad.json").write_text('{"config": "4R"}')
    with pytest.raises(UsageError, match=r"bad\.json"):
        read_four_gpu(tmp_path)


def test_winners_count_beyond_the_margin_alone() -> None:
    judged = Judgement(
        "",
        [
            Point("x", "a", {"ttft": 100.0, "throughput": 2.0}, {"ttft": 90.0, "throughput": 2.0}),
            Point("x", "b", {"ttft": 105.0, "throughput": 3.0}, {"ttft": 80.0, "throughput": 1.0}),
            Point("x", "c", {"ttft": 300.0, "throughput": 2.1}, {"ttft": 95.0, "throughput": 2.5}),
            Point("y", "a", {"ttft": 1.0}, {"ttft": 1.5}),
        ],
        metrics=("ttft", "throughput"),
    )
    wins = {(each.metric, each.names): each.right for each in judged.winners()}
    assert wins == {
        ("ttft", ("a", "c")): True,
        ("ttft", ("b", "c")): True,
        ("throughput", ("b", "a")): False,
        ("throughput", ("b", "c")): False,
    }
    assert judged.right_share() == 0.5
    assert judged.median("ttft") == pytest.approx((25 / 105 + 0.5) / 2)
