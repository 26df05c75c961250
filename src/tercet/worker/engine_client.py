"""The front's side of one rank: owns the engine process, restarts it, and hands its news to the requests."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Sequence
from typing import Any, Protocol

from tercet.core.errors import RequestError
from tercet.core.faults import whence
from tercet.core.sampling import SamplingParams
from tercet.engine.encoder import Pixels
from tercet.worker.channel import FrontChannel, Message
from tercet.worker.config import EngineConfig
from tercet.worker.encoded_picture import PictureGroup
from tercet.worker.engine_child import ENGINE_COMMAND, EngineChild
from tercet.worker.image_requests import ImageRequests
from tercet.worker.wire import Delta, ImageAnswer, Refusal, Submission, pack_submission, unpack_delta

log = logging.getLogger(__name__)

START_TIMEOUT_S = 600.0
"""A large model from a slow disk; whoever started the worker may have less patience."""
PROBE_TIMEOUT_S = 60.0
RESET_TIMEOUT_S = 60.0
STALL_S = 300.0
"""An engine that says nothing for so long hangs, and is replaced. A step of a large model on one core takes minutes."""
LOOK_S = 1.0
MIN_BACKOFF_S = 0.5
MAX_BACKOFF_S = 10.0
STEADY_S = 60.0


class Sink(Protocol):
    """Takes the news of one sequence, on the event loop. `now` is time.perf_counter()."""

    def token(self, token: int, now: float) -> None:
        """One more token, and nothing else to say about it."""

    def delta(self, delta: Delta, now: float) -> None:
        """Anything else; the last one has `ends`."""


class EngineClient:
    """One rank. Every sequence that is submitted ends: by the engine, or by its death, which a stall also leads to."""

    def __init__(
        self,
        config: EngineConfig,
        secret: bytes,
        *,
        probe_token: int = 0,
        command: Sequence[str] = ENGINE_COMMAND,
        stall_s: float = STALL_S,
    ) -> None:
        self.config = config
        self._secret, self._probe_token, self._command, self._stall_s = secret, probe_token, command, stall_s
        self.ready = False
        self.engine_id: str | None = None
        self.fingerprint = ""
        self.kv_tokens = 0
        self.embedding_tokens: int | None = None
        self.stats: dict[str, Any] = {}
        self.restarts = 0
        self.pid: int | None = None
        self.failure: str | None = None
        """Why the first start failed for good (a wrong model, no memory), or None."""
        self._numbers = itertools.count()
        self._sinks: dict[str, Sink] = {}
        self._resets: dict[str, asyncio.Future[bool]] = {}
        self.images = ImageRequests(self.name)
        self._channel: FrontChannel | None = None
        self._hello: asyncio.Future[Message] | None = None
        self._fatal: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[int] | None = None
        self._closing: str | None = None

    @property
    def name(self) -> str:
        """How logs call this rank."""
        return f"{self.config.worker}@{self.config.rank}"

    @property
    def in_flight(self) -> int:
        """Sequences submitted and not yet ended."""
        return len(self._sinks)

    def start(self) -> None:
        """Begin supervising; `ready` turns true when an inference has succeeded."""
        self._task = asyncio.create_task(self._supervise())

    def next_id(self) -> str:
        """Return a name for a sequence, unused so far."""
        return str(next(self._numbers))

    async def submit(self, item: Submission, sink: Sink) -> None:
        """Send one sequence to the engine. Raises RequestError 503 when the engine is not up."""
        channel = self._open_channel()
        self._sinks[item.id] = sink
        try:
            await channel.send(pack_submission(item))
        except (ValueError, OverflowError) as error:
            del self._sinks[item.id]
            raise RequestError(400, f"a number in the request is too large: {error}") from error

    def cancel(self, sequence_id: str) -> None:
        """Forget a sequence and tell the engine; nothing more reaches its sink."""
        if self._sinks.pop(sequence_id, None) is not None and self._channel is not None:
            self._channel.send_now({"op": "cancel", "id": sequence_id})

    def release(self, ticket_id: str) -> None:
        """Free a held ticket's blocks now instead of at its lease's end."""
        if self._channel is not None:
            self._channel.send_now({"op": "release", "ticket_id": ticket_id})

    async def lookup_image(self, key: str, group: PictureGroup) -> ImageAnswer | None:
        """Return a ticket for a picture that is here or being encoded; None: send its pixels.

        Raises RequestError, as `encode_image` does.
        """
        return await self.images.ask(self._image_channel(), self.next_id(), key, group, None)

    async def encode_image(self, key: str, pixels: Pixels, group: PictureGroup) -> ImageAnswer:
        """Have a picture encoded; whoever gets the ticket releases it, or hands it to somebody who does.

        Raises RequestError: 503 when the engine is not up or ends, 504 when it takes too long, 400 for pixels that the
        model can't take.
        """
        answer = await self.images.ask(self._image_channel(), self.next_id(), key, group, pixels)
        if answer is None:
            raise RequestError(500, f"the engine {self.name} did not encode the picture", code="internal_error")
        return answer

    def end_group(self, group: PictureGroup) -> None:
        """Tell the engine that nothing more is asked for a group of pictures."""
        self.images.end_group(group)
        if self._channel is not None:
            self._channel.send_now({"op": "end_images", "group": group.id})

    def release_image(self, ticket_id: str) -> None:
        """End an image ticket's lease for all its readers; nothing when it is over."""
        if self._channel is not None:
            self._channel.send_now({"op": "release_image", "ticket_id": ticket_id})

    def _image_channel(self) -> FrontChannel:
        if not self.config.encodes:
            raise RequestError(400, f"the worker {self.config.worker} does not encode pictures", code="no_encode_stage")
        return self._open_channel()

    def _open_channel(self) -> FrontChannel:
        if self._closing is not None:
            raise RequestError(503, self._closing, code="stopping")
        if self._channel is None:
            raise RequestError(503, f"the engine {self.name} is starting; try again", code="starting")
        return self._channel

    async def reset_cache(self) -> bool:
        """Drop every unreferenced cached block; False when some are still in use. Raises RequestError 503."""
        channel = self._channel
        if channel is None:
            return True
        key = self.next_id()
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._resets[key] = future
        try:
            channel.send_now({"op": "reset", "id": key})
            return await asyncio.wait_for(future, RESET_TIMEOUT_S)
        except TimeoutError:
            raise RequestError(503, f"the engine {self.name} does not answer") from None
        finally:
            del self._resets[key]

    def refuse(self, message: str) -> None:
        """Fail every sequence under way with 503, and those that come: the worker is about to end."""
        self._closing = message
        self._fail_all(Refusal(503, message, "stopping"))

    async def close(self) -> None:
        """Stop the engine process and free everything."""
        self.refuse(f"worker {self.config.worker} is stopping")
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._ending is not None:
            # The one thing that cancelling does not interrupt: a process is waited for, and what it left is swept.
            await self._ending

    # --- the engine's life ---

    async def _supervise(self) -> None:
        backoff = MIN_BACKOFF_S
        while True:
            started = time.monotonic()
            try:
                await self._live()
            except Exception:  # whatever is wrong with this attempt, the next one may be better
                log.exception("engine %s could not be run", self.name)
            if self.failure is not None:
                return
            backoff = MIN_BACKOFF_S if time.monotonic() - started > STEADY_S else min(backoff * 2, MAX_BACKOFF_S)
            self.restarts += 1
            log.warning("restarting engine %s in %.1f s", self.name, backoff)
            await asyncio.sleep(backoff)

    async def _live(self) -> None:
        """Run one engine process to its end."""
        self._hello = asyncio.get_running_loop().create_future()
        self._fatal = None
        child = await EngineChild.start(self.config, self._secret, self._on_message, self._command)
        self.pid = child.pid
        served = stopping = False
        try:
            await child.wait(self._hello, timeout_s=START_TIMEOUT_S)
            if self._hello.done():
                served = True
                hello = self._hello.result()
                self.fingerprint, self.engine_id = hello["fingerprint"], hello["engine_id"]
                self.kv_tokens, self.embedding_tokens = hello["kv_tokens"], hello["embedding_tokens"]
                self._channel = child.channel
                await self._serve(child)
        except TimeoutError:
            log.error("engine %s did not start within %g s", self.name, START_TIMEOUT_S)
        except asyncio.CancelledError:
            stopping = True
            raise
        finally:
            self.ready, self.engine_id, self._channel, self.stats = False, None, None, {}
            why = f": {self._fatal}" if self._fatal else ""
            self._fail_all(Refusal(500, f"the engine {self.name} ended{why}", "engine_dead"))
            # Nothing is lost with an engine that still loads its model, and one that hangs does not listen.
            self._ending = asyncio.create_task(child.end(politely=stopping and served))
            code = await asyncio.shield(self._ending)
            self.pid = None
        if not served and code > 0 and self.restarts == 0:
            # Ended by itself before serving once: starting it again would end the same way.
            self.failure = f"engine process exited with code {code} while starting; see the lines above"

    async def _serve(self, child: EngineChild) -> None:
        """Return when the engine is dead, hangs, or can't answer."""
        probe = asyncio.create_task(self._probe())
        try:
            while True:
                looked = time.monotonic()
                with contextlib.suppress(TimeoutError):
                    await child.wait(timeout_s=LOOK_S)
                    return
                child.channel.pardon(time.monotonic() - looked - LOOK_S)
                if probe.done() and not self.ready:
                    return
                if child.channel.silent_s > self._stall_s:
                    log.error("engine %s said nothing for %g s; it is replaced", self.name, self._stall_s)
                    self._fatal = "it hung"
                    return
        finally:
            probe.cancel()

    async def _probe(self) -> None:
        """Turn `ready` when each kind of inference that is asked of this engine has succeeded once."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                if self.config.encodes:
                    await self.images.probe(self._image_channel(), self.next_id())
                refusal = await self._probe_tokens() if self.config.generates else None
        except (TimeoutError, RequestError) as error:
            log.error("the first inference of %s gave no answer: %s", self.name, error)
            return
        self.ready = refusal is None
        if refusal is not None:
            log.error("the first inference of %s failed: %s", self.name, refusal.message)

    async def _probe_tokens(self) -> Refusal | None:
        first = _First()
        sampling = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
        item = Submission(self.next_id(), (self._probe_token,), sampling, b"probe")
        try:
            await self.submit(item, first)
            return await first.ended
        finally:
            self.cancel(item.id)

    # --- what the engine says ---

    def _on_message(self, message: Message) -> None:
        op = message["op"]
        if op == "out":
            self._take(message["tokens"], message["deltas"])
            if message["stats"] is not None:
                self.stats = message["stats"]
        elif op == "image":
            late = self.images.answered(message)
            if late is not None:
                self.release_image(late)  # whoever asked has left: nobody will ever read it
        elif op == "hello" and self._hello is not None and not self._hello.done():
            self._hello.set_result(message)
        elif op == "reset_done" and (future := self._resets.get(message["id"])) and not future.done():
            future.set_result(message["done"])
        elif op == "fatal":
            self._fatal = message["why"]
            self.ready, self._channel = False, None
            self._fail_all(Refusal(500, f"the engine {self.name} failed: {self._fatal}", "engine_dead"))

    def _take(self, tokens: list[Any], deltas: list[list[Any]]) -> None:
        now = time.perf_counter()
        sinks = self._sinks
        pairs = iter(tokens)
        for sequence_id, token in zip(pairs, pairs, strict=True):
            sink = sinks.get(sequence_id)
            if sink is not None:
                try:
                    sink.token(token, now)
                except Exception as error:  # noqa: BLE001 - one request's fault must not end the others
                    log.error("writing the answer of sequence %s: %s", sequence_id, whence(error))
                    self._broken(sequence_id, sink, now)
        for data in deltas:
            delta = unpack_delta(data)
            sink = sinks.pop(delta.id, None) if delta.ends else sinks.get(delta.id)
            if sink is not None:
                try:
                    sink.delta(delta, now)
                except Exception as error:  # noqa: BLE001 - the same
                    log.error("writing the answer of sequence %s: %s", delta.id, whence(error))
                    self._broken(delta.id, sink, now)
            elif delta.ticket is not None:
                # The client left while its token was on its way: nobody will ever read these blocks.
                self.release(delta.ticket["ticket_id"])

    def _broken(self, sequence_id: str, sink: Sink, now: float) -> None:
        self.cancel(sequence_id)
        sink.delta(Delta(sequence_id, None, "error", refusal=Refusal(500, "internal error", "internal_error")), now)

    def _fail_all(self, refusal: Refusal) -> None:
        sinks, self._sinks = self._sinks, {}
        now = time.perf_counter()
        for sequence_id, sink in sinks.items():
            if self._channel is not None:
                self._channel.send_now({"op": "cancel", "id": sequence_id})
            sink.delta(Delta(sequence_id, None, "error", refusal=refusal), now)
        self.images.fail(refusal)
        for future in self._resets.values():
            if not future.done():
                future.set_result(True)


class _First:
    """Waits for a sequence's end: None, or why it failed."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()

    def token(self, token: int, now: float) -> None:
        """See Sink."""

    def delta(self, delta: Delta, now: float) -> None:
        """See Sink."""
        if delta.ends and not self.ended.done():
            self.ended.set_result(delta.refusal)
