"""The engine process's main loop: commands in, steps, answers out. Transfers run beside it and come back as events."""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

from tercet.core.errors import RequestError, TicketError
from tercet.core.sampling import SampledToken
from tercet.core.ticket import Ticket
from tercet.engine.executor import Executor
from tercet.engine.scheduler import Scheduler, SchedulerStats
from tercet.engine.sequence import Output, Sequence, State
from tercet.worker.busy import BusyTimes
from tercet.worker.channel import EngineChannel
from tercet.worker.issued_tickets import IssuedTickets
from tercet.worker.remote_tickets import RemoteTickets
from tercet.worker.wire import Delta, Origin, Refusal, pack_delta, unpack_submission

log = logging.getLogger(__name__)

STATS_INTERVAL_S = 0.05
HEARTBEAT_S = 1.0
"""The longest silence of a loop that is not in a step."""
IDLE_POLL_S = 0.5

_STATS = tuple(field.name for field in fields(SchedulerStats))


@dataclass(slots=True)
class Tracked:
    """What the loop remembers of a live sequence beside the scheduler: its times, and what the front knows."""

    sequence: Sequence
    submitted: float
    started: float | None = None
    transfer_s: float = 0.0
    recomputed: bool = False
    plain: bool = False
    """Its tokens go out as numbers: origin and ticket were sent, logprobs were not asked for."""


class WakeUp:
    """A file descriptor that other threads can set to end the loop's idle wait."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def set(self) -> None:
        """Wake the loop; cheap, callable from any thread."""
        os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        """Forget earlier wake-ups."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return


