"""Pictures through real engine processes: encoded here or elsewhere, by every transport, once each."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tercet.core.errors import RequestError
from tercet.engine.models.random_model import random_model_folder
from tercet.worker.encoded_picture import PictureGroup
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
from tests.unit.transfer.transports import FAR, usable


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model_folder("tiny-llava", tmp_path_factory.mktemp("models")).path


async def test_a_picture_is_encoded_once_and_used_in_place(folder: Path) -> None:
    async with running(config(folder, "encode", "prefill", "decode")) as (whole,):
        first = await encode(whole, "cat")
        assert (first.cache, first.ticket.tokens) == ("miss", 16) and first.encode_s > 0
        one = await generate(whole, **prompt(["cat"], [first.ticket]))
        again = await encode(whole, "cat")
        assert again.cache == "hit" and again.ticket.block_ids == first.ticket.block_ids
        two = await generate(whole, **prompt(["cat"], [again.ticket]), salt="x")
        other = await generate(whole, **prompt(["dog"], [(await encode(whole, "dog")).ticket]))
        assert one.tokens == two.tokens != other.tokens and len(one.tokens) == 8
        await settles(whole, held=0, blocks_in_use=0, encoded=2, hits=1, misses=2)
        # Its KV is in the prefix cache: a picture wholly inside that needs no embeddings, so no ticket.
        assert await whole.lookup_image(key_of("none"), PictureGroup("none", 1, 1)) is None
        third = await generate(whole, **prompt(["cat"]))
        assert third.tokens == one.tokens


async def test_a_picture_that_nobody_has_is_asked_for(folder: Path) -> None:
    async with running(config(folder, "prefill", "decode")) as (blind,):
        sink = await generate(blind, **prompt(["cat", "dog", "cat"]))
        refusal = sink.refusal
        assert refusal is not None and (refusal.status, refusal.code) == (409, "images_needed")
        assert refusal.param == "0,1,2" and sink.tokens == []
        with pytest.raises(RequestError, match="does not encode"):
            await blind.encode_image("k", pixels_of("k"), PictureGroup("k", 1, 1))
        await until(lambda: blind.stats["blocks_in_use"] == 0)


@pytest.mark.parametrize("transport", ["shm", pytest.param("tcp", marks=pytest.mark.slow), *FAR])
async def test_encode_prefill_decode_over(folder: Path, transport: str) -> None:
    ways = {"transports": (usable(transport),)}
    whole, e, p, d = (
        config(folder, "encode", "prefill", "decode"),
        *(config(folder, stage, **ways) for stage in ("encode", "prefill", "decode")),
    )
    names = [f"picture {i}" for i in range(4)] + ["picture 0"]
    async with running(whole, e, p, d) as (w, encoder, prefill, decode):
        local = [(await encode(w, name)).ticket for name in names]
        want = (await generate(w, **prompt(names, local))).tokens
        answers = await asyncio.gather(*(encode(encoder, name, 2) for name in names))
        assert sorted(answer.cache for answer in answers) in (
            ["joined", "miss", "miss", "miss", "miss"],
            ["hit", "miss", "miss", "miss", "miss"],
        )
        held = await generate(prefill, **prompt(names, [answer.ticket for answer in answers]), hold=True)
        ticket = held.ticket
        assert [image.ticket for image in ticket.images] == [answer.ticket for answer in answers]
        sink = await generate(decode, ticket=ticket)
        assert sink.tokens == want
        # P and D have ended their shares: nothing of the encoder's is held any more.
        await settles(encoder, held=0, encoded=4)
        assert image_stats(encoder)["handoffs"]["expired"] == 0
        await settles(prefill, blocks_in_use=0, misses=4)
        assert image_stats(decode)["bytes"] == 0, "D reads KV, not embeddings"
        # P has the embeddings now: the same pictures need no ticket.
        again = await generate(prefill, **prompt(names), hold=True, salt="other")
        assert again.ticket.first.token == want[0]
        assert all(image.ticket is not None for image in again.ticket.images), "P hands its own on"
        assert (await generate(decode, ticket=again.ticket)).tokens == want
        await settles(prefill, held=0, blocks_in_use=0)
