"""Workloads by name: tokens in and out of a turn, and what else belongs to it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from tercet.core.errors import UsageError
from tercet.traffic.lengths import Lengths, parse_lengths
from tercet.traffic.pictures import Pictures


@dataclass(frozen=True, slots=True)
class Workload:
    """Tokens in and out of every turn. `input_tokens` counts the turn's *new* tokens, not the history before them.

    Lengths vary evenly between `input_low` and `input_tokens`, `output_low` and `output_tokens`; 0 is no range. Of turn
    1's input the first `prefix_tokens` are shared with every conversation of the same of `prefix_groups` groups: a
    system prompt. `requests` is how many the workload's definition sends, None when it says nothing.
    """

    name: str
    input_tokens: int
    output_tokens: int
    about: str = ""
    input_low: int = 0
    output_low: int = 0
    prefix_tokens: int = 0
    prefix_groups: int = 1
    pictures: Pictures | None = None
    requests: int | None = None

    def __post_init__(self) -> None:
        """Refuse what can't be sent. Raises UsageError."""
        if self.prefix_tokens < 0 or self.prefix_groups < 1:
            raise UsageError(
                f"--prefix-tokens {self.prefix_tokens} in --prefix-groups {self.prefix_groups} can't be: give 0 "
                "tokens or more, and 1 group or more"
            )
        if self.prefix_tokens and self.prefix_tokens >= (self.input_low or self.input_tokens):
            raise UsageError(
                f"--prefix-tokens {self.prefix_tokens} leaves nothing of a first turn of "
                f"{self.input_low or self.input_tokens} tokens: they include the prefix"
            )

    @property
    def inputs(self) -> Lengths:
        """The range of a turn's new input tokens."""
        return Lengths(self.input_low or self.input_tokens, self.input_tokens)

    @property
    def outputs(self) -> Lengths:
        """The range of a turn's output tokens."""
        return Lengths(self.output_low or self.output_tokens, self.output_tokens)

    def with_lengths(self, inputs: Lengths | None, outputs: Lengths | None) -> Workload:
        """Return the same with other lengths, where some are given."""
        ins, outs = inputs or self.inputs, outputs or self.outputs
        return replace(
            self,
            input_tokens=ins.high,
            output_tokens=outs.high,
            input_low=0 if ins.fixed else ins.low,
            output_low=0 if outs.fixed else outs.low,
        )

    def scaled(self, scale: float) -> Workload:
        """Return the same shape at `scale` times the lengths (at least one token each). Raises UsageError."""
        if not 0 < scale <= 1000:
            raise UsageError(f"--scale {scale} is out of range: give a number above 0, for instance 0.125")
        lengths = self.inputs.scaled(scale), self.outputs.scaled(scale)
        return replace(self, prefix_tokens=round(self.prefix_tokens * scale)).with_lengths(*lengths)


WORKLOADS: tuple[Workload, ...] = (
    Workload("W1", 512, 256, "chat: balanced, latency sensitive"),
    Workload("W2", 4096, 128, "retrieval: long input"),
    Workload("W3", 256, 1024, "agent: long generation"),
    Workload("W4", 8192, 64, "extreme context"),
    Workload("random", 1024, 128, "what vllm bench serve's random data set sends"),
    Workload("prefix", 1280, 128, "one of 8 system prompts of 1024 tokens", prefix_tokens=1024, prefix_groups=8),
    Workload("images", 64, 500, "one of 3 pictures with each request", pictures=Pictures(pool=3), requests=200),
)


def workload_from_name(name: str) -> Workload:
    """Return a workload by name, or one of the caller's own lengths written IN/OUT: `2048/32` or `256-1024/64`.

    Raises UsageError.
    """
    for workload in WORKLOADS:
        if workload.name.lower() == name.lower():
            return workload
    if re.fullmatch(r"[0-9]+(-[0-9]+)?/[0-9]+(-[0-9]+)?", name) and not re.search(r"\b0", name):
        ins, outs = (parse_lengths(part, "--workload") for part in name.split("/"))
        return Workload(name, ins.high, outs.high, "custom").with_lengths(ins, outs)
    known = ", ".join(f"{w.name} ({w.input_tokens}/{w.output_tokens})" for w in WORKLOADS)
    raise UsageError(
        f"unknown workload {name!r}: choose {known}, or write tokens in/out such as 2048/32 or 256-1024/64"
    )
