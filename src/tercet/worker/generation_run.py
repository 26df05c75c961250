"""Runs one generation: submits its sequences to a rank and writes the answer as tokens arrive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tercet.core.errors import RequestError
from tercet.core.hashing import root_hash
from tercet.http.responder import Responder
from tercet.text.tokenizer import Tokenizer
from tercet.worker.answers import DONE, AnswerWriter
from tercet.worker.choice import Choice
from tercet.worker.encode_request import cache_header, encode_timing
from tercet.worker.encoded_picture import EncodedPicture
from tercet.worker.engine_client import EngineClient
from tercet.worker.metrics import RankFigures
from tercet.worker.openai_request import Generation
from tercet.worker.wire import Delta, Origin, Refusal, Submission


class GenerationRun:
    """One request on one rank.

    Tokens are written where they arrive, in the event loop's callback: a task would have to be woken for each. While
    the client reads too slowly text is collected instead, and goes out as one chunk. Cancelling `run` cancels every
    sequence; a ticket that nobody received is released.
    """

    def __init__(
        self,
        generation: Generation,
        engine: EngineClient,
        tokenizer: Tokenizer,
        request_id: str,
        writer: AnswerWriter,
        figures: RankFigures,
        *,
        started: float,
        encoded: Sequence[EncodedPicture] = (),
    ) -> None:
        """`started` is when the request came, on perf_counter's clock; `encoded` are the pictures encoded here."""
        self.generation, self.engine, self.figures = generation, engine, figures
        self.started = started
        self._encoded = encoded
        self._request_id, self._writer = request_id, writer
        self._sequences = [_Sequence(self, Choice(i, generation, tokenizer)) for i in range(generation.choices)]
        self._unfinished = generation.choices
        self._first, self._ended = asyncio.Event(), asyncio.Event()
        self._refusal: Refusal | None = None
        self._responder: Responder | None = None
        self._paused = False
        self._origin: Origin | None = None
        self._ticket: dict[str, Any] | None = None

    async def run(self, responder: Responder) -> None:
        """Generate and answer. Raises RequestError while nothing has been written.

        Waits for the engine without a deadline of its own: the engine ends every sequence, or is ended itself.
        """
        if self.generation.stream:
            self._responder = responder
            responder.attach(self)
        try:
            # What a ticket names is fetched once: the other choices start when the first has it in this rank's cache.
            g = self.generation
            ahead = 1 if g.ticket is not None or g.images else len(self._sequences)
            for sequence in self._sequences[:ahead]:
                await self._submit(sequence)
            if ahead < len(self._sequences):
                await self._first.wait()
                for sequence in self._sequences[ahead:]:
                    await self._submit(sequence)
            await self._ended.wait()
            await self._finish(responder)
        finally:
            now = time.perf_counter()
            for sequence in self._sequences:
                self.engine.cancel(sequence.id)
                if sequence.choice.finish_reason is None:
                    self.figures.finished("abort" if self._refusal is None else "error", now - self.started)
            if self._ticket is not None:
                self.engine.release(str(self._ticket["ticket_id"]))
            # Tickets that were handed on with the KV are for the decode worker too, and end with it or their lease.
            for picture in self._encoded:
                self.engine.release_image(picture.answer.ticket.id)

    async def _submit(self, sequence: _Sequence) -> None:
        """Send a choice to the engine; what keeps it from that ends the answer, which may have begun with others."""
        if self._refusal is not None:
            return
        g, choice = self.generation, sequence.choice
        item = Submission(
            id=sequence.id,
            tokens=choice.prompt,
            # With a greedy answer all choices are equal; with sampling each has a seed of its own.
            sampling=replace(g.sampling, seed=g.sampling.seed + choice.index % g.n),
            root=root_hash(self.engine.fingerprint, cache_salt=g.cache_salt),
            hold=g.hold,
            ticket=g.ticket if choice.index == 0 else None,
            images=g.images,
        )
        try:
            await self.engine.submit(item, sequence)
        except RequestError as error:
            self.failed(Refusal(error.status, error.message, error.code, error.param))

    async def _finish(self, responder: Responder) -> None:
        refusal, choices = self._refusal, [sequence.choice for sequence in self._sequences]
        if refusal is not None:
            if not responder.started:
                raise RequestError(refusal.status, refusal.message, code=refusal.code, param=refusal.param)
            responder.write(self._writer.error_chunk(refusal) + DONE)
            responder.finish()
        elif self.generation.stream:
            self.resume()
            usage = self._writer.usage_chunk(choices) if self.generation.include_usage else b""
            responder.write(usage + DONE)
            responder.finish()
        elif responder.gone:
            responder.abort()
        else:
            handed_on = self._ticket is not None
            await responder.send(200, self._writer.whole(choices, self._ticket), headers=self._headers())
            self._ticket = None
            if handed_on:
                self._encoded = ()

    # --- news of the sequences, in the event loop's callbacks ---

    def begun(self, choice: Choice, origin: Origin, now: float) -> None:
        """Note a choice's first token."""
        if self._origin is None:
            self._origin = origin
            self._first.set()
            if self._responder is not None:
                # The answer begins with the first token, even when its text can't be shown yet.
                self._responder.start(200, headers=self._headers())
        ticket = self.generation.ticket
        # Who computed the prompt says what was cached of it: P, unless it was computed here once more.
        theirs = None if ticket is None or origin.recomputed else ticket.cached_tokens
        self._writer.cached(choice, origin.cached_tokens if theirs is None else theirs)
        self.figures.first_token(len(choice.prompt), origin, now - self.started)

    def progress(self, sequence: _Sequence) -> None:
        """A choice has text to show, or has ended."""
        responder = self._responder
        if responder is not None and not self._paused:
            responder.write(self._writer.chunk(sequence.choice, sequence.choice.take()))

    def finished(self, sequence: _Sequence, now: float) -> None:
        """A choice has ended."""
        self.engine.cancel(sequence.id)
        assert sequence.choice.finish_reason is not None
        self.figures.finished(sequence.choice.finish_reason, now - self.started)
        self._unfinished -= 1
        if not self._unfinished:
            self._ended.set()

    def held(self, ticket: dict[str, Any], choice: Choice) -> None:
        """A prefill is done."""
        if choice.finish_reason == "stop":
            # The first token completed a stop string: the answer is whole, nobody will read the blocks.
            self.engine.release(str(ticket["ticket_id"]))
        else:
            self._ticket = ticket

    def failed(self, refusal: Refusal) -> None:
        """The engine refuses a sequence, or died: that ends the others too."""
        if not self._ended.is_set():
            self._refusal = refusal
            self._first.set()
            self._ended.set()

    # --- the connection's word ---

    def pause(self) -> None:
        """The client reads too slowly."""
        self._paused = True

    def resume(self) -> None:
        """The client has read on: what was collected goes out."""
        self._paused = False
        for sequence in self._sequences:
            if sequence.choice.unshown:
                self.progress(sequence)

    def lost(self) -> None:
        """The client is gone; `run` is cancelled."""

    def _headers(self) -> list[tuple[str, str]]:
        """Return the headers that are known with the first token."""
        headers = [("X-Request-Id", self._request_id)]
        if (o := self._origin) is not None:
            headers += [
                ("X-Tercet-Prompt-Tokens", str(sum(map(len, self.generation.prompts)))),
                ("X-Tercet-Cached-Tokens", str(o.cached_tokens)),
                ("X-Tercet-External-Tokens", str(o.external_tokens)),
            ]
            timing = (
                f"queue;dur={o.queue_s * 1e3:.2f}, transfer;dur={o.transfer_s * 1e3:.2f}, "
                f"prefill;dur={o.prefill_s * 1e3:.2f}"
            )
            if self._encoded:
                headers.append(cache_header(self._encoded))
                timing = f"{encode_timing(self._encoded, 'image-')}, {timing}"
            headers.append(("Server-Timing", timing))
            if o.recomputed:
                headers.append(("X-Tercet-Recomputed", "1"))
        return headers