class EngineLoop:
    """Owns the scheduler; the only caller of its methods."""

    def __init__(
        self,
        *,
        executor: Executor,
        scheduler: Scheduler,
        channel: EngineChannel,
        issued: IssuedTickets,
        remote: RemoteTickets,
        wake: WakeUp,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._executor, self._scheduler, self._channel = executor, scheduler, channel
        self._issued, self._remote, self._wake, self._clock = issued, remote, wake, clock
        self._tracked: dict[str, Tracked] = {}
        self._busy = BusyTimes()
        self._stopping = False
        self._stats_due = 0.0
        self._heartbeat_due = 0.0
        self._last_stats: dict[str, Any] = {}
        self._news = select.poll()
        self._news.register(channel, select.POLLIN)
        self._news.register(wake.fd, select.POLLIN)

    def run(self) -> None:
        """Loop until the front says stop. Raises ChannelError when it is gone, and whatever the executor raises."""
        while not self._stopping:
            self.turn()

    def turn(self) -> None:
        """Take what has arrived, run one step if there is one, else wait for news."""
        self._take_commands()
        self._take_fetched()
        now = self._clock()
        self._issued.settle(self._scheduler, now)
        plan = self._scheduler.schedule(now)
        for fetch in plan.fetches:
            self._tracked[fetch.sequence.id].started = now
            self._remote.fetch(fetch)
        if plan.batch.chunks:
            for chunk in plan.batch.chunks:
                if chunk.start < chunk.sequence.prompt_len:
                    item = self._tracked[chunk.sequence.id]
                    item.started = now if item.started is None else item.started
            began = self._clock()
            sampled = self._executor.execute(plan.batch)
            now = self._clock()
            self._busy.add(plan.batch.chunks, now - began)
            outputs = self._scheduler.step_done(plan.batch, sampled, now)
            # Statistics ride with the tokens: a message of their own would wake the front once more.
            self._send(outputs, now, self._changed_stats(now) if now >= self._stats_due else None)
        elif not plan.fetches:
            self._send((), now, self._changed_stats(now))
            self._wait(now)

    def _wait(self, now: float) -> None:
        deadline = self._scheduler.next_deadline()
        wait_s = IDLE_POLL_S if deadline is None else min(max(deadline - now, 0.0), IDLE_POLL_S)
        self._news.poll(int(wait_s * 1000) + 1)
        # What woke us up is looked at after this, so nothing that comes now is lost.
        self._wake.clear()

    # --- what comes in ---

    def _take_commands(self) -> None:
        for message in self._channel.receive():
            op = message["op"]
            if op == "add":
                self._add(message)
            elif op == "cancel":
                self._cancel(message["id"])
            elif op == "release":
                self._issued.release(message["ticket_id"])
            elif op == "reset":
                done = self._scheduler.reset_cache()
                self._channel.send({"op": "reset_done", "id": message["id"], "done": done})
            elif op == "stop":
                self._stopping = True
            else:
                raise ValueError(f"unknown command {op!r} from the front")

    def _add(self, message: dict[str, Any]) -> None:
        now = self._clock()
        try:
            item = unpack_submission(message)
            tokens = list(item.tokens)
            if item.ticket is not None:
                self._check_fit(item.ticket)
                tokens = [*item.ticket.token_ids, item.ticket.first.token]
            sequence = Sequence(
                id=item.id,
                tokens=tokens,
                prompt_len=len(tokens) - (item.ticket is not None),
                sampling=item.sampling,
                arrival=now,
                root=item.root,
                hold=item.hold,
                ticket=item.ticket,
            )
            self._scheduler.add(sequence)
        except RequestError as error:
            self._refuse(message["id"], Refusal(error.status, error.message, error.code))
        except TicketError as error:
            self._refuse(message["id"], Refusal(400, str(error), "ticket_mismatch"))
        else:
            self._tracked[item.id] = Tracked(sequence, now)
            if item.ticket is not None:
                self._remote.keep(item.id, item.ticket)

    def _check_fit(self, ticket: Ticket) -> None:
        layout = self._executor.layout
        if ticket.fingerprint != layout.fingerprint:
            raise TicketError(
                f"the ticket's KV blocks are of {ticket.fingerprint!r}, this engine's of {layout.fingerprint!r}: "
                "run both with the same model, dtype and block size"
            )

    def _refuse(self, sequence_id: str, refusal: Refusal) -> None:
        delta = Delta(sequence_id, None, "error", refusal=refusal)
        self._channel.send({"op": "out", "tokens": [], "deltas": [pack_delta(delta)], "stats": None})

    def _cancel(self, sequence_id: str) -> None:
        # The front has forgotten the sequence already: it wants no answer. One that is held is no longer tracked; its
        # ticket comes to the front, which releases what nobody waits for.
        if self._tracked.pop(sequence_id, None) is not None:
            self._scheduler.cancel(sequence_id)
            self._remote.drop(sequence_id)

    def _take_fetched(self) -> None:
        for fetched in self._remote.fetched():
            now = self._clock()
            item = self._tracked.get(fetched.sequence_id)
            if item is not None:
                item.transfer_s = now - (now if item.started is None else item.started)
                item.recomputed = fetched.why is not None
                if fetched.why is not None:
                    log.warning("a prompt of %d tokens is recomputed: %s", item.sequence.prompt_len, fetched.why)
            end = self._scheduler.remote_ready if fetched.why is None else self._scheduler.remote_failed
            self._send(end(fetched.sequence_id, now), now)

    # --- what goes out ---

    def _send(self, outputs: Iterable[Output], now: float, stats: dict[str, Any] | None = None) -> None:
        """Send the tokens of a step as one message, if there is anything to tell."""
        tokens: list[str | int] = []
        deltas: list[list[Any]] = []
        for output in outputs:
            sequence, sampled, finish_reason = output
            item = self._tracked[sequence.id]
            if item.plain and finish_reason is None and sampled is not None:
                tokens += (sequence.id, sampled.token)
            else:
                deltas.append(pack_delta(self._delta(item, sampled, finish_reason, now)))
        if tokens or deltas or stats is not None:
            self._channel.send({"op": "out", "tokens": tokens, "deltas": deltas, "stats": stats})

    def _delta(self, item: Tracked, sampled: SampledToken | None, finish_reason: str | None, now: float) -> Delta:
        sequence = item.sequence
        origin = ticket = None
        if sequence.output_len == 1 and sampled is not None:
            origin = self._origin(item, now)
            item.plain = sequence.sampling.logprobs is None
        if sequence.state is State.HELD and sampled is not None:
            ticket = self._issued.issue(sequence, sampled, now).to_params()
        if finish_reason is not None or ticket is not None:
            del self._tracked[sequence.id]
        return Delta(sequence.id, sampled, finish_reason, origin, ticket)

    def _origin(self, item: Tracked, now: float) -> Origin:
        sequence = item.sequence
        started = now if item.started is None else item.started
        return Origin(
            sequence.cached_tokens,
            sequence.external_tokens,
            item.recomputed,
            started - item.submitted,
            max(now - started - item.transfer_s, 0.0),
            item.transfer_s,
        )

    def _changed_stats(self, now: float) -> dict[str, Any] | None:
        """Return the statistics when the front should get them: when they changed, or nothing was said for long."""
        self._stats_due = now + STATS_INTERVAL_S
        figures = self._scheduler.stats()
        stats = {name: getattr(figures, name) for name in _STATS} | {
            "handoffs": dict(self._issued.handoffs),
            "busy_s": dict(self._busy.seconds),
        }
        if stats == self._last_stats and now < self._heartbeat_due:
            return None
        self._last_stats = stats
        self._heartbeat_due = now + HEARTBEAT_S
        return stats
