from __future__ import annotations

import pytest

from tercet.core.errors import UsageError
from tercet.core.topology import Topology
from tercet.launch.devices import assign_devices, default_devices, parse_devices, resolve_devices
from tercet.launch.topology_file import parse_topology


def topology(text: str) -> Topology:
    return parse_topology(text, "t.yaml")


def names(assigned: Topology) -> list[tuple[str, ...]]:
    return [worker.devices for worker in assigned.workers]


def test_ranks_take_devices_in_turn() -> None:
    assigned, warnings = assign_devices(topology("workers: 1P1D\ndevices: [cpu:0, cpu:1]"))
    assert names(assigned) == [("cpu:0",), ("cpu:1",)]
    assert warnings == []


def test_more_ranks_than_devices_share_them_with_a_warning() -> None:
    assigned, warnings = assign_devices(topology("workers: 1P2D\ndevices: [cpu:0, cpu:1]"))
    assert names(assigned) == [("cpu:0",), ("cpu:1",), ("cpu:0",)]
    assert warnings == ["2 ranks share cpu:0 (prefill-0, decode-1): they slow each other down"]


def test_a_workers_own_devices_stay_and_its_ranks_are_named() -> None:
    text = "workers: [{stages: [prefill], ranks: 2, devices: [cpu:3, cpu:3]}, {stages: [decode]}]\ndevices: [cpu:0]"
    assigned, warnings = assign_devices(topology(text))
    assert names(assigned) == [("cpu:3", "cpu:3"), ("cpu:0",)]
    assert warnings == ["2 ranks share cpu:3 (prefill-0@0, prefill-0@1): they slow each other down"]


@pytest.mark.parametrize(
    ("ranks", "cores", "gpus", "expected"),
    [
        (1, [0, 1], 0, ("cpu:0-1",)),
        (2, [0, 1], 0, ("cpu:0", "cpu:1")),
        (3, [0, 1], 0, ("cpu:0", "cpu:1")),
        (2, list(range(16)), 0, ("cpu:0-7", "cpu:8-15")),
        (1, list(range(64)), 0, ("cpu:0-7",)),
        (1, [1, 3, 5], 0, ("cpu:1+3+5",)),
        (2, [0, 1], 2, ("cuda:0", "cuda:1")),
    ],
)
def test_defaults_share_the_machine(ranks: int, cores: list[int], gpus: int, expected: tuple[str, ...]) -> None:
    assert default_devices(ranks, cores=cores, gpus=gpus) == expected


def test_ranks_of_several_gpus_get_them_in_order() -> None:
    assert default_devices(2, cores=[0], gpus=5, tensor_parallel=2) == ("cuda:0+1", "cuda:2+3")
    assert default_devices(1, cores=[0], gpus=0, tensor_parallel=2) == ("cpu:0",)


def test_a_core_this_machine_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match="cpu:99999"):
        resolve_devices(topology("workers: 1A\ndevices: [cpu:99999]"))


def test_a_rank_of_several_gpus_may_stand_beside_one_of_a_single_gpu() -> None:
    own = "engine: {tensor_parallel: 2}"
    wide, narrow = "{stages: [prefill], devices: ['cuda:0+1'], %s}", "{stages: [decode], devices: ['cuda:2']}"
    text = "{engine: {engine: vllm}, workers: [%s, %s]}"
    assigned, _ = resolve_devices(topology(text % (wide % own, narrow)))
    assert names(assigned) == [("cuda:0+1",), ("cuda:2",)]
    with pytest.raises(UsageError, match="unknown device 'cuda:0\\+1'"):
        resolve_devices(topology(text % (wide % "engine: {}", narrow)))


def test_device_lists_are_read_from_a_flag() -> None:
    assert parse_devices("cpu:0, cpu:1") == ("cpu:0", "cpu:1")
    with pytest.raises(UsageError, match="empty name"):
        parse_devices("cpu:0,,cpu:1")
