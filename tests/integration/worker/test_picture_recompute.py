"""A decode worker that must compute a prompt itself gets its pictures' embeddings from the encoder, or says so."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tercet.core.image_ticket import ImageTicket
from tercet.core.ticket import Ticket
from tercet.engine.models.random_model import random_model_folder
from tercet.worker.encoded_picture import PictureGroup
from tercet.worker.engine_client import EngineClient
from tests.integration.worker.seeing import (
    config,
    encode,
    generate,
    image_stats,
    key_of,
    pixels_of,
    prompt,
    running,
    settles,
    until,
)

NAMES = ("red square", "blue circle", "red square")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model_folder("tiny-llava", tmp_path_factory.mktemp("models")).path


@pytest.fixture
async def epd(folder: Path) -> AsyncIterator[list[EngineClient]]:
    """An encoder, a prefill worker whose leases last a second, a decode worker with room for two answers."""
    async with running(
        config(folder, "encode"),
        config(folder, "prefill", lease_s=1.0),
        config(folder, "decode", kv_blocks=16),
    ) as engines:
        yield engines


async def prefilled(encoder: EngineClient, prefill: EngineClient, *names: str, salt: str = "") -> Ticket:
    tickets = [(await encode(encoder, name, 2)).ticket for name in names]
    return (await generate(prefill, **prompt(names, tickets), hold=True, salt=salt)).ticket


async def right_answer(encoder: EngineClient, prefill: EngineClient, decode: EngineClient, count: int) -> list[int]:
    """Return the tokens of an answer whose KV was handed on."""
    ticket = await prefilled(encoder, prefill, *NAMES)
    sink = await generate(decode, ticket=ticket, count=count, salt="right")
    assert sink.deltas[0].origin is not None and sink.deltas[0].origin.external_tokens == len(ticket.token_ids)
    assert image_stats(decode)["misses"] == 0
    return sink.tokens


async def test_a_ticket_that_expired(epd: list[EngineClient]) -> None:
    encoder, prefill, decode = epd
    want = await right_answer(encoder, prefill, decode, 8)
    ticket = await prefilled(encoder, prefill, *NAMES, salt="late")
    await until(lambda: prefill.stats["handoffs"]["expired"] == 1)
    sink = await generate(decode, ticket=ticket, salt="late")
    origin = sink.deltas[0].origin
    assert sink.tokens == want and origin is not None and origin.recomputed and origin.external_tokens == 0
    # Two pictures, one of them twice: two reads. Nothing is held afterwards.
    await settles(decode, misses=2, blocks_in_use=0)
    await settles(encoder, held=0, encoded=2)
    assert image_stats(encoder)["handoffs"]["expired"] == 0


@pytest.mark.slow
async def test_a_prefill_engine_that_is_gone(epd: list[EngineClient]) -> None:
    encoder, prefill, decode = epd
    want = await right_answer(encoder, prefill, decode, 8)
    ticket = await prefilled(encoder, prefill, *NAMES, salt="gone")
    await prefill.close()
    sink = await generate(decode, ticket=ticket, salt="gone")
    assert sink.tokens == want
    await settles(decode, misses=2, blocks_in_use=0)
    await settles(encoder, held=0)


async def test_preemption_with_the_prefix_gone(epd: list[EngineClient]) -> None:
    """Two answers that outgrow D's pool together: the later one loses its blocks, and its pictures with them."""
    encoder, prefill, decode = epd
    count = 110
    want = await right_answer(encoder, prefill, decode, count)
    tickets = [await prefilled(encoder, prefill, *NAMES, salt=salt) for salt in "ab"]
    sinks = await asyncio.gather(
        *(generate(decode, ticket=ticket, count=count, salt=salt) for ticket, salt in zip(tickets, "ab", strict=True))
    )
    assert [sink.tokens for sink in sinks] == [want, want]
    await until(lambda: decode.stats["preemptions"] >= 1 and decode.stats["blocks_in_use"] == 0)
    assert image_stats(decode)["misses"] >= 1, "the preempted prompt was computed from fresh embeddings"
    assert image_stats(decode)["blocks_in_use"] == 0
    await settles(encoder, held=0, encoded=2)
    assert image_stats(encoder)["handoffs"]["expired"] == 0


