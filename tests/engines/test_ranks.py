"""Data-parallel ranks of real vLLM: right answers from every rank, the prefix cache as it is, caches emptied."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tercet.compare.admin import CAPITAL_QUESTION
from tests.e2e.conftest import Serve, call, metric, wait_until
from tests.engines.asking import (
    BLOCK,
    BY_SOURCE,
    EXTERNAL,
    HITS,
    WORDS,
    chatted,
    completed,
    directly,
    fresh,
    route_of,
    said,
    text_of,
    told,
    worker,
)
from tests.ports import free_port

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1500)]

CAPITAL = [{"role": "user", "content": CAPITAL_QUESTION}]


@contextmanager
def router(serve: Serve, *arguments: str) -> Iterator[Serve]:
    """Another router before workers that run already."""
    port = free_port()
    command = [sys.executable, "-m", "tercet", "router", "--dialect", "vllm", "--health-timeout", "20", *arguments]
    with subprocess.Popen([*command, "--port", str(port)]) as process:
        try:
            second = Serve(f"http://127.0.0.1:{port}", serve.process, serve.log_dir)
            wait_until(lambda: _ready(second), 240, "the second router was never ready")
            yield second
        finally:
            process.terminate()


def _ready(serve: Serve) -> bool:
    try:
        pairs = call(f"{serve.url}/status").body["pairs"]
        return call(f"{serve.url}/ready").status == 200 and all(pair["ready"] for pair in pairs)
    except OSError:
        return False


def twenty_right(serve: Serve, alone: Serve) -> Counter[str]:
    """Send 20 prompts, each of another length; return how many went which way. `alone` computes a prompt by itself."""
    prompts = [f"{fresh()[: 200 + 11 * i]}" for i in range(20)]
    answers = [completed(serve, prompt, 4) for prompt in prompts]
    wrong = [
        prompt for prompt, answer in zip(prompts, answers, strict=True) if text_of(answer) != told(alone, prompt, 4)
    ]
    assert not wrong
    return Counter(map(route_of, answers))


def split(serve: Serve, *arguments: str) -> AbstractContextManager[Serve]:
    """Return a second router before the ranks of P and D."""
    ends = ("--prefill", f"{worker(serve, 'P')}#ranks=2", "--decode", f"{worker(serve, 'D')}#ranks=2")
    return router(serve, "--mode", "pd", *ends, *arguments)


def test_every_rank_of_p_hands_on_to_every_rank_of_d(ranks: Serve) -> None:
    """20 of 20, and each rank of D had its share by transfer."""
    prefill, decode = worker(ranks, "P"), worker(ranks, "D")
    with split(ranks, "--rank-match", "any", "--balancer", "random") as any_pair:
        before = [metric(decode, BY_SOURCE, source=EXTERNAL, engine=rank) for rank in "01"]
        ways = twenty_right(any_pair, directly(ranks, prefill))
        after = [metric(decode, BY_SOURCE, source=EXTERNAL, engine=rank) for rank in "01"]
    shares = [now - then for now, then in zip(after, before, strict=True)]
    assert min(shares) > 0.2 * sum(shares), shares
    assert set(ways) == {"P0>D0", "P0>D1", "P1>D0", "P1>D1"}, ways
    assert "Paris" in said(chatted(ranks, CAPITAL))


def test_with_rank_match_exact_each_rank_has_one_peer(ranks: Serve) -> None:
    with split(ranks, "--rank-match", "exact") as exact:
        ways = twenty_right(exact, directly(ranks, worker(ranks, "P")))
    assert set(ways) == {"P0>D0", "P1>D1"} and min(ways.values()) >= 6, ways


def test_replicated_sticks_to_the_rank_that_holds_the_conversation(ranks: Serve) -> None:
    """P's ranks serve whole requests here."""
    prefill = worker(ranks, "P")
    with router(ranks, "--mode", "replicated", "--worker", f"{prefill}#ranks=2") as replicated:
        used = set()
        for _ in range(4):
            messages = [{"role": "user", "content": fresh()}]
            first = chatted(replicated, messages)
            messages += [{"role": "assistant", "content": said(first)}, {"role": "user", "content": "Go on."}]
            rank = route_of(first).removeprefix("A")
            hits = metric(prefill, HITS, engine=rank)
            assert route_of(chatted(replicated, messages)) == route_of(first)
            assert metric(prefill, HITS, engine=rank) - hits >= 64
            used.add(rank)
        assert used == {"0", "1"}


def test_the_router_knows_what_each_rank_caches_from_its_own_events(ranks: Serve) -> None:
    """Prompts that no router saw before: they went straight to a rank of P, and through the router they find it."""
    prefill = worker(ranks, "P")
    draw = random.Random(7)
    prompts = [[draw.randrange(1000, 40000) for _ in range(3 * BLOCK + 1)] for _ in range(6)]
    for i, prompt in enumerate(prompts):
        before = told_blocks(ranks, prefill)
        told(directly(ranks, prefill), prompt, 1, X_data_parallel_rank=str(i % 2))
        wait_until(lambda: told_blocks(ranks, prefill)[i % 2] >= before[i % 2] + 3, 30, "no event came")  # noqa: B023
    for i, prompt in reversed(list(enumerate(prompts))):
        hits = metric(prefill, HITS, engine=str(i % 2))
        assert route_of(completed(ranks, prompt, 2)).startswith(f"P{i % 2}>"), i
        assert metric(prefill, HITS, engine=str(i % 2)) - hits == 3 * BLOCK


def test_caches_are_emptied_on_demand_and_the_router_hears_of_it(ranks: Serve) -> None:
    prefill, decode = worker(ranks, "P"), worker(ranks, "D")
    prompt = fresh()
    told(ranks, prompt)
    assert sum(told_blocks(ranks, prefill)) > 0 and sum(told_blocks(ranks, decode)) > 0
    got = call(f"{ranks.url}/cache/reset", b"")
    assert got.status == 200, got
    wait_until(lambda: not any(told_blocks(ranks, prefill) + told_blocks(ranks, decode)), 30, "events of the emptying")
    hits = metric(prefill, HITS) + metric(decode, HITS)
    told(ranks, prompt)
    assert metric(prefill, HITS) + metric(decode, HITS) == hits


def told_blocks(serve: Serve, url: str) -> list[int]:
    """Return how many blocks each rank of a worker says it holds, as the router heard it."""
    (found,) = (each for each in serve.workers() if each["url"] == url)
    return [rank["told_blocks"] or 0 for rank in found["ranks"]]


def test_a_prompt_is_tokenised_once(ranks: Serve) -> None:
    """The client sees nothing of it: no token ids in the answer, the same text and usage."""
    prompt = f"{fresh()} {WORDS}"
    through, alone = completed(ranks, prompt), completed(directly(ranks, worker(ranks, "P")), prompt)
    assert text_of(through) == text_of(alone)
    assert through.body["choices"] == alone.body["choices"], "among them prompt_token_ids: none"
    for field in ("prompt_tokens", "completion_tokens"):
        assert through.body["usage"][field] == alone.body["usage"][field]
