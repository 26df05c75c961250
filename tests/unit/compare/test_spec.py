"""Plans: order, salts, topologies, equal devices."""

from __future__ import annotations

from typing import Any

import pytest

from tercet.compare.spec import CompareSpec, check_devices, plan_blocks, topology_for, used_devices
from tercet.core.errors import UsageError
from tercet.core.stage import Mode
from tercet.core.topology import EngineSpec
from tercet.launch.devices import assign_devices
from tercet.traffic.spec import TrafficSpec
from tercet.traffic.workload import Workload


def spec(*modes: Mode, **changes: Any) -> CompareSpec:
    traffic = TrafficSpec(Workload("t", 8, 4), qps=1.0, num_requests=2)
    return CompareSpec(**{"modes": modes, "traffic": traffic, "rates": (1.0, 2.0), **changes})


def test_modes_rotate_between_runs_and_rates_stay_together() -> None:
    blocks = plan_blocks(spec(Mode.REPLICATED, Mode.PD, Mode.PPD, runs=3), "n")
    assert [block.order for block in blocks] == list(range(18))
    assert [block.mode for block in blocks[::2]] == [
        "replicated", "pd", "ppd", "pd", "ppd", "replicated", "ppd", "replicated", "pd",
    ]  # fmt: skip
    assert [block.salt for block in blocks if block.mode == "pd"] == [
        f"n-r{run}-q{i}" for run in range(3) for i in (0, 1)
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["2A", "2A", "1P1D", "1P1D"]),
        ({Mode.PD: "1P2D"}, ["3A", "3A", "1P2D", "1P2D"]),
        ({Mode.REPLICATED: "4A"}, ["4A", "4A", "2P2D", "2P2D"]),
        ({Mode.REPLICATED: "4A", Mode.PPD: "1P3D"}, ["4A", "4A", "1P3D", "1P3D"]),
    ],
)
def test_topologies_not_named_match_those_that_are(given: dict[Mode, str], expected: list[str]) -> None:
    wanted = spec(Mode.AGGREGATED, Mode.REPLICATED, Mode.PD, Mode.PPD, topologies=given)
    assert [topology_for(wanted, mode).short_form for mode in wanted.modes] == expected


def test_a_topology_that_cannot_serve_its_mode_is_refused() -> None:
    with pytest.raises(UsageError, match="needs a prefill worker"):
        topology_for(spec(Mode.PD, topologies={Mode.PD: "2A"}), Mode.PD)
    with pytest.raises(UsageError, match="two workers at least"):
        topology_for(spec(Mode.AGGREGATED, Mode.PD, topologies={Mode.AGGREGATED: "1A"}), Mode.PD)


def test_unequal_devices_are_refused_unless_allowed() -> None:
    wanted = spec(
        Mode.AGGREGATED, Mode.PD, topologies={Mode.AGGREGATED: "1A", Mode.PD: "1P1D"}, devices=("cpu:0", "cpu:1")
    )
    topologies = [assign_devices(topology_for(wanted, mode))[0] for mode in wanted.modes]
    assert [used_devices(topology) for topology in topologies] == [("cpu:0",), ("cpu:0", "cpu:1")]
    with pytest.raises(
        UsageError, match=r"aggregated \(1A\) uses cpu:0; pd \(1P1D\) uses cpu:0, cpu:1.*--allow-unequal"
    ):
        check_devices(topologies, allow_unequal=False)
    check_devices(topologies, allow_unequal=True)


@pytest.mark.parametrize(
    ("modes", "changes", "message"),
    [
        ((), {}, "--modes is empty"),
        ((Mode.PD, Mode.PD), {}, "twice"),
        ((Mode.PD,), {"runs": 0}, "--runs 0"),
        ((Mode.PD,), {"rates": (1.0, 1.0)}, "--qps"),
        ((Mode.PD,), {"engine": EngineSpec(max_model_len=8)}, "--max-model-len 8 is too short: .* grow to 12"),
        ((Mode.PD,), {"topologies": {Mode.PPD: "1P1D"}}, "--topologies names ppd"),
    ],
)
def test_what_cannot_be_compared_is_refused(modes: tuple[Mode, ...], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        spec(*modes, **changes)
