"""Several router processes before virtual GPUs: conversations keep the cache they have with one process."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import Serve, call, start_serve, stop_serve

pytestmark = pytest.mark.slow

GPUS = ("1P2D", "--mode", "ppd", "--engine", "virtual", "--gpu", "h100", "--random-weights", "tiny", "--dtype", "fp32")
CONVERSATIONS, TURNS = 24, 5
THINKS_S = 0.3


def conversation(serve: Serve, number: int) -> tuple[int, int]:
    """Prompt tokens and cached tokens of the later turns, each asked for on a connection of its own."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": f"{number}: " + f"word{number} " * 40}]
    prompt = cached = 0
    for turn in range(TURNS):
        answer = serve.chat(
            {"model": serve.model, "messages": messages, "max_tokens": 8, "ignore_eos": True, "seed": 1}
        )
        assert answer.status == 200, answer
        if turn:
            usage = answer.body["usage"]
            prompt += usage["prompt_tokens"]
            cached += usage["prompt_tokens_details"]["cached_tokens"]
        said = answer.body["choices"][0]["message"]["content"]
        messages += [{"role": "assistant", "content": said}, {"role": "user", "content": f"and {turn}?"}]
        time.sleep(THINKS_S)
    return prompt, cached


def hit_rate(log_dir: Path, processes: int) -> tuple[float, float, set[int]]:
    """The share of later turns' prompt tokens that were cached, and of later turns that went straight to D; who served
    them."""
    serve = start_serve(log_dir, *GPUS, "--processes", str(processes), "--max-model-len", "2048")
    try:
        with ThreadPoolExecutor(6) as clients:
            counted = list(clients.map(lambda number: conversation(serve, number), range(CONVERSATIONS)))
        records = call(f"{serve.url}/requests").body["requests"]
        later = [record for record in records if record["turn"] == "later"]
        direct = sum(">" not in record["route"] for record in later) / len(later)
        children = psutil.Process(serve.process.pid).children(recursive=True)
    finally:
        stop_serve(serve, signal.SIGINT)
    assert not psutil.wait_procs(children, timeout=60)[1], "nothing is left"
    prompt, cached = map(sum, zip(*counted, strict=True))
    return cached / prompt, direct, {record.get("process", 0) for record in records}


def test_three_processes_hit_the_cache_as_often_as_one(tmp_path: Path) -> None:
    one, direct_one, _ = hit_rate(tmp_path / "one", 1)
    for run in range(2):  # a machine that gives a process no core for long delays one run; two, and it is the router
        three, direct_three, served = hit_rate(tmp_path / f"three-{run}", 3)
        if min(three - one, direct_three - direct_one) > -0.02:
            break
    print(f"hit rate {one:.4f} with 1 process, {three:.4f} with 3; straight to D {direct_one:.4f}, {direct_three:.4f}")
    assert served == {0, 1, 2}
    assert one > 0.5 and three > one - 0.02
    assert direct_three > direct_one - 0.02
