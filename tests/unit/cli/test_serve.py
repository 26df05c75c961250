"""`tercet serve` as a person types it: real processes, a virtual GPU, seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.ports import free_port

VIRTUAL = ("1P1D", "--engine", "virtual", "--random-weights", "tiny")


class Shell:
    """Runs `tercet` with state and logs of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env = {**os.environ, "XDG_RUNTIME_DIR": str(home / "run"), "XDG_STATE_HOME": str(home / "state")}
        (home / "run").mkdir()

    def run(self, *arguments: str, timeout_s: float = 90) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tercet", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=self.env, timeout=timeout_s, check=False)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tercet", *arguments]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.env, start_new_session=True
        )

    def processes(self) -> list[psutil.Process]:
        """Every launcher of a running deployment, with all that descends from it."""
        states = (self.home / "run" / "tercet").glob("*/state.json")
        launchers = [psutil.Process(json.loads(path.read_text())["pid"]) for path in states]
        return [process for launcher in launchers for process in (launcher, *launcher.children(recursive=True))]

    def segments(self) -> list[Path]:
        folders = (self.home / "run" / "tercet").glob("*-*")
        return [path for folder in folders for path in Path("/dev/shm").glob(f"tercet.{folder.name}.*")]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    shell.run("stop", "--all")


def until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.05)


def gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def complete(port: int) -> str:
    body = json.dumps({"prompt": "hello", "max_tokens": 4}).encode()
    url = f"http://127.0.0.1:{port}/v1/completions"
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as answer:
        return str(answer.headers["X-Tercet-Route"])


@pytest.mark.slow
def test_detached_then_status_logs_and_stop(shell: Shell) -> None:
    port = free_port()
    started = shell.run("serve", *VIRTUAL, "--mode", "ppd", "--port", str(port), "--detach", "--devices", "cpu")
    assert started.returncode == 0, started.stdout + started.stderr
    assert "2 ranks share cpu (prefill-0, decode-0)" in started.stdout
    assert started.stdout.index("decode-0 ready") < started.stdout.index("router ready")
    assert complete(port) == "P0>D0"

    status = shell.run("status").stdout
    for word in ("1p1d", "mode ppd, ready", "random-tiny", "P0", "D0", "P0>D0: 1"):
        assert word in status
    assert json.loads(shell.run("status", "1p1d", "--json").stdout)["mode"] == "ppd"
    assert "listens on" in shell.run("logs", "prefill-0").stdout
    assert shell.run("logs").stdout.strip().endswith("decode-0, launcher, prefill-0, router")
    again = shell.run("serve", *VIRTUAL, "--port", str(port))
    assert again.returncode == 2
    assert f"port {port} (router) is in use by the deployment '1p1d'" in again.stderr

    processes, segments = shell.processes(), shell.segments()
    assert len(processes) == 7, "launcher, keeper, router, two fronts, two engines"
    assert len(segments) == 2
    stopped = shell.run("stop")
    assert (stopped.returncode, stopped.stdout) == (0, "1p1d stopped\n")
    until(lambda: all(gone(process) for process in processes))
    assert not any(path.exists() for path in segments)
    assert "listens on" in shell.run("logs", "router", "--name", "1p1d").stdout, "logs outlive the deployment"


@pytest.mark.slow
def test_ctrl_c_ends_the_foreground(shell: Shell) -> None:
    port = free_port()
    with shell.start("serve", *VIRTUAL, "--port", str(port), "--log-dir", str(shell.home / "logs")) as serve:
        output = serve.stdout
        assert output is not None
        until(lambda: "Ctrl-C stops it." in output.readline())
        assert complete(port) == "P0>D0"
        processes = shell.processes()
        assert len(processes) == 7
        serve.send_signal(signal.SIGINT)
        assert serve.wait(60) == 0
        assert output.read().split() == ["stopping", "stopped"]
    until(lambda: all(gone(process) for process in processes))
    assert sorted(path.name for path in (shell.home / "logs").iterdir()) == [
        *("decode-0.log", "launcher.log", "prefill-0.log", "router.log")
    ]


@pytest.mark.slow
def test_a_killed_launcher_takes_everything_along(shell: Shell) -> None:
    port = free_port()
    assert shell.run("serve", *VIRTUAL, "--port", str(port), "--detach").returncode == 0
    processes, segments = shell.processes(), shell.segments()
    assert (len(processes), len(segments)) == (7, 2)
    processes[0].kill()
    until(lambda: all(gone(process) for process in processes))
    until(lambda: not any(path.exists() for path in segments))
    assert "nothing is running" in shell.run("status").stdout


@pytest.mark.slow
def test_what_fails_at_start_is_shown_detached_or_not(shell: Shell, tmp_path: Path) -> None:
    config = json.dumps({"model_type": "llama", "vocab_size": 512, "hidden_size": "wide"})
    (tmp_path / "config.json").write_text(config)
    for more in ((), ("--detach",)):
        arguments = ("serve", "1A", "--random-weights", str(tmp_path / "config.json"), "--port", str(free_port()))
        done = shell.run(*arguments, *more)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "error: worker-0 ended while starting" in done.stderr
        assert str(shell.home / "state" / "tercet" / "1a" / "worker-0.log") in done.stderr
        assert not list((shell.home / "run" / "tercet").glob("1a*"))


def test_settings_that_an_engine_cannot_follow_are_refused_before_its_model_is_fetched(shell: Shell) -> None:
    here = ("--engine", "sglang", "--engine-python", sys.executable, "--devices", "cpu:0", "--port", str(free_port()))
    done = shell.run("serve", "1P1D", "--model", "nobody/has-this-model", *here)
    assert (done.returncode, done.stdout) == (2, "")
    assert "sglang computes on GPUs, not on cpu:0" in done.stderr
