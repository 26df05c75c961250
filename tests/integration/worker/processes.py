"""Real workers as processes of their own, and plain HTTP to talk to them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tercet.launch import child
from tests.ports import free_port

SECRET = "5a" * 32
START_TIMEOUT_S = 60.0
TINY = ("--random-weights", "tiny", "--dtype", "fp32")
SHM = Path("/dev/shm")
DIES_WITH_US = (sys.executable, "-I", "-S", child.__file__)
"""Runs a program that the kernel kills when these tests are killed."""


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: Any

    @property
    def choice(self) -> Any:
        return self.body["choices"][0]

    @property
    def error(self) -> Any:
        assert set(self.body["error"]) == {"message", "type", "code", "param"}, self.body
        return self.body["error"]


def wait_until(check: Callable[[], object], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline, f"timed out after {timeout_s} s: {what}"
        time.sleep(0.02)


@dataclass
class Worker:
    url: str
    process: subprocess.Popen[bytes]
    log: Path
    headers: dict[str, str] = field(default_factory=dict)
    transport: str | None = None
    """Of a ticket's transports, offer it this one alone."""

    def call(self, path: str, body: dict[str, Any] | bytes | None = None, **headers: str) -> Answer:
        """GET, or POST when there is a body."""
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        request = urllib.request.Request(self.url + path, data=data, headers={**self.headers, **named})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                raw, status, got = response.read(), response.status, response.headers
        except urllib.error.HTTPError as error:
            raw, status, got = error.read(), error.code, error.headers
        named = {key.lower(): value for key, value in got.items()}
        return Answer(status, named, json.loads(raw) if "json" in named.get("content-type", "") else raw.decode())

    def decode(self, body: dict[str, Any], ticket: dict[str, Any], path: str = "/v1/completions") -> Answer:
        """Send a request with a ticket."""
        return self.call(path, self.with_ticket(body, ticket))

    def with_ticket(self, body: dict[str, Any], ticket: dict[str, Any]) -> dict[str, Any]:
        """Return a request's body with a ticket."""
        offered = ticket.get("addresses", {})
        wanted = {name: address for name, address in offered.items() if self.transport in (None, name)}
        return {**body, "kv_transfer_params": {**ticket, "addresses": wanted} if offered else ticket}

    def complete(self, prompt: object, **fields: Any) -> Answer:
        return self.call("/v1/completions", {"prompt": prompt, **fields})

    def chat(self, text: str, **fields: Any) -> Answer:
        return self.call("/v1/chat/completions", {"messages": [{"role": "user", "content": text}], **fields})

    def events(self, path: str, body: dict[str, Any]) -> list[Any]:
        """Stream, and return the events; the last is the string [DONE]."""
        text = self.call(path, {**body, "stream": True}).body
        assert isinstance(text, str), text
        assert text.endswith("\n\n")
        lines = [line.removeprefix("data: ") for line in text.removesuffix("\n\n").split("\n\n")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]

    def metric(self, name: str, **labels: str) -> float:
        """Sum a metric over its series."""
        total, found = 0.0, False
        for line in str(self.call("/metrics").body).splitlines():
            if line.startswith((name + "{", name + " ")) and all(f'{k}="{v}"' in line for k, v in labels.items()):
                total, found = total + float(line.rsplit(" ", 1)[1]), True
        assert found, f"no metric {name} {labels}"
        return total

    def engines(self) -> list[dict[str, Any]]:
        engines: list[dict[str, Any]] = self.call("/health").body["engines"]
        return engines

    def is_ready(self) -> bool:
        try:
            return self.call("/ready").status == 200
        except OSError:
            return False

    def wait_idle(self) -> None:
        wait_until(lambda: self.metric("tercet:kv_blocks_in_use") == 0, 30, "KV blocks in use never returned to zero")

    def open(self, body: dict[str, Any], path: str = "/v1/completions") -> socket.socket:
        """Send a request by hand; close the socket to leave."""
        host, port = self.url.removeprefix("http://").split(":")
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: w\r\nContent-Length: {len(data)}\r\n\r\n"
        connection = socket.create_connection((host, int(port)), 30)
        connection.sendall(head.encode() + data)
        return connection

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def stop_all(workers: Iterable[Worker]) -> None:
    """End workers: all are told before any is waited for."""
    each = list(workers)
    for worker in each:
        worker.process.terminate()
    for worker in each:
        worker.stop()


def launch(log: Path, *arguments: str, command: tuple[str, ...] = ("-m", "tercet", "worker")) -> Worker:
    """Start a worker and return at once."""
    port = free_port()
    environment = {**os.environ, "TERCET_TOPOLOGY_SECRET": SECRET, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*DIES_WITH_US, str(os.getpid()), sys.executable, *command, "--port", str(port), *arguments],
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    return Worker(f"http://127.0.0.1:{port}", process, log)


def wait_ready(worker: Worker) -> Worker:
    try:
        wait_until(lambda: worker.process.poll() is not None or worker.is_ready(), START_TIMEOUT_S, "never ready")
        assert worker.process.poll() is None, "the worker ended"
    except AssertionError as error:
        worker.process.kill()
        raise AssertionError(f"{error}\n{worker.log.read_text()[-3000:]}") from error
    return worker


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def topology(name: str) -> str:
    """Return a topology's name that no other run of the tests uses at the same time."""
    return f"itest-{name}-{os.getpid()}"


def segments(name: str) -> list[str]:
    return [path.name for path in SHM.glob(f"tercet.{name}.*")]
