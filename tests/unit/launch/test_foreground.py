from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from tests.unit.launch.test_local import deployment, get

from tercet.launch.foreground import StartInterruptedError, run_until_signal
from tercet.launch.progress import LaunchError, Progress
from tercet.launch.state import running


def ignore(_progress: Progress) -> None:
    return


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_it_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    ready: list[int] = []

    def on_ready() -> None:
        ready.append(len(running(tmp_path / "run")))
        os.kill(os.getpid(), number)

    before = signal.signal(number, signal.SIG_DFL)  # whoever runs the tests may have it ignored
    try:
        await asyncio.wait_for(run_until_signal(deployment(tmp_path), ignore, on_ready), 60)
    finally:
        signal.signal(number, before)
    assert ready == [1]
    assert running(tmp_path / "run") == []


async def test_a_signal_during_the_start_is_not_a_success(tmp_path: Path) -> None:
    local = deployment(tmp_path, {"decode-0": ["--ready-after", "99"]})
    asyncio.get_running_loop().call_later(0.5, os.kill, os.getpid(), signal.SIGTERM)
    with pytest.raises(StartInterruptedError) as caught:
        await run_until_signal(local, ignore)
    assert caught.value.exit_code == 130
    assert running(tmp_path / "run") == []


async def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    local = deployment(tmp_path, {"prefill-0": ["--ignore-sigterm"]}, grace_s=60.0)

    def on_ready() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        asyncio.get_running_loop().call_later(0.5, os.kill, os.getpid(), signal.SIGINT)

    await asyncio.wait_for(run_until_signal(local, ignore, on_ready), 60)


async def test_a_router_that_may_not_restart_ends_everything(tmp_path: Path) -> None:
    local = deployment(tmp_path, restart=False)
    crashing: list[asyncio.Task[str]] = []

    def on_ready() -> None:
        crashing.append(asyncio.get_running_loop().create_task(get(f"{local.url}/crash")))

    with pytest.raises(LaunchError, match="router crashed: exit status 7"):
        await asyncio.wait_for(run_until_signal(local, ignore, on_ready), 60)
    assert running(tmp_path / "run") == []


async def test_a_signal_that_was_ignored_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ready = asyncio.Event()
    try:
        task = asyncio.create_task(run_until_signal(deployment(tmp_path), ignore, ready.set))
        await asyncio.wait_for(ready.wait(), 60)
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.3)
        assert not task.done()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(task, 60)
    finally:
        signal.signal(signal.SIGHUP, before)
