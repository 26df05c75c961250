"""The engine's sequences: submissions in, steps, tokens out, with the tickets of KV and pictures that they need."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

from tercet.core.errors import RequestError, TicketError
from tercet.core.image import ImageInput
from tercet.core.sampling import SampledToken
from tercet.core.ticket import Ticket
from tercet.engine.executor import Executor
from tercet.engine.scheduler import Scheduler, SchedulerStats
from tercet.engine.sequence import Output, Sequence, State
from tercet.worker.busy import BusyTimes
from tercet.worker.channel import Message
from tercet.worker.issued_tickets import IssuedTickets
from tercet.worker.picture_tickets import PictureTickets
from tercet.worker.remote_tickets import RemoteTickets
from tercet.worker.wire import Delta, Origin, Refusal, pack_delta, unpack_submission

log = logging.getLogger(__name__)

_STATS = tuple(field.name for field in fields(SchedulerStats))


@dataclass(slots=True)
class Tracked:
    """What the service remembers of a live sequence beside the scheduler: its times, and what the front knows.

    `images` are the pictures as they were submitted, for a ticket that hands them on.
    """

    sequence: Sequence
    submitted: float
    images: tuple[ImageInput, ...]
    started: float | None = None
    transfer_s: float = 0.0
    recomputed: bool = False
    loading_since: float | None = None
    begun: bool = False
    """Its first token went out."""
    plain: bool = False
    """Its tokens go out as numbers: origin and ticket were sent, logprobs were not asked for."""


class SequenceService:
    """Owns the scheduler; the only caller of its methods. Itself owned by the engine loop."""

    def __init__(
        self,
        *,
        executor: Executor,
        scheduler: Scheduler,
        issued: IssuedTickets,
        remote: RemoteTickets,
        pictures: PictureTickets | None,
        busy: BusyTimes,
        send: Callable[[Message], None],
        clock: Callable[[], float],
    ) -> None:
        """`pictures` is None for a model that does not see."""
        self._executor, self._scheduler, self._issued, self._remote = executor, scheduler, issued, remote
        self._pictures, self._busy, self._send_message, self._clock = pictures, busy, send, clock
        self._tracked: dict[str, Tracked] = {}

    # --- what comes in ---

    def add(self, message: Message) -> None:
        """Take an `add` message; a sequence that can't be is refused."""
        now, sequence_id = self._clock(), message["id"]
        try:
            item = unpack_submission(message)
            tokens = list(item.tokens)
            if item.ticket is not None:
                self._check_fit(item.ticket)
                tokens = [*item.ticket.token_ids, item.ticket.first.token]
            images = item.images or (() if item.ticket is None else item.ticket.images)
            sequence = Sequence(
                id=item.id,
                tokens=tokens,
                prompt_len=len(tokens) - (item.ticket is not None),
                sampling=item.sampling,
                arrival=now,
                root=item.root,
                hold=item.hold,
                ticket=item.ticket,
                images=tuple(image.span for image in images),
            )
            if images:
                self._take_pictures(sequence, images)
            try:
                self._scheduler.add(sequence)
            except RequestError:
                self._drop_pictures(sequence)
                raise
        except RequestError as error:
            self._refuse(sequence_id, Refusal(error.status, error.message, error.code))
        except TicketError as error:
            self._refuse(sequence_id, Refusal(400, str(error), "ticket_mismatch"))
        else:
            self._tracked[item.id] = Tracked(sequence, now, images)
            if item.ticket is not None:
                self._remote.keep(item.id, item.ticket)

    def cancel(self, sequence_id: str) -> None:
        """End a sequence. The front has forgotten it already: it wants no answer.

        One that is held is no longer tracked; its ticket comes to the front, which releases what nobody waits for.
        """
        if self._tracked.pop(sequence_id, None) is not None:
            self._scheduler.cancel(sequence_id)
            self._remote.drop(sequence_id)
            self._let_go(sequence_id)

    def release(self, ticket_id: str) -> None:
        """End a ticket's lease: nobody wants the blocks."""
        self._issued.release(ticket_id)

    def reset_cache(self) -> bool:
        """Drop every unreferenced cached block; False when some are still in use."""
        return self._scheduler.reset_cache()

    def _check_fit(self, ticket: Ticket) -> None:
        layout = self._executor.layout
        if ticket.fingerprint != layout.fingerprint:
            raise TicketError(
                f"the ticket's KV blocks are of {ticket.fingerprint!r}, this engine's of {layout.fingerprint!r}: "
                "run both with the same model, dtype and block size"
            )

    def _take_pictures(self, sequence: Sequence, images: tuple[ImageInput, ...]) -> None:
        if self._pictures is None:
            raise RequestError(400, "this model takes no pictures", code="no_vision")
        self._pictures.take(sequence, images)

    def _drop_pictures(self, sequence: Sequence) -> None:
        if self._pictures is not None:
            self._pictures.give_back(sequence)

    def _let_go(self, sequence_id: str) -> None:
        if self._pictures is not None:
            self._pictures.let_go(sequence_id)

    def _refuse(self, sequence_id: str, refusal: Refusal) -> None:
        self._send((), self._clock(), deltas=[pack_delta(Delta(sequence_id, None, "error", refusal=refusal))])

    # --- what happens ---

    def step(self, stats: Callable[[float, bool], dict[str, Any] | None]) -> bool:
        """Take what has come, and run one step; False when there was nothing to do.

        `stats(now, last)` gives statistics that are due, if any; `last` says that no sequence is left. They ride with
        the tokens: a message of their own would wake the front once more, and whoever has the last token of all may
        look at the figures at once.
        """
        self._take_fetched()
        now = self._clock()
        self._issued.settle(self._scheduler, now)
        plan = self._scheduler.schedule(now)
        for fetch in plan.fetches:
            self._tracked[fetch.sequence.id].started = now
            self._remote.fetch(fetch)
        for load in plan.image_fetches:
            assert self._pictures is not None
            self._begin_loading(load.sequence, now)
            self._pictures.fetch(load)
        self._send(plan.refused, now)
        if not plan.batch.chunks:
            return bool(plan.fetches or plan.image_fetches or plan.refused)
        for chunk in plan.batch.chunks:
            if chunk.start < chunk.sequence.prompt_len:
                item = self._tracked[chunk.sequence.id]
                item.started = now if item.started is None else item.started
                if item.loading_since is not None:
                    item.transfer_s += now - item.loading_since
                    item.loading_since = None
        began = self._clock()
        sampled = self._executor.execute(plan.batch)
        now = self._clock()
        self._busy.add(plan.batch.chunks, now - began)
        outputs = self._scheduler.step_done(plan.batch, sampled, now)
        ended = sum(output.finish_reason is not None or output.sequence.state is State.HELD for output in outputs)
        self._send(outputs, now, stats(now, ended == len(self._tracked)))
        return True

    @property
    def running(self) -> bool:
        """True while any sequence lives whose next token would wait for the device."""
        return bool(self._tracked)

    def next_deadline(self) -> float | None:
        """Return when there is something to do even if nothing comes in."""
        return self._scheduler.next_deadline()

    def figures(self) -> dict[str, Any]:
        """Return the statistics of this moment."""
        figures = self._scheduler.stats()
        told = {name: getattr(figures, name) for name in _STATS} | {"handoffs": dict(self._issued.handoffs)}
        lag = self._executor.lag
        return told if lag is None else told | {"lag": {"counts": list(lag.counts), "seconds": lag.total}}

    def _begin_loading(self, sequence: Sequence, now: float) -> None:
        item = self._tracked.get(sequence.id)
        if item is not None and item.loading_since is None:
            item.started = now if item.started is None else item.started
            item.loading_since = now

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
        for loaded in self._pictures.fetched() if self._pictures is not None else ():
            if loaded.why is None:
                self._scheduler.image_ready(loaded.key)
            else:
                log.warning("the embeddings of picture %s did not come: %s", loaded.key[:16], loaded.why)
                self._send(self._scheduler.image_failed(loaded.key), self._clock())

    # --- what goes out ---

    def _send(
        self,
        outputs: Iterable[Output],
        now: float,
        stats: dict[str, Any] | None = None,
        deltas: list[list[Any]] | None = None,
    ) -> None:
        """Send the tokens of a step as one message, if there is anything to tell."""
        tokens: list[str | int] = []
        deltas = [] if deltas is None else deltas
        told: set[str] = set()
        for output in outputs:
            sequence, sampled, finish_reason = output
            item = self._tracked[sequence.id]
            # The front takes tokens before deltas: what follows a delta of the same message has to be one, too.
            if item.plain and finish_reason is None and sampled is not None and sequence.id not in told:
                tokens += (sequence.id, sampled.token)
            else:
                told.add(sequence.id)
                deltas.append(pack_delta(self._delta(item, sampled, finish_reason, now)))
        if tokens or deltas or stats is not None:
            self._send_message({"op": "out", "tokens": tokens, "deltas": deltas, "stats": stats})

    def _delta(self, item: Tracked, sampled: SampledToken | None, finish_reason: str | None, now: float) -> Delta:
        sequence = item.sequence
        origin = ticket = None
        if not item.begun and sampled is not None:
            item.begun = True
            origin = self._origin(item, now)
            item.plain = sequence.sampling.logprobs is None
        if sequence.state is State.HELD and sampled is not None:
            images = () if self._pictures is None else self._pictures.hand_on(sequence, item.images, now)
            ticket = self._issued.issue(sequence, sampled, now, images).to_params()
        if finish_reason is not None or ticket is not None:
            del self._tracked[sequence.id]
            self._let_go(sequence.id)
        return Delta(sequence.id, sampled, finish_reason, origin, ticket, _unseen(sequence))

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


def _unseen(sequence: Sequence) -> Refusal | None:
    """Return the refusal of a sequence that ended because its pictures could not be had."""
    if not sequence.missing:
        return None
    indices = ",".join(map(str, sequence.missing))
    message = f"pictures {indices} of the prompt are not here and could not be read: encode them, and ask again"
    return Refusal(409, message, "images_needed", indices)