class _Sequence:
    """The sink of one choice's tokens."""

    __slots__ = ("_last", "_run", "choice", "id")

    def __init__(self, run: GenerationRun, choice: Choice) -> None:
        self.id = run.engine.next_id()
        self.choice = choice
        self._run = run
        self._last = 0.0

    def token(self, token: int, now: float) -> None:
        """See Sink."""
        run = self._run
        run.figures.token_gap(now - self._last)
        self._last = now
        if self.choice.push(token):
            self._show(now)

    def delta(self, delta: Delta, now: float) -> None:
        """See Sink."""
        run, choice, sampled = self._run, self.choice, delta.sampled
        if delta.refusal is not None:
            run.failed(delta.refusal)
            return
        if delta.origin is not None:
            run.begun(choice, delta.origin, now)
        elif sampled is not None:
            run.figures.token_gap(now - self._last)
        self._last = now
        if delta.finish_reason is not None:
            choice.end(delta.finish_reason, sampled)
        elif delta.ticket is not None:
            # For whoever asked, P's answer ends here, unless the first token completes a stop string.
            choice.end("length", sampled)
            run.held(delta.ticket, choice)
        elif sampled is None or not choice.push_detailed(sampled):
            return
        self._show(now)

    def _show(self, now: float) -> None:
        self._run.progress(self)
        if self.choice.finish_reason is not None:
            self._run.finished(self, now)
