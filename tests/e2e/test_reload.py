"""A topology file that changes while `tercet serve` runs it, under load."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Answer, Serve, call, metric, start_serve, stop_serve, wait_until

pytestmark = pytest.mark.slow

STAGES = {"p": "[prefill]", "d": "[decode]", "a": "[prefill, decode]"}
ENGINE = "{engine: virtual, gpu: h100, random_weights: tiny, dtype: fp32, max_model_len: 512}"


def write(path: Path, *workers: str, mode: str = "pd", engine: str = ENGINE, router: str = "{}") -> None:
    entries = ", ".join(f"{{name: {name}, stages: {STAGES[name[0]]}}}" for name in workers)
    new = path.with_suffix(".new")
    new.write_text(f"{{name: t, mode: {mode}, workers: [{entries}], engine: {engine}, router: {router}}}")
    os.replace(new, path)


@contextmanager
def load(serve: Serve) -> Iterator[list[Answer]]:
    """Requests one after another from four clients, half of them streamed; the answers."""
    answers: list[Answer] = []
    stop = threading.Event()
    body: dict[str, Any] = {"model": serve.model, "prompt": "a b c", "max_tokens": 16, "ignore_eos": True, "seed": 1}

    def client(stream: bool) -> None:
        while not stop.is_set():
            answers.append(serve.complete({**body, "stream": stream}))

    threads = [threading.Thread(target=client, args=(bool(i % 2),)) for i in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def names(serve: Serve) -> set[str]:
    """What runs: the parts that have a process."""
    import psutil

    lines = []
    for child in psutil.Process(serve.process.pid).children():
        with suppress(psutil.NoSuchProcess):  # it leaves just now
            lines.append(" ".join(child.cmdline()))
    return {name for name in ("p-0", "d-0", "d-1", "a-0") if any(f"worker {name}" in line for line in lines)}


def refusals(serve: Serve) -> float:
    return metric(serve.url, "tercet:router_reloads_total", result="refused")


def test_workers_mode_and_deadlines_follow_the_file_and_no_request_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    write(path, "p-0", "d-0")
    serve = start_serve(tmp_path / "logs", str(path))
    try:
        with load(serve) as answers:
            write(
                path,
                "p-0",
                "d-0",
                "d-1",
                "a-0",
                mode="ppd",
                router="{first_byte_timeout: 7, ppd_threshold: 9, balancer: random, max_queue: 7}",
            )
            wait_until(lambda: len([w for w in serve.workers() if w["ready"]]) == 4, 60, "the new workers")
            wait_until(lambda: call(f"{serve.url}/mode").body["mode"] == "ppd", 30, "the new mode")
            status = call(f"{serve.url}/status").body
            assert (status["ppd_threshold"], status["balancer"]) == (9, "random")
            assert names(serve) == {"p-0", "d-0", "d-1", "a-0"}
            write(path, "p-0", "d-1", "a-0", mode="pd")
            wait_until(lambda: names(serve) == {"p-0", "d-1", "a-0"}, 30, "d-0 to leave")
            assert len(serve.workers()) == 3
            before = refusals(serve)
            write(path, "p-0", "d-1", mode="pd", engine=ENGINE.replace("fp32", "bf16"), router="{port: 1}")
            wait_until(lambda: refusals(serve) == before + 1, 30, "the refusal")
            assert "engine: dtype can't change" in (serve.log_dir / "router.log").read_text()
            assert names(serve) == {"p-0", "d-1", "a-0"}, "all or nothing"
            count = len(answers)
            wait_until(lambda: len(answers) > count + 20, 30, "requests go on")
    finally:
        stop_serve(serve)
    assert [answer for answer in answers if answer.status != 200] == []
    texts = {answer.body["choices"][0]["text"] for answer in answers if isinstance(answer.body, dict)}
    streams = [answer.body for answer in answers if isinstance(answer.body, str)]
    assert len(texts) == 1 and streams and all(stream.endswith("data: [DONE]\n\n") for stream in streams)
