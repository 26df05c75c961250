"""The load generator on a virtual clock: open and closed loops, pauses between turns, a pool of connections."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from tercet.sim.clock import Clock
from tercet.sim.content import Content
from tercet.sim.request import SimRequest


@dataclass(frozen=True, slots=True)
class SimTurn:
    """One turn: so many new tokens of text (after the pictures, in a first one), so many of answer, after a pause."""

    new_tokens: int
    output_tokens: int
    think_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SimConversation:
    """What one user says. `arrival_s` is when it starts in an open loop, after the run's start."""

    content: Content
    turns: tuple[SimTurn, ...]
    arrival_s: float = 0.0


class Connections:
    """A client's pool: a request beyond it waits, and the wait counts. 0: no bound."""

    __slots__ = ("_free", "_send", "_waiting")

    def __init__(self, send: Callable[[SimRequest], None], size: int) -> None:
        self._send = send
        self._free = size or 1 << 62
        self._waiting: deque[SimRequest] = deque()

    def send(self, request: SimRequest) -> None:
        """Send a request now, or as soon as there is a connection."""
        if self._free:
            self._free -= 1
            self._send(request)
        else:
            self._waiting.append(request)

    def done(self) -> None:
        """Give a connection back."""
        if self._waiting:
            self._send(self._waiting.popleft())
        else:
            self._free += 1


class Client:
    """Sends conversations, and tells `keep` every request that is over."""

    def __init__(self, clock: Clock, connections: Connections, keep: Callable[[SimRequest], None]) -> None:
        self._clock, self._connections, self._keep = clock, connections, keep

    def open_loop(self, conversations: Iterator[SimConversation]) -> None:
        """Start each when it is due; no arrival waits for an answer."""
        start = self._clock.now

        def next_one() -> None:
            conversation = next(conversations, None)
            if conversation is not None:
                self._clock.at(start + conversation.arrival_s, arrive, conversation)

        def arrive(conversation: SimConversation) -> None:
            next_one()
            self._turn(conversation, 0, 0, lambda: None)

        next_one()

    def closed_loop(
        self,
        conversations: Iterator[SimConversation],
        concurrency: int,
        *,
        ramp_s: float = 0.0,
        until_s: float | None = None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep so many conversations under way; seats open evenly during `ramp_s`, and none begins after `until_s`.

        `on_end` is called when the last one ended.
        """
        start = self._clock.now
        seats = 0

        def more() -> None:
            nonlocal seats
            over = until_s is not None and self._clock.now - start >= until_s
            conversation = None if over else next(conversations, None)
            if conversation is not None:
                self._turn(conversation, 0, 0, more)
                return
            seats -= 1
            if not seats:
                on_end()

        seats = concurrency
        for i in range(concurrency):
            self._clock.at(start + ramp_s * i / concurrency, more)

    def _turn(self, conversation: SimConversation, number: int, said: int, over: Callable[[], None]) -> None:
        """Send turn `number` (0 is the first) after `said` tokens of history; `over` when the conversation is."""
        turn, content = conversation.turns[number], conversation.content
        length = said + turn.new_tokens + (0 if number else content.vision_tokens)
        ended = partial(self._ended, conversation, number, over)
        request = SimRequest(content, number + 1, length, turn.output_tokens, ended, due_s=self._clock.now)
        self._connections.send(request)

    def _ended(self, conversation: SimConversation, number: int, over: Callable[[], None], request: SimRequest) -> None:
        self._connections.done()
        self._keep(request)
        following = number + 1
        if following == len(conversation.turns):
            over()
            return
        if request.failure is not None:
            self._give_up(conversation, following)
            over()
            return
        said = request.prompt_tokens + request.output_tokens
        self._clock.after(conversation.turns[following].think_s, self._turn, conversation, following, said, over)

    def _give_up(self, conversation: SimConversation, first: int) -> None:
        """Report the turns from `first` on as not sent: their history failed."""
        now = self._clock.now
        for number in range(first, len(conversation.turns)):
            turn = conversation.turns[number]
            request = SimRequest(
                conversation.content, number + 1, 0, turn.output_tokens, _nothing, due_s=now, done_s=now,
                failure="not_sent",
            )  # fmt: skip
            self._keep(request)


def _nothing(request: SimRequest) -> None:
    """Nobody waits for a turn that was not sent."""
