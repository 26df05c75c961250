from __future__ import annotations

import math
from typing import Any

import pytest

from tercet.core.errors import UsageError
from tercet.core.stage import Mode
from tercet.router.config import RouterConfig

A, B, C = "http://a:1", "http://b:2", "https://c"


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        ({"workers": (A,)}, Mode.AGGREGATED),
        ({"workers": (A, B)}, Mode.REPLICATED),
        ({"prefill": (A,), "decode": (B,)}, Mode.PD),
        ({"prefill": (A,), "decode": (B,), "mode": Mode.PPD}, Mode.PPD),
        ({"prefill": (A,), "decode": (B,), "workers": (C,), "mode": Mode.AGGREGATED}, Mode.AGGREGATED),
    ],
)
def test_the_mode_to_begin_with(settings: dict[str, Any], mode: Mode) -> None:
    assert RouterConfig(**settings).start_mode is mode


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "needs workers"),
        ({"prefill": (A,)}, "decode worker"),
        ({"decode": (A,)}, "prefill worker"),
        ({"workers": (A,), "mode": Mode.PD}, "prefill worker"),
        ({"prefill": (A,), "decode": (B,), "mode": Mode.REPLICATED}, "prefill and decode"),
        ({"workers": ("localhost:1",)}, "http://HOST:PORT"),
        ({"workers": ("http://user:pw@a:1",)}, "http://HOST:PORT"),
        ({"workers": ("http://a:x",)}, "port"),
        ({"workers": ("http://a:1#ranks=0",)}, "ranks=N"),
        ({"workers": ("http://a:1#foo=2",)}, "ranks=N"),
        ({"workers": ("http://a:1#ranks=" + "9" * 5000,)}, "ranks=N"),
        ({"workers": ("http://a:1#ranks=4097",)}, "at most 4,096"),
        ({"workers": ("http://a:1#events=65536",), "dialect": "vllm"}, "events=PORT"),
        ({"workers": ("http://a:1#ranks=2,bootstrap=x",), "dialect": "sglang"}, "bootstrap=PORT"),
        ({"workers": ("http://a:1#bootstrap=9001",)}, "bootstrap"),
        ({"workers": (A, "http://a:1/")}, "twice"),
        ({"prefill": (A,), "decode": (A,)}, "twice"),
        ({"workers": (A,), "balancer": "best"}, "round_robin"),
        ({"workers": (A,), "dialect": "x"}, "vllm"),
        ({"workers": (A,), "prefill_fallback": "x"}, "error or decode"),
        ({"workers": (A,), "data_parallel_size": 0}, "--data-parallel-size"),
        ({"workers": (A,), "rank_match": "some"}, "choose exact or any"),
        (
            {"prefill": ("http://a:1#ranks=2",), "decode": ("http://b:1#ranks=3",), "rank_match": "exact"},
            "P has 2 ranks and D 3",
        ),
        ({"workers": (A,), "max_unaccepted_handoffs": 0}, "at least 1"),
        ({"workers": (A,), "idle_timeout_s": 0}, "--idle-timeout must be above 0"),
        ({"workers": (A,), "host": ""}, "--host '' would listen on every address"),
        ({"workers": (A,), "connect_timeout_s": math.nan}, "--connect-timeout must be above 0"),
        ({"workers": (A,), "answer_timeout_s": math.inf}, "--answer-timeout must be above 0"),
        ({"workers": (A,), "health_interval_s": -1}, "--health-interval must be above 0"),
        ({"workers": (A,), "health_timeout_s": 0}, "--health-timeout must be above 0"),
        ({"workers": (A,), "probe_timeout_s": -1}, "--probe-timeout must be above 0"),
        ({"workers": (A,), "health_failures": 0}, "--health-failures must be at least 1"),
        ({"workers": (A,), "max_answer_bytes": 0}, "--max-answer-bytes must be at least 1"),
        ({"workers": (A,), "shutdown_grace_s": -1}, "--shutdown-grace must be 0 or more"),
        ({"workers": (A,), "drain_timeout_s": -1}, "--drain-timeout must be 0 or more"),
        ({"workers": (A,), "ppd_threshold": -1}, "negative"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        RouterConfig(**settings)


def test_ranks() -> None:
    config = RouterConfig(prefill=("http://a:1/#ranks=2",), decode=(B,))
    assert [(event.url, event.ranks) for event in config.worker_events()] == [(A, 2), (B, 1)]
    assert config.fixed_ranks(A) and not config.fixed_ranks(B)
    config = RouterConfig(prefill=("http://a:1#ranks=2",), decode=(B,), data_parallel_size=4)
    assert [event.ranks for event in config.worker_events()] == [2, 4]
    assert config.fixed_ranks(B)


def test_ranks_match_as_the_connector_pairs_them() -> None:
    ends: dict[str, Any] = {"prefill": ("http://a:1",), "decode": (B,), "dialect": "vllm"}
    assert RouterConfig(**ends).policy().rank_match == "any"
    assert RouterConfig(**ends, kv_connector="p2p-nccl").policy().rank_match == "exact"
    assert RouterConfig(**ends, kv_connector="p2p-nccl", rank_match="any").policy().rank_match == "any"
