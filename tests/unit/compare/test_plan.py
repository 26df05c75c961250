"""Plans: order, salts, what can be compared."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tercet.compare.architecture import Architecture, of_mode, parse_architecture
from tercet.compare.plan import place, plan
from tercet.compare.request import Settings, ready
from tercet.compare.spec import CompareSpec
from tercet.core.errors import UsageError
from tercet.core.stage import Mode
from tercet.traffic.scripts import Dataset, Script, ScriptTurn
from tercet.traffic.spec import LoadKind, TrafficSpec
from tercet.traffic.workload import Workload

TRAFFIC = TrafficSpec(Workload("t", 8, 4), qps=1.0, num_requests=2)
SETTINGS = Settings({"devices": ("cpu:0",)}, 12)


def spec(*sources: str, **changes: Any) -> CompareSpec:
    values: dict[str, Any] = {
        "architectures": ready([parse_architecture(source) for source in sources], SETTINGS),
        "traffics": (TRAFFIC, replace(TRAFFIC, workload=Workload("u", 9, 3))),
        "load_kind": LoadKind.QPS,
        "loads": (1.0, 2.0),
        "blocks": 4,
    }
    return CompareSpec(**{**values, **changes})


MODES = ("replicated=2A", "pd=1P1D", "ppd=1P1D")


def test_every_block_runs_everything_once_on_the_same_conversations() -> None:
    steps = plan(spec(*MODES), "n")
    assert [step.order for step in steps] == list(range(48))
    assert len({step.key for step in steps}) == 48
    for block in range(4):
        mine = [step for step in steps if step.block == block]
        for traffic in ("t", "u"):
            for load in (1.0, 2.0):
                same = [s for s in mine if (s.traffic.name, s.traffic.load) == (traffic, load)]
                assert {s.architecture.label for s in same} == {"replicated", "pd", "ppd"}
                assert {s.salt for s in same} == {f"n-b{block}-{traffic}-q{load:g}"}


def test_the_order_is_random_repeatable_and_starts_few_processes() -> None:
    steps = plan(spec(*MODES, blocks=12), "n")
    assert steps == plan(spec(*MODES, blocks=12), "n")
    first = [next(s.architecture.label for s in steps if s.block == block) for block in range(12)]
    assert len(set(first)) == 3
    starts = sum(place(a.architecture) != place(b.architecture) for a, b in pairwise(steps))
    assert starts <= 2 * 12, "pd and ppd share processes, and a group's loads follow each other"
    orders = {tuple(s.architecture.label for s in steps if s.salt == f"n-b{block}-t-q1") for block in range(12)}
    assert len(orders) > 2


def test_kept_warm_architectures_follow_each_other_at_every_load() -> None:
    steps = plan(spec(*MODES, keep="warm"), "n")
    for i in range(0, len(steps), 3):
        assert len({step.salt for step in steps[i : i + 3]}) == 1


def test_loads_are_told_apart_by_kind() -> None:
    steps = plan(spec("pd=1P1D", load_kind=LoadKind.CONCURRENCY, loads=(4.0,)), "n")
    assert steps[0].salt == "n-b0-t-c4"
    assert steps[0].traffic.concurrency == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pd=1P1D", ("pd", "pd", "1P1D", None)),
        ("replicated=4A", ("replicated", "replicated", "4A", None)),
        ("wide=1P3D", ("wide", "pd", "1P3D", None)),
        ("wide=1P3D#ppd", ("wide", "ppd", "1P3D", None)),
        ("any name=2A#aggregated", ("any name", "aggregated", "2A", None)),
        ("now=http://127.0.0.1:8000/v1", ("now", None, None, "http://127.0.0.1:8000")),
        ("ppd=http://h:1#pd", ("ppd", "pd", None, "http://h:1")),
    ],
)
def test_architectures_are_read(text: str, expected: tuple[str | None, ...]) -> None:
    found = parse_architecture(text)
    form = None if found.topology is None else found.topology.short_form
    assert (found.label, found.mode, form, found.url) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1P1D", "write LABEL=SOURCE"),
        ("=1P1D", "write LABEL=SOURCE"),
        ("pd=nothing.yaml", "neither a topology file nor a short form"),
        ("pd=2A", "needs a prefill worker"),
        ("x=1P1D#fast", "unknown mode 'fast'"),
        ("x=http://", "'http://' is no server's URL: write http://HOST:PORT"),
        ("x=http://h:99999", "'http://h:99999' is no server's URL"),
    ],
)
def test_wrong_architectures_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_architecture(text)


def test_a_file_brings_its_own_mode_and_engine_and_flags_win(tmp_path: Path) -> None:
    path = tmp_path / "slow.yaml"
    path.write_text("{workers: 1P1D, mode: ppd, engine: {engine: virtual, gpu_slowdown: 1.5}, router: {port: 8000}}")
    (made,) = ready([parse_architecture(f"slow={path}")], Settings({"gpu": "a100"}, 5000))
    assert made.topology is not None
    engine = made.topology.engine
    assert (made.mode, engine.gpu, engine.gpu_slowdown, engine.max_model_len) == ("ppd", "a100", 1.5, 5120)
    assert made.topology.router.port == 0, "any free port: others may run beside it"
    assert made.topology.name == "compare-slow"
    assert made.devices == ("virtual a100", "virtual a100")
    assert made.exact


def test_vllms_caches_can_be_emptied_and_its_batches_may_round_otherwise() -> None:
    (made,) = ready([parse_architecture("pd=1P1D")], Settings({"engine": "vllm", "dtype": "fp32"}, 12))
    assert made.topology is not None and made.topology.engine.cache_reset and not made.exact
    (ours,) = ready([parse_architecture("pd=1P1D")], Settings({"dtype": "fp32"}, 12))
    assert ours.topology is not None and not ours.topology.engine.cache_reset and ours.exact


def test_unequal_devices_are_refused_unless_allowed() -> None:
    sources = [parse_architecture("aggregated=1A"), parse_architecture("pd=1P1D")]
    settings = Settings({"devices": ("cpu:0", "cpu:1")}, 12)
    message = r"aggregated \(1A\) uses cpu:0; pd \(1P1D\) uses cpu:0, cpu:1.*--allow-unequal"
    with pytest.raises(UsageError, match=message):
        ready(sources, settings)
    allowed = ready(sources, replace(settings, allow_unequal=True))
    assert [each.devices for each in allowed] == [("cpu:0",), ("cpu:0", "cpu:1")]


def test_every_virtual_rank_is_a_device_of_its_own() -> None:
    settings = Settings({"engine": "virtual", "devices": ("cpu:0",)}, 12)
    with pytest.raises(UsageError, match="virtual h100"):
        ready([parse_architecture("a=2A"), parse_architecture("b=1P2D")], settings)
    two, split = ready([parse_architecture("a=2A"), parse_architecture("b=1P1D")], settings)
    assert two.devices == split.devices == ("virtual h100", "virtual h100")


def test_url_devices_must_name_a_server() -> None:
    with pytest.raises(UsageError, match="--url-devices names pd, which is no server"):
        ready([of_mode(Mode.PD)], replace(SETTINGS, url_devices={"pd": 2}))
    (server,) = ready([Architecture("x", None, url="http://h")], Settings({}, 12, {"x": 8}))
    assert server.url_devices == 8


@pytest.mark.parametrize(
    ("sources", "changes", "message"),
    [
        ((), {}, "nothing to compare"),
        (("pd=1P1D", "pd=1P1D"), {}, "twice: pd"),
        (("pd=1P1D",), {"blocks": 0}, "--blocks 0"),
        (("pd=1P1D",), {"loads": (1.0, 1.0)}, "twice 1"),
        (("pd=1P1D",), {"loads": ()}, "a load"),
        (("pd=1P1D",), {"traffics": (TRAFFIC, TRAFFIC)}, "--workload names one twice: t"),
        (("pd=1P1D",), {"traffics": (replace(TRAFFIC, turns=400),)}, "--max-model-len 4096 of pd is too short"),
        (("pd=1P1D",), {"keep": "cold"}, "--keep 'cold'"),
        (("pd=1P1D",), {"tie_margin": 1.5}, "--tie-margin 1.5"),
        (("pd=1P1D",), {"primary": ("speed",)}, "--primary 'speed' is unknown: choose from ttft"),
        (("pd=1P1D",), {"primary": ("ttft_later",)}, "raise --turns"),
        (("pd=1P1D",), {"primary": ()}, "--primary needs"),
    ],
)
def test_what_cannot_be_compared_is_refused(sources: tuple[str, ...], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        spec(*sources, **changes)


def test_different_models_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text("{workers: 1P1D, model: other, devices: [cpu:0]}")
    with pytest.raises(UsageError, match=r"different models \(smollm2-135m and other\): give one --model"):
        spec("pd=1P1D", f"new={path}")


def test_each_block_sends_another_part_of_a_data_set() -> None:
    data = Dataset("sharegpt", tuple(Script((ScriptTurn(4, text=f"{i}"),)) for i in range(8)))
    steps = plan(spec(*MODES, traffics=(replace(TRAFFIC, dataset=data),), blocks=3), "n")
    said: dict[int, set[tuple[str | None, ...]]] = {}
    for step in steps:
        assert step.traffic.dataset is not None
        said.setdefault(step.block, set()).add(tuple(turn.text for turn in step.traffic.dataset.turns))
    assert said == {0: {("0", "1")}, 1: {("2", "3")}, 2: {("4", "5")}}
    assert {step.traffic.name for step in steps} == {"sharegpt"}
    small = replace(TRAFFIC, dataset=data.part(2))
    assert {step.traffic for step in plan(spec(*MODES, traffics=(small,), loads=(1.0,)), "n")} == {small}
