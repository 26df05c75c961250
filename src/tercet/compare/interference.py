"""How much a long prompt disturbs answers that are being written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic, perf_counter_ns

import numpy as np

from tercet.bench.result import RequestResult
from tercet.bench.sender import Sender
from tercet.bench.tally import Tally
from tercet.core.errors import TercetError
from tercet.results.curve import Interference
from tercet.traffic.conversation import Conversation, TokenRange, TurnSpec

STREAMS = 4
STREAM_PROMPT = 16
STREAM_TOKENS = 64
SETTLED_CHUNKS = 6
"""Pieces of each stream before the long prompt is sent: enough to know their pace without it."""
REPEATS = 3
START_TIMEOUT_S = 120.0
POLL_S = 0.002

MakeSender = Callable[[Tally], Sender]


@dataclass(frozen=True, slots=True)
class Gaps:
    """Milliseconds between pieces of the streams: before the long prompt was sent, and while it prefilled."""

    quiet: tuple[float, ...]
    during: tuple[float, ...]


async def probe(
    sender: MakeSender, *, model: str, label: str, salt: str, tokens: TokenRange, prompt_tokens: int, seed: int
) -> Interference:
    """Run STREAMS answers, send a prompt of `prompt_tokens` amid them, and measure their ITL; REPEATS times.

    Raises TercetError when a request fails.
    """
    gaps: list[Gaps] = []
    ttfts: list[float] = []
    for repeat in range(REPEATS):
        streams, prompt = await _once(sender, model, f"{salt}-{repeat}", tokens, prompt_tokens, seed)
        gaps.append(sort_gaps(streams, prompt))
        ttfts.append(prompt.ttft_ms or 0.0)
    quiet = [gap for each in gaps for gap in each.quiet]
    during = [gap for each in gaps for gap in each.during]
    if not quiet or not during:
        raise TercetError("the streams were over before the long prompt was")
    return Interference(
        label,
        STREAMS,
        prompt_tokens,
        REPEATS,
        float(np.mean(quiet)),
        max(quiet),
        float(np.mean(during)),
        max(during),
        float(np.mean(ttfts)),
    )


def sort_gaps(streams: Sequence[RequestResult], prompt: RequestResult) -> Gaps:
    """Sort the streams' gaps by the long prompt: before its sending, or overlapping its prefill; not those after.

    A gap counts from when every stream has begun, so that no stream's own prompt is taken for quiet.
    """
    begun = max(stream.chunk_ns[0] for stream in streams)
    quiet: list[float] = []
    during: list[float] = []
    for stream in streams:
        for start, end in zip(stream.chunk_ns, stream.chunk_ns[1:], strict=False):
            if end <= prompt.sent_ns and start >= begun:
                quiet.append((end - start) / 1e6)
            elif end > prompt.sent_ns and start < prompt.chunk_ns[0]:
                during.append((end - start) / 1e6)
    return Gaps(tuple(quiet), tuple(during))


async def _once(
    sender: MakeSender, model: str, salt: str, tokens: TokenRange, prompt_tokens: int, seed: int
) -> tuple[list[RequestResult], RequestResult]:
    tallies = [Tally() for _ in range(STREAMS)]
    async with asyncio.TaskGroup() as group:
        streams = []
        for i, tally in enumerate(tallies):
            talk = _talk(f"{salt}-s{i}", STREAM_PROMPT, STREAM_TOKENS, tokens, seed)
            streams.append(group.create_task(_send(sender(tally), talk, model)))
        deadline = monotonic() + START_TIMEOUT_S
        # The tallies are plain counts, kept where every piece is read: nothing tells of their changes.
        while not all(t.chunks >= SETTLED_CHUNKS or t.done for t in tallies) and monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        prompt = await _send(sender(Tally()), _talk(f"{salt}-p", prompt_tokens, 1, tokens, seed), model)
    results = [task.result() for task in streams]
    if failed := [result.error for result in (*results, prompt) if not result.ok]:
        raise TercetError(f"a request failed: {failed[0]}")
    return results, prompt


def _talk(name: str, input_tokens: int, output_tokens: int, tokens: TokenRange, seed: int) -> Conversation:
    return Conversation(name, seed, name, 0.0, (TurnSpec(input_tokens, output_tokens),), tokens)


async def _send(sender: Sender, talk: Conversation, model: str) -> RequestResult:
    body = talk.request_body(0, (), model=model)
    return await sender.send(
        body,
        scheduled_ns=perf_counter_ns(),
        conversation=talk.id,
        headers=talk.headers(),
        expected_tokens=talk.turns[0].output_tokens,
    )
