"""What a worker answers on each of its paths."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeGuard, TypeVar

from tercet import __version__
from tercet.core.api_keys import KeyRing
from tercet.core.build import EngineBuild
from tercet.core.errors import RequestError
from tercet.core.ids import new_id
from tercet.core.stage import Stage
from tercet.core.ticket import TICKET_VERSION
from tercet.engine.fingerprint import LAYOUT_NAME
from tercet.http.server import Request, Responder
from tercet.text.tokenizer import Tokenizer
from tercet.worker.answers import AnswerWriter
from tercet.worker.config import WorkerConfig
from tercet.worker.encode_request import EncodeRequest, cache_header, encode_answer, encode_timing, parse_encode
from tercet.worker.encoded_picture import EncodedPicture, PictureEncoder, PictureSource
from tercet.worker.engine_client import EngineClient
from tercet.worker.generation_run import GenerationRun
from tercet.worker.metrics import PictureFigures, WorkerMetrics
from tercet.worker.openai_request import Generation, parse_body, parse_generation
from tercet.worker.prompt_pictures import prompt_images

LARGE_BODY_BYTES = 32 * 1024
"""Bodies from this size on are read and tokenised in a thread: 10 ms in which other streams would stand still."""

METHODS = {
    "/v1/models": "GET",
    "/v1/chat/completions": "POST",
    "/v1/completions": "POST",
    "/cache/reset": "POST",
    "/v1/encode": "POST",
    "/kv/release": "POST",
    "/ec/release": "POST",
    "/health": "GET",
    "/ready": "GET",
    "/metrics": "GET",
}
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_RANK = re.compile(r"[0-9]{1,4}")

T = TypeVar("T")


class Endpoints:
    """The HTTP side of one worker."""

    def __init__(
        self,
        config: WorkerConfig,
        engines: Sequence[EngineClient],
        tokenizer: Tokenizer,
        *,
        model: str,
        max_model_len: int,
        pictures: PictureEncoder | None = None,
        picture_figures: PictureFigures | None = None,
        worker_key: str | None = None,
    ) -> None:
        """`pictures` and their figures are there when this worker encodes; `worker_key` is let in beside the API
        keys."""
        self._config, self._engines, self._tokenizer = config, engines, tokenizer
        self._model, self._max_model_len = model, max_model_len
        self._created = int(time.time())
        self._metrics = WorkerMetrics(engines, picture_figures)
        self._pictures = pictures
        self._keys = KeyRing((*config.api_keys, *((worker_key,) if worker_key else ())))
        self._next_rank = 0

    async def handle(self, request: Request, responder: Responder) -> None:
        """Dispatch one HTTP request. Raises RequestError, which the server turns into an OpenAI error object."""
        route = (request.method, request.path)
        if route == ("GET", "/health"):
            await _send(responder, 200, self._health())
        elif route == ("GET", "/ready"):
            ready = all(engine.ready for engine in self._engines)
            await _send(responder, 200 if ready else 503, {"ready": ready, **self._health()})
        elif route == ("GET", "/metrics"):
            await responder.send(200, self._metrics.render(), content_type="text/plain; version=0.0.4; charset=utf-8")
        else:
            self._authorize(request.headers)
            await self._guarded(route, request, responder)

    async def _guarded(self, route: tuple[str, str], request: Request, responder: Responder) -> None:
        if route == ("GET", "/v1/models"):
            await _send(responder, 200, {"object": "list", "data": [self._model_card()]})
        elif route == ("POST", "/v1/chat/completions"):
            await self._generate(request, responder, chat=True)
        elif route == ("POST", "/v1/completions"):
            await self._generate(request, responder, chat=False)
        elif route == ("POST", "/cache/reset"):
            done = await asyncio.gather(*(engine.reset_cache() for engine in self._engines))
            await _send(responder, 200 if all(done) else 409, {"reset": all(done)})
        elif route == ("POST", "/kv/release"):
            ticket_id = parse_body(request.body).get("ticket_id")
            if not _is_id(ticket_id):
                raise RequestError(400, 'name the ticket to release: {"ticket_id": ...}', param="ticket_id")
            for engine in self._engines:
                engine.release(ticket_id)
            await _send(responder, 200, {"released": ticket_id})
        elif route == ("POST", "/v1/encode"):
            await self._encode(request, responder)
        elif route == ("POST", "/ec/release"):
            ids = parse_body(request.body).get("ticket_ids")
            if not isinstance(ids, list) or not all(map(_is_id, ids)):
                raise RequestError(400, 'name the tickets to release: {"ticket_ids": [...]}', param="ticket_ids")
            for engine in self._engines:
                for ticket_id in ids:
                    engine.release_image(ticket_id)
            await _send(responder, 200, {"released": ids})
        elif request.path in METHODS:
            raise RequestError(405, f"{request.method} {request.path}: use {METHODS[request.path]}")
        else:
            raise RequestError(404, f"no such path: {request.path}")

    async def _generate(self, request: Request, responder: Responder, *, chat: bool) -> None:
        started = time.perf_counter()
        generation = await self._parsed(request, lambda data: self._read(data, chat))
        rank = self._pick_rank(request.headers.get("x-data-parallel-rank"))
        if generation.ticket is not None and self._config.rank_match == "exact" and generation.ticket.rank != rank:
            raise RequestError(
                400,
                f"the ticket is of prefill rank {generation.ticket.rank} and landed on decode rank {rank}: whoever is "
                "between here and the router must pass X-data-parallel-rank on, and not spread over ranks itself",
                code="ticket_mismatch",
                param="kv_transfer_params",
            )
        engine = self._engines[rank]
        asked = request.headers.get("x-request-id", "")
        request_id = asked if _REQUEST_ID.fullmatch(asked) else new_id("request")
        answer_id = f"{'chatcmpl' if chat else 'cmpl'}-{request_id}"
        encoded = await self._encode_own(generation, engine)
        generation = replace(generation, pictures=(), images=prompt_images(generation.pictures, encoded))
        writer = AnswerWriter(answer_id, self._model, generation, self._tokenizer)
        run = GenerationRun(
            generation,
            engine,
            self._tokenizer,
            request_id,
            writer,
            self._metrics.ranks[rank],
            started=started,
            encoded=encoded,
        )
        await run.run(responder)

    async def _encode_own(self, generation: Generation, engine: EngineClient) -> tuple[EncodedPicture, ...]:
        """Encode the pictures that came as they are."""
        sources = [
            PictureSource(index, picture.url, picture.where)
            for index, picture in enumerate(generation.pictures)
            if picture.url is not None
        ]
        if not sources:
            return ()
        # Every choice reads them; those of a held prompt may be read again where it is decoded.
        readers = 2 if generation.hold else generation.choices
        return await self._encoder(sources[0].where).encode(engine, sources, readers)

    async def _encode(self, request: Request, responder: Responder) -> None:
        pictures = self._encoder("images")
        asked = await self._parsed(request, self._read_encode)
        engine = self._engines[self._pick_rank(request.headers.get("x-data-parallel-rank"))]
        encoded = await pictures.encode(engine, asked.sources, asked.readers)
        sent = False
        try:
            if responder.gone:
                responder.abort()
            else:
                headers = [cache_header(encoded), ("Server-Timing", encode_timing(encoded))]
                await responder.send(200, encode_answer(asked, encoded), headers=headers)
                sent = True
        finally:
            if not sent:
                for picture in encoded:
                    engine.release_image(picture.answer.ticket.id)

    def _encoder(self, where: str) -> PictureEncoder:
        if self._pictures is None:
            why = (
                "this worker does not encode: send image_ref with ec_transfer_params, or ask one with stage encode"
                if self._tokenizer.image is not None
                else "this worker's model takes text only"
            )
            raise RequestError(400, why, code="encodes_not", param=where)
        return self._pictures

    async def _parsed(self, request: Request, read: Callable[[bytes], T]) -> T:
        data, request.body = request.body, b""  # pictures in it need not outlive their encoding
        try:
            return read(data) if len(data) < LARGE_BODY_BYTES else await asyncio.to_thread(read, data)
        except RecursionError:
            # What could just be parsed is looked through once more by checks and the chat template.
            raise RequestError(400, "the request body is nested too deeply", code="invalid_json") from None

    def _read_encode(self, data: bytes) -> EncodeRequest:
        body = parse_body(data)
        self._check_model(body)
        return parse_encode(body)

    def _check_model(self, body: dict[str, Any]) -> None:
        model = body.get("model")
        if model not in (None, "", self._model):
            raise RequestError(
                404,
                f"model {model!r:.80} is not served here; this worker serves {self._model!r}",
                code="model_not_found",
                param="model",
            )

    def _read(self, data: bytes, chat: bool) -> Generation:
        if self._config.stages == {Stage.ENCODE}:
            raise RequestError(400, "this worker only encodes pictures: send them to /v1/encode")
        body = parse_body(data)
        self._check_model(body)
        generation = parse_generation(body, chat=chat, tokenizer=self._tokenizer, max_model_len=self._longest())
        if not generation.hold and Stage.DECODE not in self._config.stages:
            raise RequestError(
                400, "this is a prefill worker: send kv_transfer_params with do_remote_decode, or ask a decode worker"
            )
        return generation

    def _pick_rank(self, header: str | None) -> int:
        count = len(self._engines)
        if header is not None:
            if not _RANK.fullmatch(header) or int(header) >= count:
                raise RequestError(
                    400, f"X-data-parallel-rank {header!r} is out of range [0, {count})", param="X-data-parallel-rank"
                )
            return int(header)
        self._next_rank = (self._next_rank + 1) % count
        order = [(self._next_rank + i) % count for i in range(count)]
        return min(order, key=lambda rank: (not self._engines[rank].ready, self._engines[rank].in_flight))

    def before_long(self, method: str, path: str, headers: Mapping[str, str], transport: asyncio.Transport) -> None:
        """Refuse a stranger before a long body is here: it would fill the memory. Raises RequestError 401."""
        self._authorize(headers)

    def _authorize(self, headers: Mapping[str, str]) -> None:
        if self._keys:
            self._keys.find(headers.get("authorization", ""))

    def _health(self) -> dict[str, object]:
        engines = [
            {
                "rank": rank,
                "engine_id": e.engine_id,
                "ready": e.ready,
                "kv_tokens": e.kv_tokens,
                "embedding_tokens": e.embedding_tokens,
                "build": self._build(e).to_dict(),
                "pid": e.pid,
                "restarts": e.restarts,
            }
            for rank, e in enumerate(self._engines)
        ]
        # Changes when any rank was restarted: what a router knew of this worker's caches is void then.
        identity = "+".join(e.engine_id or "starting" for e in self._engines)
        return {"status": "ok", "name": self._config.name, "engine_id": identity, "engines": engines}

    def _build(self, engine: EngineClient) -> EngineBuild:
        config = self._config
        return EngineBuild(
            engine=config.engine,
            version=__version__,
            model=self._model,
            dtype=config.dtype,
            block_size=config.block_size,
            layout=LAYOUT_NAME,
            tensor_parallel=1,
            ticket_version=TICKET_VERSION,
            transports=config.transports(),
            fingerprint=engine.fingerprint,
        )

    def _longest(self) -> int:
        """Return the tokens that prompt and answer may have together: one sequence alone must fit a rank's pool."""
        return min(self._max_model_len, *(engine.kv_tokens or self._max_model_len for engine in self._engines))

    def _model_card(self) -> dict[str, object]:
        return {
            "id": self._model,
            "object": "model",
            "created": self._created,
            "owned_by": "tercet",
            "root": self._model,
            "parent": None,
            "max_model_len": self._longest(),
            "vocab_size": self._tokenizer.vocab_size,
            "engine": self._config.engine,
            "dtype": self._config.dtype,
        }


def _is_id(ticket_id: object) -> TypeGuard[str]:
    """True for what can be a ticket's name: one that is no Unicode can't even be sent to an engine."""
    return isinstance(ticket_id, str) and ticket_id.isascii()


async def _send(responder: Responder, status: int, data: dict[str, object]) -> None:
    await responder.send(status, json.dumps(data).encode())
