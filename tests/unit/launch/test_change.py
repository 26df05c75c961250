from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tercet.core.errors import UsageError
from tercet.core.stage import Mode
from tercet.core.topology import Topology
from tercet.launch.change import change_of, merged
from tercet.launch.detached import DetachedSpec
from tercet.launch.devices import assign_devices
from tercet.launch.reload import Reload
from tercet.launch.source import Asked
from tercet.launch.topology_file import parse_topology


def topology(text: str) -> Topology:
    return parse_topology(f"{{{text}}}", "t")


RUNNING = topology("workers: 1P2D, devices: ['cpu:0', 'cpu:1']")


@pytest.mark.parametrize(
    ("text", "added", "removed"),
    [
        ("workers: 1P2D, name: other, mode: ppd", [], ()),
        ("workers: 1P3D, router: {idle_timeout: 3, max_retries: 0, queue_timeout: 9}", ["decode-2"], ()),
        ("workers: 2P1D", ["prefill-1"], ("decode-1",)),
        ("workers: 1P2D, devices: ['cpu:0']", [], ()),
        ("workers: 1P2D, router: {balancer: random, ppd_threshold: 9, max_concurrent: 5, max_queue: 1}", [], ()),
        ("workers: 1P2D, router: {breaker_failures: 2, max_retries: 0}", [], ()),
    ],
)
def test_what_joins_and_leaves(text: str, added: list[str], removed: tuple[str, ...]) -> None:
    change = change_of(RUNNING, topology(text))
    assert ([worker.name for worker in change.added], change.removed) == (added, removed)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("workers: 1P2D, model: x/y", "model can't change from smollm2-135m to x/y"),
        ("workers: 1P2D, engine: {dtype: fp32, lease: 3}", "engine: dtype, lease can't change"),
        ("workers: 1P2D, router: {port: 9, api_key_file: k, idle_timeout: 3}", "router: port, api_key_file can't"),
        (
            "workers: [{stages: [prefill], ranks: 2}, {stages: [decode]}, {stages: [decode]}]",
            "prefill-0: ranks can't change",
        ),
        ("workers: 1P2D, model: x/y, engine: {dtype: fp32}", "x/y; engine: dtype"),
    ],
)
def test_what_cant_change_is_named(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        change_of(RUNNING, topology(text))


def test_what_is_here_stays_where_it_is_and_who_joins_takes_the_device_least_used() -> None:
    running, _ = assign_devices(RUNNING)  # p0 on cpu:0, d0 on cpu:1, d1 on cpu:0
    assigned, _ = assign_devices(merged(running, topology("workers: 1P3D")))
    assert [worker.devices for worker in assigned.workers] == [("cpu:0",), ("cpu:1",), ("cpu:0",), ("cpu:1",)]
    assert assigned.name == running.name == "1p2d"


def test_a_detached_launcher_reads_the_same_file_with_the_same_flags_over_it(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text("workers: 1P1D\nengine: {dtype: fp32}")
    asked = Asked(path, Mode.PPD, {"devices": ("cpu:0", "cpu:1"), "dtype": None, "lease_s": 4.0})
    spec = DetachedSpec.from_json(json.dumps(json.loads(DetachedSpec(asked.read(), asked=asked).to_json())))
    assert spec.asked == asked and spec.asked.read() == asked.read()
    path.write_text("workers: 1P2D\nengine: {dtype: bf16}")
    again = spec.asked.read()
    assert (again.short_form, again.mode, again.devices, again.engine.lease_s) == (
        "1P2D",
        Mode.PPD,
        ("cpu:0", "cpu:1"),
        4,
    )


async def test_what_changes_in_the_file_before_it_is_watched_is_followed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tercet.launch.reload.LOOK_S", 0.01)
    path = tmp_path / "t.yaml"
    path.write_text("{name: t, workers: 1P1D}")
    became: asyncio.Future[Topology] = asyncio.get_running_loop().create_future()

    async def become(wanted: Topology) -> None:
        became.set_result(wanted)

    reload = Reload(Asked(path), become, pytest.fail)
    path.write_text("{name: t, workers: 1P2D}")  # while everything starts
    watching = asyncio.create_task(reload.watch())
    try:
        assert (await asyncio.wait_for(became, 30)).short_form == "1P2D"
    finally:
        watching.cancel()


async def test_a_file_that_was_nonsense_for_a_while_is_followed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tercet.launch.reload.LOOK_S", 0.01)
    path = tmp_path / "t.yaml"
    path.write_text("{name: t, workers: 1P1D}")
    refused: asyncio.Queue[str] = asyncio.Queue()
    became: asyncio.Queue[str] = asyncio.Queue()

    async def become(wanted: Topology) -> None:
        if wanted.short_form == "1P2D":
            raise OSError("no room for its files")
        became.put_nowait(wanted.short_form)

    watching = asyncio.create_task(Reload(Asked(path), become, refused.put_nowait).watch())
    try:
        for text, why in (("{name: 2026-13-01, workers: 1P1D}", "not YAML"), ("{name: t, workers: 1P2D}", "no room")):
            path.write_text(text)
            assert why in await asyncio.wait_for(refused.get(), 30)
        path.write_text("{name: t, workers: 1P3D}")
        assert await asyncio.wait_for(became.get(), 30) == "1P3D"
    finally:
        watching.cancel()
