"""Workers and engines that end, in every way: nobody hangs, nothing is left, what can come back does."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.worker.conftest import VIRTUAL
from tests.integration.worker.processes import (
    TINY,
    Answer,
    Worker,
    alive,
    launch,
    segments,
    topology,
    wait_ready,
    wait_until,
)
from tests.integration.worker.stub import DIES, HANGS, RAISES, SLOW

TOPOLOGY = topology("life")
STUB = ("-m", "tests.integration.worker.stub")


@pytest.fixture
def stub(log: Path) -> Iterator[Worker]:
    worker = wait_ready(launch(log, TOPOLOGY, command=STUB))
    yield worker
    worker.stop(signal.SIGKILL)
    wait_until(lambda: not segments(TOPOLOGY), 30, f"left in /dev/shm: {segments(TOPOLOGY)}")


def in_background(call: Callable[[], Answer]) -> tuple[threading.Thread, list[Answer]]:
    box: list[Answer] = []
    thread = threading.Thread(target=lambda: box.append(call()))
    thread.start()
    return thread, box


def pid_of(worker: Worker) -> int:
    return int(worker.engines()[0]["pid"])


@pytest.mark.parametrize("length", [RAISES, DIES])
def test_a_broken_engine_fails_its_requests_and_comes_back(stub: Worker, length: int) -> None:
    before = stub.engines()[0]
    thread, box = in_background(lambda: stub.complete([5] * 50, max_tokens=1000))
    streams = [in_background(lambda: stub.call("/v1/completions", {"prompt": [5], "max_tokens": 900, "stream": True}))]
    wait_until(lambda: stub.metric("vllm:num_requests_running") == 2, 30, "the requests never ran")
    started = time.monotonic()
    answer = stub.complete([1] * length, max_tokens=5)
    assert time.monotonic() - started < 20
    assert (answer.status, answer.error["code"], answer.error["type"]) == (500, "engine_dead", "server_error")
    thread.join(30)
    assert [a.status for a in box] == [500]
    for stream, got in streams:
        stream.join(30)
        (broken,) = got
        assert broken.status == 200 and broken.body.startswith("data: {")
        assert '"code":"engine_dead"' in broken.body and broken.body.endswith("data: [DONE]\n\n")
    assert stub.call("/health").status == 200
    refused = stub.complete("a")
    assert (refused.status, refused.error["code"]) == (503, "starting")
    wait_until(stub.is_ready, 30, "the engine did not come back")
    after = stub.engines()[0]
    assert after["engine_id"] != before["engine_id"] and after["pid"] != before["pid"] and after["restarts"] == 1
    assert stub.complete("a", max_tokens=2).status == 200
    errors = stub.metric("vllm:request_success_total", finished_reason="error")
    assert errors == 4, "those three that the engine had, and one that came while there was none: nobody left"
    if length == RAISES:
        assert "the stub was told to fail" in stub.log.read_text() and "Traceback" in stub.log.read_text()
        assert "the stub was told to fail" in answer.error["message"]


def test_a_killed_engine_comes_back(log: Path) -> None:
    worker = wait_ready(launch(log, *TINY, *VIRTUAL, "--topology-id", TOPOLOGY))
    try:
        before = worker.engines()[0]
        thread, box = in_background(lambda: worker.complete("a", max_tokens=4000, ignore_eos=True))
        wait_until(lambda: worker.metric("vllm:num_requests_running") == 1, 30, "the request never ran")
        os.kill(before["pid"], signal.SIGKILL)
        thread.join(30)
        assert [answer.status for answer in box] == [500]
        assert worker.metric("tercet:kv_blocks_in_use") == 0
        wait_until(worker.is_ready, 20, "the engine did not come back")
        assert worker.engines()[0]["engine_id"] != before["engine_id"]
        assert worker.complete("a", max_tokens=2).status == 200
        assert len(segments(TOPOLOGY)) == 1
    finally:
        worker.stop()
    assert not segments(TOPOLOGY)


def test_a_killed_front_interrupts_a_real_step(log: Path) -> None:
    worker = wait_ready(launch(log, *TINY, "--topology-id", TOPOLOGY, "--max-num-batched-tokens", "4096"))
    engine = pid_of(worker)
    connection = worker.open({"prompt": [5] * 4000, "max_tokens": 1})
    worker.process.kill()
    wait_until(lambda: not alive(engine), 30, "the engine outlives its front")
    connection.close()
    wait_until(lambda: not segments(TOPOLOGY), 30, "a shared segment is left")


@pytest.mark.parametrize("length", [1, HANGS])
def test_a_killed_front_takes_its_engine_along(stub: Worker, length: int) -> None:
    engine = pid_of(stub)
    connection = stub.open({"prompt": [5] * length, "max_tokens": 500})
    time.sleep(0.1)
    stub.process.kill()
    wait_until(lambda: not alive(engine), 30, "the engine outlives its front")
    wait_until(lambda: not segments(TOPOLOGY), 30, "a shared segment is left")
    connection.close()


def test_sigterm_lets_requests_end(log: Path) -> None:
    stub = wait_ready(launch(log, TOPOLOGY, "60", command=STUB))
    engine = pid_of(stub)
    thread, box = in_background(lambda: stub.complete("a", max_tokens=30))
    wait_until(lambda: stub.metric("vllm:num_requests_running") == 1, 30, "the request never ran")
    started = time.monotonic()
    stub.process.terminate()
    thread.join(30)
    assert [answer.status for answer in box] == [200]
    assert box[0].body["usage"]["completion_tokens"] == 30
    assert stub.stop() == 0 and time.monotonic() - started < 30, "and not the minute that they may take"
    assert not alive(engine) and not segments(TOPOLOGY)


@pytest.mark.parametrize("length", [1, SLOW])
def test_sigterm_fails_what_takes_too_long(stub: Worker, length: int) -> None:
    engine = pid_of(stub)
    body: dict[str, Any] = {"prompt": [5] * length, "max_tokens": 1500}
    whole, answers = in_background(lambda: stub.call("/v1/completions", body))
    stream, streams = in_background(lambda: stub.call("/v1/completions", {**body, "stream": True}))
    time.sleep(1.0)
    started = time.monotonic()
    stub.process.terminate()
    whole.join(30)
    stream.join(30)
    assert [answer.status for answer in answers] == [503] and answers[0].error["code"] == "stopping"
    assert '"code":"stopping"' in str(streams[0].body) if length == 1 else streams[0].status == 503
    assert stub.stop() == 0 and time.monotonic() - started < 20
    assert not alive(engine) and not segments(TOPOLOGY)


def test_sigterm_while_starting(log: Path) -> None:
    worker = launch(log, *TINY, "--topology-id", TOPOLOGY)
    wait_until(lambda: _answers(worker) and worker.engines()[0]["pid"], 20, "the front never came up")
    engine = pid_of(worker)
    assert worker.call("/ready").status == 503
    started = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - started < 20
    assert not alive(engine) and not segments(TOPOLOGY)


def _answers(worker: Worker) -> bool:
    try:
        return worker.call("/health").status == 200
    except OSError:
        return False


def test_an_engine_that_can_not_start_ends_the_worker(log: Path) -> None:
    worker = launch(log, *TINY, *VIRTUAL, "--kv-blocks", "99999999999", "--topology-id", TOPOLOGY)
    assert worker.process.wait(60) == 1
    assert "take fewer --kv-blocks" in log.read_text()


def test_an_answer_that_a_small_pool_has_no_room_for_is_refused_not_cut_short(log: Path) -> None:
    worker = wait_ready(launch(log, *TINY, *VIRTUAL, "--kv-blocks", "8", "--topology-id", TOPOLOGY))
    try:
        assert worker.call("/v1/models").body["data"][0]["max_model_len"] == 8 * 16
        long = worker.complete([5] * 28, max_tokens=101)
        assert (long.status, long.error["code"]) == (400, "context_length_exceeded")
        assert worker.complete([5] * 28, max_tokens=100).body["usage"]["completion_tokens"] == 100
    finally:
        worker.stop()


def test_clients_that_leave_free_their_blocks(stub: Worker) -> None:
    bodies = [{"prompt": [5] * 40, "max_tokens": 1900, "stream": stream, "n": 2} for stream in (True, False)]
    connections = [stub.open(body) for body in bodies]
    wait_until(lambda: stub.metric("vllm:num_requests_running") == 4, 30, "the requests never ran")
    for connection in connections:
        connection.close()
    stub.wait_idle()
    assert stub.metric("vllm:num_requests_running") == 0
    assert stub.metric("vllm:request_success_total", finished_reason="abort") == 4


def test_a_client_that_reads_slowly_gets_everything(stub: Worker) -> None:
    with stub.open({"prompt": [5], "max_tokens": 60, "n": 4, "stream": True, "return_token_ids": True}) as connection:
        connection.settimeout(60)
        time.sleep(1.0)
        got = b""
        while b"data: [DONE]" not in got:
            got += connection.recv(1000)
    assert got.count(b'"finish_reason":"length"') == 4


def test_ranks(ranks: Worker) -> None:
    assert [engine["rank"] for engine in ranks.engines()] == [0, 1]
    for rank in (0, 1):
        before = ranks.metric("vllm:prompt_tokens_total", rank=str(rank))
        body = {"prompt": [5] * 20, "max_tokens": 1}
        assert ranks.call("/v1/completions", body, X_data_parallel_rank=str(rank)).status == 200
        assert ranks.metric("vllm:prompt_tokens_total", rank=str(rank)) == before + 20
    for wrong in ("2", "-1", "x", "%C2%B2", "\u00b2", "9" * 5000):
        answer = ranks.call("/v1/completions", {"prompt": "a"}, X_data_parallel_rank=wrong)
        assert answer.status == 400 and "[0, 2)" in answer.error["message"]
    spread = [ranks.metric("vllm:request_success_total", rank=rank) for rank in "01"]
    for _ in range(10):
        ranks.complete("a", max_tokens=1)
    assert [ranks.metric("vllm:request_success_total", rank=r) - s for r, s in zip("01", spread, strict=True)] == [5, 5]


def test_api_keys(ranks: Worker) -> None:
    stranger = Worker(ranks.url, ranks.process, ranks.log)
    for value in ("", "Bearer wrong", "Basic sk-integration"):
        answer = stranger.call("/v1/models", Authorization=value)
        assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
    assert stranger.call("/v1/completions", {"prompt": "a"}).status == 401
    assert stranger.call("/kv/release", {"ticket_id": "t"}).status == 401
    host, port = ranks.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        # Of a long body no more is read than tells whose it is.
        head = b"POST /v1/completions HTTP/1.1\r\nHost: w\r\nContent-Length: 60000000\r\n\r\n"
        connection.sendall(head + b"x" * 100_000)
        assert connection.recv(1000).startswith(b"HTTP/1.1 401 ")
    assert [stranger.call(path).status for path in ("/health", "/ready", "/metrics")] == [200] * 3
    assert ranks.call("/v1/models").status == 200


def test_two_workers_of_the_same_name(stub: Worker, tmp_path: Path) -> None:
    other = wait_ready(launch(tmp_path / "other.log", TOPOLOGY, command=STUB))
    assert len(segments(TOPOLOGY)) == 2
    assert other.stop() == 0
    assert len(segments(TOPOLOGY)) == 1 and stub.complete("a", max_tokens=1).status == 200
