"""How an answer ends when the engine refuses some of its choices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from tercet.core.errors import RequestError
from tercet.core.sampling import SampledToken
from tercet.engine.models.store import random_model_folder
from tercet.http.responder import Responder
from tercet.text.tokenizer import Tokenizer, load_tokenizer
from tercet.worker.answers import AnswerWriter
from tercet.worker.engine_client import EngineClient, Sink
from tercet.worker.generation_run import GenerationRun
from tercet.worker.metrics import RankFigures
from tercet.worker.openai_request import parse_generation
from tercet.worker.wire import Delta, Origin, Refusal, Submission
from tests.unit.worker.test_wire import TICKET

Behaviour = Callable[[int, Submission, Sink], None]
BEGUN = Origin(0, 20, False, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(random_model_folder("tiny").path)


class Engine:
    """Does as `behaviour` says with each submission."""

    fingerprint = "f"

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.submitted: list[Submission] = []
        self._ids = iter("abcdefgh")

    def next_id(self) -> str:
        return next(self._ids)

    async def submit(self, item: Submission, sink: Sink) -> None:
        self.submitted.append(item)
        self.behaviour(len(self.submitted), item, sink)

    def cancel(self, sequence_id: str) -> None:
        """See EngineClient."""


class Client:
    """A connection that keeps what is written; its own transport."""

    source = None
    writing_paused = False

    def __init__(self) -> None:
        self.data = b""

    @property
    def transport(self) -> Client:
        return self

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.data += data

    def answered(self, responder: Responder, *, keep_alive: bool) -> None:
        """See Channel."""


async def answer(tokenizer: Tokenizer, engine: Engine, figures: RankFigures, **fields: Any) -> bytes:
    """Return what the client reads of an answer with choices of which the first fetches the KV of all."""
    body = {"kv_transfer_params": TICKET.to_params(), "max_tokens": 5, **fields}
    g = parse_generation(body, chat=False, tokenizer=tokenizer, max_model_len=100)
    writer, client = AnswerWriter("id", "m", g, tokenizer), Client()
    run = GenerationRun(g, cast(EngineClient, engine), tokenizer, "r", writer, figures, started=0.0)
    async with asyncio.timeout(60):
        await run.run(Responder(cast(Any, client), "POST", http10=False, keep_alive=True))
    return client.data


def ends(figures: RankFigures) -> dict[str, int]:
    return {
        labels["finished_reason"]: count for name, _, labels, count in figures.counters() if "request_success" in name
    }


async def test_a_stream_whose_later_choices_find_no_engine_ends_with_an_error_event(tokenizer: Tokenizer) -> None:
    """The engine died between the first choice's first token and the others' start."""

    def behaviour(number: int, item: Submission, sink: Sink) -> None:
        if number > 1:
            raise RequestError(503, "the engine is starting", code="starting")
        sink.delta(Delta(item.id, SampledToken(9), None, BEGUN), 0.0)

    figures = RankFigures()
    data = await answer(tokenizer, Engine(behaviour), figures, n=3, stream=True)
    assert data.startswith(b"HTTP/1.1 200")
    assert b'"code":"starting"' in data and data.index(b'"error"') < data.index(b"data: [DONE]\n\n")
    assert data.endswith(b"\r\n0\r\n\r\n"), "the answer is whole"
    assert ends(figures) == {"stop": 0, "length": 0, "abort": 0, "error": 3}


async def test_when_the_first_choice_is_refused_the_others_are_not_submitted(tokenizer: Tokenizer) -> None:
    def behaviour(number: int, item: Submission, sink: Sink) -> None:
        sink.delta(Delta(item.id, None, "error", refusal=Refusal(400, "no", "ticket_mismatch")), 0.0)

    engine, figures = Engine(behaviour), RankFigures()
    with pytest.raises(RequestError, match="no") as caught:
        await answer(tokenizer, engine, figures, n=3)
    assert (caught.value.status, caught.value.code) == (400, "ticket_mismatch")
    assert len(engine.submitted) == 1
    assert ends(figures)["error"] == 3


async def test_an_engine_that_is_not_up_is_an_error_not_a_client_that_left(tokenizer: Tokenizer) -> None:
    def behaviour(number: int, item: Submission, sink: Sink) -> None:
        raise RequestError(503, "the engine is starting", code="starting")

    figures = RankFigures()
    with pytest.raises(RequestError, match="starting") as caught:
        await answer(tokenizer, Engine(behaviour), figures)
    assert caught.value.status == 503
    assert ends(figures) == {"stop": 0, "length": 0, "abort": 0, "error": 1}
