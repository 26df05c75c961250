"""Workloads W1-W4, their scaling, and the conversations made of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b

from tercet.core.errors import UsageError
from tercet.traffic.arrivals import Arrivals, arrival_times
from tercet.traffic.conversation import Conversation, TokenRange, TurnSpec


@dataclass(frozen=True, slots=True)
class Workload:
    """Tokens in and out of every turn. `input_tokens` counts the turn's *new* tokens, not the history before them."""

    name: str
    input_tokens: int
    output_tokens: int
    about: str = ""

    def scaled(self, scale: float) -> Workload:
        """Return the same shape at `scale` times the lengths (at least one token each). Raises UsageError."""
        if not 0 < scale <= 1000:
            raise UsageError(f"--scale {scale} is out of range: give a number above 0, for instance 0.125")
        return Workload(
            self.name, max(1, round(self.input_tokens * scale)), max(1, round(self.output_tokens * scale)), self.about
        )


WORKLOADS: tuple[Workload, ...] = (
    Workload("W1", 512, 256, "chat: balanced, latency sensitive"),
    Workload("W2", 4096, 128, "retrieval: long input"),
    Workload("W3", 256, 1024, "agent: long generation"),
    Workload("W4", 8192, 64, "extreme context"),
)


def workload_from_name(name: str) -> Workload:
    """Return W1-W4, or a workload of the caller's own lengths written IN/OUT such as `2048/32`. Raises UsageError."""
    for workload in WORKLOADS:
        if workload.name == name.upper():
            return workload
    if match := re.fullmatch(r"([1-9][0-9]{0,6})/([1-9][0-9]{0,6})", name):
        return Workload(name, int(match[1]), int(match[2]), "custom")
    known = ", ".join(f"{w.name} ({w.input_tokens}/{w.output_tokens})" for w in WORKLOADS)
    raise UsageError(f"unknown workload {name!r}: choose {known}, or write tokens in/out such as 2048/32")


@dataclass(frozen=True, slots=True)
class TrafficSpec:
    """One run's traffic. `qps` counts turns: conversations arrive at qps / turns, so that turns flow at qps on average.

    (A conversation's later turns follow its own answers, so a slow server sees them later, never fewer of them.)
    `num_requests` counts turns too; the last conversation is completed, so it is rounded up to whole conversations.
    """

    workload: Workload
    qps: float
    num_requests: int
    turns: int = 1
    think_s: float = 0.0
    arrivals: Arrivals = Arrivals.POISSON
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse traffic that can't be sent. Raises UsageError."""
        if self.turns < 1:
            raise UsageError(f"--turns {self.turns} is out of range: a conversation has at least one turn")
        if self.num_requests < 1:
            raise UsageError(f"--num-requests {self.num_requests} is out of range: send at least one request")
        if self.think_s < 0:
            raise UsageError(f"--think {self.think_s} is out of range: a pause lasts 0 seconds or more")
        if not 0 < self.qps < float("inf"):
            raise UsageError(f"--qps {self.qps} is out of range: give a number above 0")

    @property
    def num_conversations(self) -> int:
        """Conversations in the run."""
        return -(-self.num_requests // self.turns)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence: the last turn's prompt and answer."""
        return self.turns * (self.workload.input_tokens + self.workload.output_tokens)


def conversations(spec: TrafficSpec, *, salt: str, tokens: TokenRange) -> tuple[Conversation, ...]:
    """Return a run's conversations in order of arrival. Equal arguments give equal conversations.

    `salt` names the run: another salt gives other tokens and other arrivals, so no run is served from another's cache.
    """
    key = int.from_bytes(blake2b(f"{spec.seed}\0{salt}".encode(), digest_size=8).digest())
    starts = arrival_times(spec.arrivals, spec.qps / spec.turns, spec.num_conversations, key)
    turn = TurnSpec(spec.workload.input_tokens, spec.workload.output_tokens, spec.think_s)
    return tuple(
        Conversation(f"{salt}-c{i}", spec.seed, salt, start, (turn,) * spec.turns, tokens)
        for i, start in enumerate(starts)
    )
