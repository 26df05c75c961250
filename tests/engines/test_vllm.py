"""The stages of real vLLM under the router: same tokens by every mode, KV that crossed, deaths that are survived."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
import time
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from tercet.router.probe_picture import probe_picture
from tests.e2e.conftest import Serve, metric, wait_until

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1500)]

EXTERNAL = "external_kv_transfer"
BY_SOURCE = "vllm:prompt_tokens_by_source_total"
EXPIRED = "vllm:nixl_num_kv_expired_reqs_total"
WORDS = "The tide comes in and the tide goes out and nobody on the shore has ever asked it why. " * 4


def worker(serve: Serve, letter: str) -> str:
    """Return the URL of the worker with these stages: E, P, D or A."""
    wanted = {"E": {"encode"}, "P": {"prefill"}, "D": {"decode"}, "A": {"prefill", "decode"}}[letter]
    urls = [str(w["url"]) for w in serve.workers() if set(w["stages"]) - ({"encode"} - wanted) == wanted]
    assert len(urls) == 1, serve.workers()
    return urls[0]


def told(serve: Serve, prompt: str, tokens: int = 8) -> str:
    answer = serve.complete({"prompt": prompt, "max_tokens": tokens, "temperature": 0})
    assert answer.status == 200, answer
    return str(answer.body["choices"][0]["text"])


def test_pd_says_what_one_engine_says_and_the_prompt_crossed(stages: Serve) -> None:
    decode, prompt = worker(stages, "D"), f"{secrets.token_hex(4)} {WORDS}"
    before = metric(decode, BY_SOURCE, source=EXTERNAL)
    stages.mode("pd")
    crossed = told(stages, prompt)
    assert metric(decode, BY_SOURCE, source=EXTERNAL) - before > 60
    stages.mode("aggregated")
    assert crossed == told(stages, prompt)


def chat(serve: Serve, messages: list[dict[str, Any]]) -> str:
    answer = serve.chat({"messages": messages, "max_tokens": 8, "temperature": 0})
    assert answer.status == 200, answer
    return str(answer.body["choices"][0]["message"]["content"])


@pytest.mark.parametrize(("mode", "letter"), [("ppd", "D"), ("replicated", "A")])
def test_the_second_turn_finds_the_first_ones_cache(stages: Serve, mode: str, letter: str) -> None:
    stages.mode(mode)
    messages: list[dict[str, Any]] = [{"role": "user", "content": f"{secrets.token_hex(4)} {WORDS}"}]
    messages += [{"role": "assistant", "content": chat(stages, messages)}, {"role": "user", "content": "Go on."}]
    url, prefill = worker(stages, letter), worker(stages, "P")
    hits, asked = metric(url, "vllm:prefix_cache_hits_total"), metric(prefill, "vllm:prompt_tokens_total")
    chat(stages, messages)
    assert metric(url, "vllm:prefix_cache_hits_total") - hits >= 64
    assert metric(prefill, "vllm:prompt_tokens_total") == asked, "P was asked in turn 2"


def test_a_picture_by_way_of_the_encoder(stages: Serve) -> None:
    picture = {"type": "image_url", "image_url": {"url": probe_picture()}}
    messages = [{"role": "user", "content": [picture, {"type": "text", "text": "What is the colour?"}]}]
    stages.mode("aggregated")
    alone = chat(stages, messages)
    stages.mode("epd")
    assert chat(stages, messages) == alone


def test_a_client_that_leaves_between_the_legs_strands_nothing(stages: Serve) -> None:
    """P's lease is 30 s; its blocks are free long before."""
    stages.mode("pd")
    prefill, decode = worker(stages, "P"), worker(stages, "D")
    idle = usage(stages, prefill)
    process = next(p for p in psutil.process_iter() if is_server(p, decode))
    asked, expired = metric(prefill, "vllm:request_success_total"), metric(prefill, EXPIRED)
    tree = [process, *process.children(recursive=True)]
    for each in tree:  # D does not accept: the request stays between the legs
        each.send_signal(signal.SIGSTOP)
    try:
        door = urlsplit(stages.url)
        client = http.client.HTTPConnection(str(door.hostname), door.port, timeout=100)
        body = json.dumps({"prompt": f"{secrets.token_hex(4)} {WORDS}", "max_tokens": 8})
        client.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        wait_until(lambda: metric(prefill, "vllm:request_success_total") > asked, 90, "P never answered")
        time.sleep(0.5)
        client.close()
    finally:
        for each in tree:
            each.send_signal(signal.SIGCONT)
    told(stages, "one", 2)
    wait_until(lambda: usage(stages, prefill) == idle, 20, "P's blocks were still held")
    assert metric(prefill, EXPIRED) == expired


def usage(serve: Serve, prefill: str) -> float:
    """Return the share of P's blocks in use while one short prompt is computed: an idle engine shows an old figure."""
    told(serve, f"{secrets.token_hex(4)} x", 1)
    return metric(prefill, "vllm:kv_cache_usage_perc")


def is_server(process: psutil.Process, url: str) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return "vllm.entrypoints.openai.api_server" in words and str(urlsplit(url).port) in words


@pytest.mark.parametrize("letter", ["P", "D"])
def test_a_killed_worker_comes_back_and_the_pair_is_proved_again(stages: Serve, letter: str) -> None:
    stages.mode("pd")
    url = worker(stages, letter)
    process = next(p for p in psutil.process_iter() if is_server(p, url))
    engines = process.children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    begin = time.monotonic()
    answer = stages.complete({"prompt": "a b c", "max_tokens": 2})
    assert answer.status >= 500 and time.monotonic() - begin < 60, "a request hung"
    psutil.wait_procs(engines, timeout=60)
    assert not [engine for engine in engines if engine.is_running() and engine.status() != psutil.STATUS_ZOMBIE]
    body = {"prompt": "a b c", "max_tokens": 2, "temperature": 0}
    wait_until(lambda: stages.complete(body).status == 200, 600, "the pair never served again")


def test_every_rank_answers_right(ranks: Serve) -> None:
    """20 of 20, and each rank of D had its share by transfer."""
    decode = worker(ranks, "D")
    prompts = [f"Question {i}: {WORDS[: 90 + 11 * i]}" for i in range(20)]
    answers = [told(ranks, prompt, 4) for prompt in prompts]
    for rank in ("0", "1"):
        assert metric(decode, BY_SOURCE, source=EXTERNAL, engine=rank) > 100, f"rank {rank} took no KV over"
    # What D computes by itself, without any P.
    own = Serve(decode, ranks.process, ranks.log_dir)
    for prompt, answer in zip(prompts, answers, strict=True):
        alone = own.complete({"model": ranks.model, "prompt": f"{prompt}", "max_tokens": 4, "temperature": 0})
        assert alone.body["choices"][0]["text"] == answer
