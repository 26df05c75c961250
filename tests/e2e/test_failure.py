"""A worker dies at any moment: a clean error within 5 s, a restart, the next request works, nothing is left behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import TINY, Answer, Serve, metric, start_serve, stop_serve, wait_until

pytestmark = pytest.mark.slow


def engine_pids(serve: Serve, stage: str) -> list[int]:
    children = psutil.Process(serve.process.pid).children(recursive=True)
    wanted = {"prefill": "prefill-0", "decode": "decode-0"}[stage]
    return [p.pid for p in children if wanted in " ".join(p.cmdline())]


@pytest.mark.parametrize("stage", ["prefill", "decode"])
def test_kill_a_worker_during_a_request(tmp_path: Path, stage: str) -> None:
    serve = start_serve(tmp_path, "1P1D", "--mode", "pd", *TINY, "--max-num-batched-tokens", "16")
    try:
        # 16 tokens a step: long enough on its way that the kill falls into it.
        body: dict[str, Any] = {"prompt": [5] * 3000, "max_tokens": 1000, "ignore_eos": True}
        box: list[Answer] = []
        thread = threading.Thread(target=lambda: box.append(serve.complete(body)))
        thread.start()
        busy = serve.workers(stage)[0]["url"]
        wait_until(lambda: metric(busy, "vllm:num_requests_running") > 0, 60, "the request never ran")
        for pid in engine_pids(serve, stage):
            os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        thread.join(10)
        assert not thread.is_alive(), "the client hangs"
        assert time.monotonic() - killed < 5
        assert box[0].status >= 500 and "error" in box[0].body, box
        short = {"prompt": [5] * 30, "max_tokens": 3}
        wait_until(lambda: serve.complete(short).status == 200, 60, "the worker did not come back")
    finally:
        stop_serve(serve)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_the_launcher_ends(tmp_path: Path, number: signal.Signals) -> None:
    before = set(os.listdir("/dev/shm"))
    serve = start_serve(tmp_path, "1P1D", "--mode", "pd", *TINY)
    family = psutil.Process(serve.process.pid).children(recursive=True)
    assert len(family) >= 5, "router, two fronts and two engines"
    assert set(os.listdir("/dev/shm")) - before, "the pools are shared segments"
    stop_serve(serve, number)
    wait_until(
        lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family), 60, "a process is left"
    )
    wait_until(lambda: not set(os.listdir("/dev/shm")) - before, 60, "a shared segment is left")
