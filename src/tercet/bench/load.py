"""Conversations sent to a server: when they are due (open loop), or so many at a time (closed loop)."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter_ns
from typing import Any, Protocol

from tercet.bench.health import Vitals, Watch
from tercet.bench.result import RequestResult
from tercet.bench.sender import Headers, Sender
from tercet.traffic.prompts import Said

OnResult = Callable[[RequestResult], None]

_PREPARE_NS = 50_000_000
"""A request's body is built this long before it is due, so that building it makes nothing late."""

_AHEAD = 256
"""So many first requests of a closed loop are written ahead, at most."""


class Turn(Protocol):
    """One turn of a conversation; `tercet.traffic.conversation.TurnSpec` is one."""

    @property
    def output_tokens(self) -> int:
        """Tokens asked for."""

    @property
    def think_s(self) -> float:
        """Silence before it, after the previous answer."""


class Talk(Protocol):
    """A conversation; `tercet.traffic.conversation.Conversation` is one."""

    @property
    def id(self) -> str:
        """Its name."""

    @property
    def arrival_s(self) -> float:
        """When its first turn is due, in seconds after the start."""

    @property
    def turns(self) -> Sequence[Turn]:
        """Its turns."""

    def request_body(
        self, turn: int, answers: Sequence[Said], *, model: str, cache_salt: str | None = None
    ) -> dict[str, Any]:
        """Return turn `turn` (0 is the first) as a request; `answers` are those to all turns before it."""

    def headers(self) -> Headers:
        """Return the headers of each of its requests."""

    def prompt_tokens(self, turn: int) -> int | None:
        """Return how many tokens the server must count for a turn's prompt, None where that can't be known."""

    def text_tokens(self, turn: int) -> int | None:
        """Return how many of a turn's new tokens are text, None where that can't be known."""

    def images(self, turn: int) -> int:
        """Return how many pictures a turn's request carries."""


async def run_load(
    sender: Sender,
    talks: Iterable[Talk],
    *,
    model: str,
    origin_ns: int,
    on_result: OnResult,
    cache_salt: str | None = None,
    concurrency: int | None = None,
    ramp_s: float = 0.0,
    until_s: float | None = None,
) -> Vitals:
    """Send every turn of `talks` and return how the client fared; `on_result` gets each request as it ends.

    Open loop (`concurrency` None): a conversation starts `arrival_s` after `origin_ns`, whatever became of the others;
    `talks` come in order of arrival. Closed loop: `concurrency` conversations at a time, in order, as fast as answers
    come, the first of them spread over `ramp_s`; none begins later than `until_s`. In both, turn k + 1 is due `think_s`
    after turn k's end; after a failed turn the rest of its conversation is reported as not sent.
    When cancelled, requests under way are cut and not reported; what had ended was told to `on_result`.
    """
    write = _Writer(model, cache_salt)
    end_ns = None if until_s is None else origin_ns + int(until_s * 1e9)

    async def one_by_one(line: _Line, first_ns: int) -> None:
        await _sleep_until(first_ns)
        due_ns = max(first_ns, perf_counter_ns())
        while end_ns is None or due_ns < end_ns:
            if (next_one := line.take()) is None:
                return
            await _converse(sender, *next_one, due_ns, write, on_result)
            due_ns = perf_counter_ns()

    async with Watch() as watch:
        async with asyncio.TaskGroup() as group:
            if concurrency is not None:
                line = _Line(talks, write, min(concurrency, _AHEAD))
                for i in range(concurrency):
                    group.create_task(one_by_one(line, origin_ns + int(ramp_s * i / concurrency * 1e9)))
            else:
                for talk in talks:
                    due_ns = origin_ns + int(talk.arrival_s * 1e9)
                    await _sleep_until(due_ns - 2 * _PREPARE_NS)
                    group.create_task(_converse(sender, talk, None, due_ns, write, on_result))
        return watch.vitals()


