"""The stages of real vLLM under the router: same tokens by every mode, KV that crossed, deaths that are survived."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from tercet.router.probe_picture import probe_picture
from tests.e2e.conftest import Answer, Serve, metric, wait_until
from tests.engines.asking import (
    ANSWERED,
    BY_SOURCE,
    EXPIRED,
    EXTERNAL,
    HITS,
    WORDS,
    chatted,
    directly,
    fresh,
    route_of,
    said,
    server_process,
    told,
    worker,
)
from tests.engines.conftest import LEASE_S

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1500)]


def test_pd_says_what_one_engine_says_and_the_prompt_crossed(stages: Serve) -> None:
    decode, prompt = worker(stages, "D"), fresh()
    before = metric(decode, BY_SOURCE, source=EXTERNAL)
    stages.mode("pd")
    crossed = told(stages, prompt)
    assert metric(decode, BY_SOURCE, source=EXTERNAL) - before > 60
    stages.mode("aggregated")
    assert crossed == told(stages, prompt)


def test_under_ppd_the_second_turn_finds_the_first_ones_cache_on_d(stages: Serve) -> None:
    stages.mode("ppd")
    messages: list[dict[str, Any]] = [{"role": "user", "content": fresh()}]
    first = chatted(stages, messages)
    messages += [{"role": "assistant", "content": said(first)}, {"role": "user", "content": "Go on."}]
    decode, prefill = worker(stages, "D"), worker(stages, "P")
    hits, asked = metric(decode, HITS), metric(prefill, "vllm:prompt_tokens_total")
    second = chatted(stages, messages)
    assert (route_of(first), route_of(second)) == ("P0>D0", "D0")
    assert metric(decode, HITS) - hits >= 64
    assert metric(prefill, "vllm:prompt_tokens_total") == asked, "P was asked in turn 2"
    stages.mode("aggregated")
    assert said(chatted(stages, messages)) == said(second)


@pytest.mark.parametrize(("mode", "second"), [("epd", "P0>D0"), ("eppd", "D0")])
def test_pictures_by_way_of_the_encoder(stages: Serve, mode: str, second: str) -> None:
    encoder = worker(stages, "E")
    picture = {"type": "image_url", "image_url": {"url": probe_picture()}}
    text = {"type": "text", "text": f"{secrets.token_hex(4)} What is the colour? {WORDS}"}
    messages: list[dict[str, Any]] = [{"role": "user", "content": [picture, text]}]
    answers: dict[str, list[str]] = {}
    for way in (mode, "aggregated"):
        stages.mode(way)
        encoded, talk = metric(encoder, ANSWERED), list(messages)
        first = chatted(stages, talk)
        talk += [{"role": "assistant", "content": said(first)}, {"role": "user", "content": "Go on."}]
        then = chatted(stages, talk)
        answers[way] = [said(first), said(then)]
        if way == mode:
            assert route_of(first) == "E0>P0>D0" and route_of(then).endswith(second)
            assert metric(encoder, ANSWERED) > encoded
    assert answers[mode] == answers["aggregated"]


def test_a_client_that_leaves_between_the_legs_strands_nothing(stages: Serve) -> None:
    """P's blocks are free long before its lease ends."""
    stages.mode("pd")
    prefill, decode = worker(stages, "P"), worker(stages, "D")
    idle = usage(stages, prefill)
    process = server_process(decode)
    asked = metric(prefill, ANSWERED)
    tree = [process, *process.children(recursive=True)]
    for each in tree:  # D does not accept: the request stays between the legs
        each.send_signal(signal.SIGSTOP)
    try:
        door = urlsplit(stages.url)
        client = http.client.HTTPConnection(str(door.hostname), door.port, timeout=100)
        body = json.dumps({"prompt": fresh(), "max_tokens": 8})
        client.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        wait_until(lambda: metric(prefill, ANSWERED) > asked, 90, "P never answered")
        time.sleep(0.5)
        left = time.monotonic()
        client.close()
    finally:
        for each in tree:
            each.send_signal(signal.SIGCONT)
    wait_until(lambda: usage(stages, prefill) == idle, LEASE_S / 2, "P's blocks were still held")
    assert time.monotonic() - left < LEASE_S - 10, "it may have been the lease's end"
    assert metric(prefill, EXPIRED) == 0, "since it started: no probe's blocks either"


def usage(serve: Serve, prefill: str) -> float:
    """Return the share of P's blocks in use while one short prompt is computed: an idle engine shows an old figure."""
    told(directly(serve, prefill), f"{secrets.token_hex(4)} x", 1)
    return metric(prefill, "vllm:kv_cache_usage_perc")


@pytest.mark.parametrize("letter", ["P", "D"])
def test_a_killed_worker_comes_back_and_the_pair_is_proved_again(stages: Serve, letter: str) -> None:
    stages.mode("pd")
    url, decode, prompt = worker(stages, letter), worker(stages, "D"), fresh()
    wait_until(lambda: asked(stages, prompt).status == 200, 300, "not ready to begin with")
    before = told(stages, prompt)
    process = server_process(url)
    engines = process.children(recursive=True)
    tokens = 400 if letter == "D" else 8  # what D decodes already it goes on with when P dies
    with ThreadPoolExecutor(3) as clients:
        running = [clients.submit(asked, stages, fresh(), tokens) for _ in range(3)]
        time.sleep(1.0)
        os.kill(process.pid, signal.SIGKILL)
        begin = time.monotonic()
        assert asked(stages, "a b c").status >= 500
        ended = [each.result(90) for each in running]
    assert time.monotonic() - begin < 60, "a request hung"
    assert letter == "P" or all(answer.status >= 500 for answer in ended), "D died, and its answers came all the same"
    psutil.wait_procs(engines, timeout=60)
    assert not [engine for engine in engines if engine.is_running() and engine.status() != psutil.STATUS_ZOMBIE]
    wait_until(lambda: asked(stages, "a b c").status == 200, 600, "the pair never served again")
    crossed = metric(decode, BY_SOURCE, source=EXTERNAL)
    assert told(stages, fresh()) and metric(decode, BY_SOURCE, source=EXTERNAL) - crossed > 60
    assert told(stages, prompt) == before


def asked(serve: Serve, prompt: str, tokens: int = 2) -> Answer:
    """Return any answer, a refusal too."""
    return serve.complete({"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True})
