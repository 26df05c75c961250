"""Whole deployments, started as a user starts them: `tercet serve`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from tests.unit.transfer.transports import usable

START_TIMEOUT_S = 120.0


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: Any


def call(url: str, body: dict[str, Any] | bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
    """GET, or POST when there is a body; the body of the answer is parsed when it is JSON."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=100) as response:
            raw, status, got = response.read(), response.status, response.headers
    except urllib.error.HTTPError as error:
        raw, status, got = error.read(), error.code, error.headers
    try:
        parsed = json.loads(raw)
    except ValueError:
        parsed = raw.decode(errors="replace")
    return Answer(status, {k.lower(): v for k, v in got.items()}, parsed)


def metric(url: str, name: str, **labels: str) -> float:
    """Sum one metric of a worker over its ranks."""
    text = str(call(f"{url}/metrics").body)
    total = 0.0
    for line in text.splitlines():
        if line.startswith((name + "{", name + " ")) and all(f'{k}="{v}"' in line for k, v in labels.items()):
            total += float(line.rsplit(" ", 1)[1])
    return total


def wait_until(check: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline, f"timed out after {timeout_s} s: {what}"
        time.sleep(0.05)


@dataclass
class Serve:
    """A running `tercet serve`."""

    url: str
    process: subprocess.Popen[bytes]
    log_dir: Path
    _status: dict[str, Any] = field(default_factory=dict)

    def complete(self, body: dict[str, Any], **headers: str) -> Answer:
        return call(f"{self.url}/v1/completions", body, {k.replace("_", "-"): v for k, v in headers.items()})

    def chat(self, body: dict[str, Any], **headers: str) -> Answer:
        return call(f"{self.url}/v1/chat/completions", body, {k.replace("_", "-"): v for k, v in headers.items()})

    def mode(self, name: str) -> None:
        answer = call(f"{self.url}/mode/{name}", b"")
        assert answer.status == 200, answer

    @property
    def model(self) -> str:
        return str(call(f"{self.url}/v1/models").body["data"][0]["id"])

    def workers(self, stage: str | None = None) -> list[dict[str, Any]]:
        workers: list[dict[str, Any]] = call(f"{self.url}/status").body["workers"]
        return [w for w in workers if stage is None or stage in w["stages"]]

    def blocks_in_use(self) -> float:
        return sum(metric(w["url"], "tercet:kv_blocks_in_use") for w in self.workers())

    def wait_idle(self) -> None:
        wait_until(lambda: self.blocks_in_use() == 0, 60, "KV blocks in use never returned to zero")


def start_serve(log_dir: Path, *arguments: str, ready: bool = True, timeout_s: float = START_TIMEOUT_S) -> Serve:
    port = free_port()
    command = [sys.executable, "-m", "tercet", "serve", *arguments, "--port", str(port), "--log-dir", str(log_dir)]
    log_dir.mkdir(parents=True, exist_ok=True)
    with (log_dir / "serve.out").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    serve = Serve(f"http://127.0.0.1:{port}", process, log_dir)
    try:
        if ready:
            _until_ready(serve, arguments, time.monotonic() + timeout_s)
    except BaseException:  # also Ctrl-C: nothing is left running
        stop_serve(serve)
        raise
    return serve


def _until_ready(serve: Serve, arguments: tuple[str, ...], deadline: float) -> None:
    process, log_dir = serve.process, serve.log_dir
    while True:
        try:
            if call(f"{serve.url}/ready").status == 200:
                return
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            logs = "\n".join(f"--- {p.name}\n{p.read_text()[-3000:]}" for p in sorted(log_dir.glob("*.*")))
            raise AssertionError(f"tercet serve {' '.join(arguments)} did not get ready:\n{logs}")
        time.sleep(0.1)


def stop_serve(serve: Serve, number: int = signal.SIGINT) -> None:
    if serve.process.poll() is None:
        os.kill(serve.process.pid, number)
        try:
            serve.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(serve.process.pid, signal.SIGKILL)
            raise


TINY = ("--random-weights", "tiny", "--dtype", "fp32")


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


def _session_serve(logs: Path, name: str, *arguments: str) -> Iterator[Serve]:
    serve = start_serve(logs / name, *arguments)
    yield serve
    stop_serve(serve)


@pytest.fixture(scope="session")
def replicas(logs: Path) -> Iterator[Serve]:
    """2A of the tiny random model in fp32."""
    yield from _session_serve(logs, "2a", "2A", "--mode", "aggregated", *TINY)


@pytest.fixture(scope="session")
def split_shm(logs: Path) -> Iterator[Serve]:
    """1P1D of the tiny random model in fp32, blocks by shared memory."""
    yield from _session_serve(logs, "1p1d-shm", "1P1D", "--mode", "pd", "--transport", "shm", *TINY)


@pytest.fixture(scope="session")
def split_nixl(logs: Path) -> Iterator[Serve]:
    """1P1D of the tiny random model in fp32, blocks by NIXL."""
    yield from _session_serve(logs, "1p1d-nixl", "1P1D", "--mode", "pd", "--transport", usable("nixl"), *TINY)


@pytest.fixture(scope="session")
def split_mooncake(logs: Path) -> Iterator[Serve]:
    """1P1D of the tiny random model in fp32, blocks by Mooncake."""
    yield from _session_serve(logs, "1p1d-mooncake", "1P1D", "--mode", "pd", "--transport", usable("mooncake"), *TINY)


@pytest.fixture(scope="session")
def split_tcp(logs: Path) -> Iterator[Serve]:
    """1P1D of the tiny random model in fp32, blocks by ZeroMQ."""
    yield from _session_serve(logs, "1p1d-tcp", "1P1D", "--mode", "pd", "--transport", "tcp", *TINY)