@dataclass(frozen=True, slots=True)
class _Written:
    """A request, ready to be sent. `exact` is how long its answer must be, None for any length."""

    payload: bytes
    exact: int | None
    chat: bool
    token_ids: bool


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes turns as requests."""

    model: str
    cache_salt: str | None

    def __call__(self, talk: Talk, turn: int, answers: Sequence[Said]) -> _Written:
        body = talk.request_body(turn, answers, model=self.model, cache_salt=self.cache_salt)
        return _Written(
            json.dumps(body, separators=(",", ":")).encode(),
            talk.turns[turn].output_tokens if body.get("ignore_eos") else None,
            "messages" in body,
            isinstance(body.get("prompt"), list),
        )


class _Line:
    """Conversations of a closed loop that wait, the next ones with their first request written already."""

    def __init__(self, talks: Iterable[Talk], write: _Writer, ahead: int) -> None:
        self._talks = iter(talks)
        self._write = write
        self._ready: deque[tuple[Talk, _Written]] = deque()
        for _ in range(ahead):
            self._prepare()

    def take(self) -> tuple[Talk, _Written] | None:
        """Return the next, None when there is none; another is prepared once the loop is free."""
        if not self._ready:
            self._prepare()
        if not self._ready:
            return None
        asyncio.get_running_loop().call_soon(self._prepare)
        return self._ready.popleft()

    def _prepare(self) -> None:
        talk = next(self._talks, None)
        if talk is not None:
            self._ready.append((talk, self._write(talk, 0, ())))


async def _converse(
    sender: Sender, talk: Talk, first: _Written | None, due_ns: int, write: _Writer, keep: OnResult
) -> None:
    answers: list[Said] = []
    for turn in range(len(talk.turns)):
        written = first
        if turn or written is None:
            await _sleep_until(due_ns - _PREPARE_NS)
            written = write(talk, turn, answers)
        await _sleep_until(due_ns)
        result = await sender.send(
            written.payload,
            scheduled_ns=due_ns,
            conversation=talk.id,
            turn=turn + 1,
            headers=talk.headers(),
            expected_tokens=written.exact,
            chat=written.chat,
        )
        keep(_completed(result, talk, turn, written.exact))
        if turn + 1 == len(talk.turns):
            return
        why = f"turn {turn + 1} failed" if not result.ok else _no_history(written, result)
        if why:
            _give_up(talk, turn + 1, why, keep)
            return
        answers.append(Said(result.text, result.token_ids))
        due_ns = result.done_ns + int(talk.turns[turn + 1].think_s * 1e9)


def _completed(result: RequestResult, talk: Talk, turn: int, exact: int | None) -> RequestResult:
    """Add what only the conversation knows. Vision tokens, where the server doesn't count them, are what isn't text."""
    images = talk.images(turn)
    vision = result.vision_tokens
    if images and vision is None and turn == 0 and result.prompt_tokens is not None:
        text = talk.text_tokens(turn)
        vision = None if text is None else max(0, result.prompt_tokens - text)
    return replace(
        result,
        images=images,
        vision_tokens=vision,
        expected_tokens=exact,
        expected_prompt_tokens=talk.prompt_tokens(turn),
    )


def _no_history(written: _Written, result: RequestResult) -> str | None:
    if written.token_ids and len(result.token_ids) != (result.completion_tokens or -1):
        return "the server did not return its answer's token ids (return_token_ids): try --prompt-format chat"
    return None


def _give_up(talk: Talk, first: int, why: str, keep: OnResult) -> None:
    """Report the turns from `first` on (0 is a conversation's first) as not sent."""
    now_ns = perf_counter_ns()
    for turn in range(first, len(talk.turns)):
        keep(
            RequestResult(
                talk.id,
                turn + 1,
                now_ns,
                now_ns,
                now_ns,
                error=f"not sent: {why}",
                failure="not_sent",
                expected_tokens=talk.turns[turn].output_tokens,
            )
        )


async def _sleep_until(due_ns: int) -> None:
    """Sleep until perf_counter reads `due_ns`: loops' timers are coarse (uvloop: 1 ms) and may fire early."""
    left_ns = due_ns - perf_counter_ns()
    while left_ns > 0:
        await asyncio.sleep(left_ns / 1e9)
        left_ns = due_ns - perf_counter_ns()
