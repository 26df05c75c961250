"""Two ranks a side: what a gateway that knows nothing of ranks does to them, and what our router does."""

from __future__ import annotations

import random
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import TINY, Answer, Serve, call, metric, start_serve, stop_serve

RANKS = 2
PROMPTS = [random.Random(i).choices(range(256), k=20 + 7 * (i % 20)) for i in range(100)]


def body(prompt: list[int], **more: Any) -> dict[str, Any]:
    sampling = {"max_tokens": 12, "ignore_eos": True, "temperature": 0, "return_token_ids": True}
    return {"prompt": prompt, **sampling, **more}


def tokens(answer: Answer) -> list[int]:
    ids: list[int] = answer.body["choices"][0]["token_ids"]
    return ids


@pytest.fixture(scope="module")
def expected(replicas: Serve) -> list[list[int]]:
    """What one engine makes of each prompt."""
    replicas.mode("aggregated")
    return [tokens(replicas.complete(body(prompt))) for prompt in PROMPTS]


@pytest.fixture(scope="module")
def ranks(logs: Path) -> Iterator[Serve]:
    """One P and one D of two ranks each, of the tiny random model in fp32, paired number by number."""
    exact = ("--data-parallel-size", str(RANKS), "--rank-match", "exact", "--mode", "pd")
    serve = start_serve(logs / "ranks", "1P1D", *exact, *TINY)
    yield serve
    stop_serve(serve)


@contextmanager
def blind_gateway(worker: str, seed: int) -> Iterator[str]:
    """A proxy that takes a worker for one endpoint, and so leaves to chance which rank answers."""
    draw = random.Random(seed)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {"Content-Type": "application/json", "X-data-parallel-rank": str(draw.randrange(RANKS))}
            try:
                with urllib.request.urlopen(urllib.request.Request(worker + self.path, data, headers)) as answer:
                    status, text = answer.status, answer.read()
            except urllib.error.HTTPError as error:
                status, text = error.code, error.read()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_ticket_on_the_wrong_rank_is_refused(ranks: Serve, expected: list[list[int]]) -> None:
    p, d = (ranks.workers(stage)[0]["url"] for stage in ("prefill", "decode"))
    outcomes: Counter[str] = Counter()
    with blind_gateway(p, 1) as prefill, blind_gateway(d, 2) as decode:
        for prompt, right in zip(PROMPTS[:20], expected[:20], strict=True):
            first = call(f"{prefill}/v1/completions", body(prompt, kv_transfer_params={"do_remote_decode": True}))
            assert first.status == 200, first
            ticket = first.body["kv_transfer_params"]
            answer = call(f"{decode}/v1/completions", body(prompt, kv_transfer_params=ticket))
            if answer.status == 200:
                assert tokens(answer) == right, "an answer must never be made of another rank's blocks"
                outcomes["right"] += 1
            else:
                error = answer.body["error"]
                assert answer.status == 400 and error["code"] == "ticket_mismatch"
                assert f"of prefill rank {ticket['remote_rank']} and landed on decode rank" in error["message"]
                call(f"{p}/kv/release", {"ticket_id": ticket["ticket_id"]})
                outcomes["refused"] += 1
    assert outcomes["refused"] >= 4 and outcomes["right"] >= 4, outcomes
    ranks.wait_idle()


def test_through_the_router_every_answer_is_right(ranks: Serve, expected: list[list[int]]) -> None:
    p, d = (ranks.workers(stage)[0]["url"] for stage in ("prefill", "decode"))
    generated = [metric(d, "vllm:generation_tokens_total", rank=str(rank)) for rank in range(RANKS)]
    prompted = [metric(p, "vllm:prompt_tokens_total", rank=str(rank)) for rank in range(RANKS)]
    # Wave by wave: eight clients that never pause send more to the rank whose process happens to get more of a shared
    # core, which is as it should be, and no measure of how evenly requests are spread.
    with ThreadPoolExecutor(8) as clients:
        waves = [PROMPTS[first : first + 8] for first in range(0, len(PROMPTS), 8)]
        answers = [
            answer for wave in waves for answer in clients.map(lambda prompt: ranks.complete(body(prompt)), wave)
        ]
    assert all(answer.status == 200 for answer in answers)
    assert [tokens(answer) for answer in answers] == expected
    assert {answer.headers["x-tercet-route"] for answer in answers} == {"P0>D0", "P1>D1"}
    # 600 tokens a rank if all is even.
    made = [metric(d, "vllm:generation_tokens_total", rank=str(r)) - generated[r] for r in range(RANKS)]
    read = [metric(p, "vllm:prompt_tokens_total", rank=str(r)) - prompted[r] for r in range(RANKS)]
    assert max(made) / (sum(made) / RANKS) <= 1.15, made
    assert max(read) / (sum(read) / RANKS) <= 1.15, read
    ranks.wait_idle()
