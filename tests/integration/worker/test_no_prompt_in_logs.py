"""No prompt, picture's URL, answer or key is in what a router and workers print, whatever goes wrong, at any level."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tercet.core.secret import key_of_workers
from tests.integration.worker.processes import SECRET, Worker, launch, stop_all, topology, wait_ready
from tests.unit.media.files import data_uri, picture
from tests.unit.media.site import site

MARK = "xyzzy7of7the7prompt"
LOUD = Path(__file__).with_name("loud")
VIRTUAL = ("--random-weights", "tiny-llava", "--engine", "virtual", "--gpu", "h100", "--lease", "2")
STAGES = {
    "a0": ("encode,prefill,decode", "--allow-local-media", "--media-timeout", "2"),
    "p0": ("encode,prefill", "--allow-local-media"),
    "d0": ("decode",),
}
SECRETS = (MARK, b64encode(MARK.encode()).decode().rstrip("="), SECRET, key_of_workers(bytes.fromhex(SECRET)))

pytestmark = pytest.mark.slow
Fleet = dict[str, Worker]


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(LOUD), os.environ.get("PYTHONPATH", ""))))
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    started: Fleet = {}
    try:
        for name, (stages, *more) in STAGES.items():
            rest = ("--stages", stages, "--topology-id", topology("loud"), "--require-secret", *VIRTUAL, *more)
            started[name] = launch(tmp_path / f"{name}.log", "--name", name, *rest)
        keys = tmp_path / "keys"
        keys.write_text(f"{MARK}-key\n")
        a, p, d = (started[name].url for name in STAGES)
        roles = ("--worker", a, "--prefill", f"{p}#encode", "--decode", d, "--mode", "pd", "--api-key-file", str(keys))
        router = launch(tmp_path / "router.log", *roles, "--log-requests", command=("-m", "tercet", "router"))
        started["router"] = router
        router.headers["Authorization"] = f"Bearer {MARK}-key"
        for worker in started.values():
            wait_ready(worker)
        yield started
    finally:
        stop_all(started.values())


def test_nothing_of_a_request_is_in_a_log(fleet: Fleet) -> None:
    router = fleet["router"]
    pid = fleet["a0"].engines()[0]["pid"]
    with site(picture(seed=3)) as web:
        pictures = [
            data_uri(picture(seed=4)),
            f"data:image/png;base64,{MARK}",
            web.url(f"/ok?signature={MARK}"),
            web.url(f"/missing?signature={MARK}"),
            web.url(f"/to?url=/missing?{MARK}"),
            web.url("/ok").replace("://", f"://user:{MARK}@"),
            f"http://{MARK}.invalid/x.png",
            f"http://127.0.0.1:1/{MARK}",
            f"ftp://{MARK}",
            MARK,
        ]
        answered = 0
        for mode in ("pd", "aggregated"):
            assert router.call(f"/mode/{mode}", b"").status == 200
            for path, body in bodies(pictures):
                answered += router.call(path, body, X_Session_Id=MARK).status == 200
    assert answered > 10  # else the others were all refused at the door
    for raw in (
        f"GET /v1/models?{MARK} HTTP/9.9\r\n\r\n",
        f"{MARK}\r\n\r\n",
        f"POST /v1/completions HTTP/1.1\r\nX: {MARK}",
    ):
        say(router, raw)
        say(fleet["a0"], raw)
    router.call("/v1/completions", {"prompt": MARK}, Authorization=f"Bearer {MARK}")
    break_things(router, fleet, pid)
    for worker in fleet.values():
        worker.process.terminate()
    for worker in fleet.values():
        worker.stop()
        text = worker.log.read_text(errors="replace")
        assert "LOUD " in text
        assert [line for line in text.splitlines() if any(secret in line for secret in SECRETS)] == [], worker.log


def bodies(pictures: list[str]) -> Iterator[tuple[str, dict[str, Any] | bytes]]:
    """Requests that are answered, and such that aren't."""
    chat, completions = "/v1/chat/completions", "/v1/completions"
    text = {"messages": [{"role": "user", "content": MARK, "name": MARK}], "max_tokens": 3, "user": MARK}
    yield from (
        (chat, text | more) for more in ({}, {"stream": True}, {"logprobs": True}, {"stop": MARK}, {"echo": True})
    )
    yield chat, text | {"tools": [{"type": "function", "function": {"name": MARK}}]}
    yield completions, {"prompt": [MARK, MARK], "max_tokens": 2, "echo": True, "cache_salt": MARK}
    yield completions, {"prompt": f"\ud800{MARK}", "max_tokens": 2}
    for wrong in (
        {"max_tokens": MARK},
        {"model": MARK},
        {"temperature": {MARK: MARK}},
        {"stop": [MARK] * 99},
        {"n": MARK},
    ):
        yield completions, {"prompt": MARK, **wrong}
        yield chat, text | wrong
    yield chat, {"messages": [{"role": MARK, "content": [{"type": MARK}]}]}
    yield chat, {"messages": MARK}
    yield chat, text | {"response_format": {"type": MARK}}
    for source in pictures:
        part = {"type": "image_url", "image_url": {"url": source}}
        yield chat, {"messages": [{"role": "user", "content": [part, {"type": "text", "text": MARK}]}], "max_tokens": 2}
    yield completions, f'{{"prompt": "{MARK}'.encode()
    yield completions, f'{{"prompt": "{MARK}", "kv_transfer_params": {{"ticket_id": "{MARK}"}}}}'.encode()
    yield completions, MARK.encode() + b"\xff"
    yield "/v1/absent", {"input": MARK}
    yield f"/v1/embeddings?{MARK}", {"input": MARK}


def say(worker: Worker, raw: str) -> None:
    """Send bytes, and leave."""
    address = urlsplit(worker.url)
    with socket.create_connection((str(address.hostname), address.port or 0), 5) as connection:
        connection.sendall(raw.encode())
        connection.settimeout(0.1)
        with contextlib.suppress(TimeoutError, ConnectionError):
            connection.recv(4096)


def break_things(router: Worker, fleet: Fleet, engine: int) -> None:
    """Leave in the midst of a stream, then have an engine, a worker and with them streams die."""
    body = {"prompt": MARK, "max_tokens": 900, "stream": True, "ignore_eos": True}
    head = f"POST /v1/completions HTTP/1.1\r\nHost: r\r\nAuthorization: Bearer {MARK}-key\r\nConnection: close\r\n"
    data = json.dumps(body)
    asked = f"{head}Content-Length: {len(data)}\r\n\r\n{data}"
    say(router, asked)
    for victim in (engine, fleet["a0"].process.pid):
        address = urlsplit(router.url)
        with socket.create_connection((str(address.hostname), address.port or 0), 5) as connection:
            connection.sendall(asked.encode())
            connection.recv(4096)
            os.kill(victim, signal.SIGKILL)
            connection.settimeout(10)
            while connection.recv(1 << 16):
                pass
    router.call("/v1/completions", {"prompt": MARK, "max_tokens": 2})
    os.kill(fleet["p0"].process.pid, signal.SIGKILL)
    router.call("/mode/pd", b"")
    router.call("/v1/completions", {"prompt": MARK, "max_tokens": 2})
    time.sleep(0.5)