async def test_pictures_that_are_gone_too_are_asked_for_before_the_first_token(epd: list[EngineClient]) -> None:
    encoder, prefill, decode = epd
    want = await right_answer(encoder, prefill, decode, 8)
    ticket = await prefilled(encoder, prefill, *NAMES, salt="both")
    for image in ticket.images:
        assert image.ticket is not None
        encoder.release_image(image.ticket.id)
    await until(lambda: prefill.stats["handoffs"]["expired"] == 1)
    refused = await generate(decode, ticket=ticket, salt="both")
    refusal = refused.refusal
    assert refusal is not None and (refusal.status, refusal.code) == (409, "images_needed")
    assert refusal.param in ("0,2", "1") and refused.tokens == []
    await until(lambda: decode.stats["blocks_in_use"] == 0)
    # What a router does then: it has them encoded, and asks again, with the same dead ticket for the rest.
    again = prompt(NAMES, [(await encode(encoder, name, 1)).ticket for name in NAMES])
    answered = await generate(decode, ticket=ticket, images=again["images"], salt="both")
    assert answered.tokens == want
    await settles(encoder, held=0)


@pytest.mark.slow
async def test_an_encoder_that_is_gone_in_the_middle_of_an_answer(epd: list[EngineClient]) -> None:
    encoder, prefill, decode = epd
    tickets = [await prefilled(encoder, prefill, *NAMES, salt=salt) for salt in "ab"]
    await encoder.close()
    first, second = await asyncio.gather(
        *(generate(decode, ticket=ticket, count=110, salt=salt) for ticket, salt in zip(tickets, "ab", strict=True))
    )
    assert len(first.tokens) == 110 and first.refusal is None
    assert 1 <= len(second.tokens) < 110 and second.refusal is not None and second.refusal.code == "images_needed"
    await until(lambda: decode.stats["blocks_in_use"] == 0 and image_stats(decode)["blocks_in_use"] == 0)


@pytest.mark.slow
async def test_whoever_leaves_leaves_nothing(epd: list[EngineClient]) -> None:
    """Requests end at any moment: while they are encoded, read, computed, handed on."""
    encoder, prefill, decode = epd
    chance = random.Random(7)

    async def request(number: int) -> None:
        names = [f"picture {chance.randrange(12)}" for _ in range(chance.randrange(1, 4))]
        released: list[str] = []

        async def ticket_of(name: str) -> ImageTicket:
            ticket = (await encode(encoder, name, 2)).ticket
            released.append(ticket.id)
            return ticket

        try:
            tickets = await asyncio.gather(*map(ticket_of, names))
            held = await generate(prefill, **prompt(names, tickets), hold=True, salt=str(number))
            await generate(decode, ticket=held.ticket, count=4, salt=str(number))
        finally:
            for ticket_id in released:  # as a router does on every exit
                encoder.release_image(ticket_id)

    async def impatient(number: int) -> None:
        task = asyncio.create_task(request(number))
        await asyncio.wait({task}, timeout=chance.random() * 0.08)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    for start in range(0, 60, 12):
        await asyncio.gather(*(impatient(number) for number in range(start, start + 12)))
    want = await right_answer_of_new(encoder, prefill, decode)
    assert len(want) == 8
    await settles(encoder, held=0, blocks_in_use=0, waiting=0)
    await settles(prefill, held=0, blocks_in_use=0)
    await settles(decode, blocks_in_use=0)
    await until(lambda: prefill.stats["blocks_in_use"] == 0 and decode.stats["blocks_in_use"] == 0)
    assert image_stats(encoder)["handoffs"]["expired"] == 0
    assert encoder.images.under_way == 0


async def right_answer_of_new(encoder: EngineClient, prefill: EngineClient, decode: EngineClient) -> list[int]:
    answer = await encoder.encode_image(key_of("last"), pixels_of("last"), PictureGroup("last", 1, 2))
    held = await generate(prefill, **prompt(["last"], [answer.ticket]), hold=True)
    return (await generate(decode, ticket=held.ticket)).tokens
