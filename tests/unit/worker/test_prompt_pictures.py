"""What requests say of pictures: chats between router and worker, KV tickets, and /v1/encode."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tercet.core.errors import RequestError
from tercet.core.image import ImageInput, ImageSpan
from tercet.core.image_ticket import ImageTicket, blocks_for_rows
from tercet.engine.models.store import random_model_folder
from tercet.text.tokenizer import Tokenizer, load_tokenizer
from tercet.worker.encode_request import cache_header, encode_timing, parse_encode
from tercet.worker.encoded_picture import EncodedPicture
from tercet.worker.openai_request import Generation, parse_generation
from tercet.worker.prompt_pictures import prompt_images
from tercet.worker.wire import ImageAnswer
from tests.unit.worker.test_wire import TICKET

TOKENS = 16


def ticket(key: str, tokens: int = TOKENS) -> ImageTicket:
    return ImageTicket(f"t-{key}", key, "e", 0, "f", tokens, tuple(range(blocks_for_rows(tokens))), "c", {}, 30.0, 99.0)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(random_model_folder("tiny-llava").path)


def parse(tokenizer: Tokenizer, *parts: dict[str, Any] | str, room: int = 200, **fields: Any) -> Generation:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    body = {"messages": [{"role": "user", "content": content}], **fields}
    return parse_generation(body, chat=True, tokenizer=tokenizer, max_model_len=room)


def url(text: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": text}}


def ref(key: str | None = None, tokens: int | None = None) -> dict[str, Any]:
    return {"type": "image_ref", "image_ref": {"key": key, "tokens": tokens}}


def tickets(*given: ImageTicket | None) -> dict[str, Any]:
    return {"images": [None if item is None else item.to_params() for item in given]}


def test_pictures_are_placed_and_keyed(tokenizer: Tokenizer) -> None:
    got = parse(
        tokenizer,
        "one",
        url("http://a"),
        ref("K1", TOKENS),
        "two",
        ref(),
        ec_transfer_params=tickets(None, None, ticket("K2")),
    )
    assert [(p.url, p.key, p.ticket and p.ticket.key) for p in got.pictures] == [
        ("http://a", "", None),
        (None, "K1", None),
        (None, "K2", "K2"),
    ]
    assert tokenizer.image is not None
    for picture in got.pictures:
        span = got.prompts[0][picture.start : picture.start + picture.length]
        assert span == (tokenizer.image.id,) * TOKENS
    own = EncodedPicture("K0", ImageAnswer(ticket("K0"), "miss", 0, 0), 0, 0)
    images = prompt_images(got.pictures, [own])
    assert [image.span.key for image in images] == ["K0", "K1", "K2"]
    assert [image.ticket and image.ticket.key for image in images] == ["K0", None, "K2"]
    assert replace(got, images=images).image_tokens == 3 * TOKENS


def test_the_context_counts_every_token_of_a_picture(tokenizer: Tokenizer) -> None:
    alone = len(parse(tokenizer, url("u")).prompts[0])
    assert parse(tokenizer, url("u"), room=alone + 5).sampling.max_tokens == 5
    with pytest.raises(RequestError, match="maximum context length") as caught:
        parse(tokenizer, url("u"), room=alone)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("parts", "params", "code", "words"),
    [
        ([ref()], None, None, "names no picture"),
        ([ref("K", 5)], None, "ticket_mismatch", "5 tokens; this model's pictures have 16"),
        ([ref("K")], tickets(ticket("L")), "ticket_mismatch", "another picture's"),
        ([ref("K")], tickets(ticket("K", 5)), "ticket_mismatch", "another model's"),
        ([ref("K")], tickets(), None, "a list of 1 images"),
        ([url("u")], tickets(ticket("K")), "ticket_mismatch", "another picture's"),
        ([ref("K")], {"images": [{"version": 99}]}, "ticket_mismatch", "version 99"),
        ([ref("K")], {"images": ["x"]}, "ticket_mismatch", "is an object"),
        ([ref("K")], {"images": [{**ticket("K").to_params(), "lease_s": float("nan")}]}, "ticket_mismatch", "lease"),
        ([ref("K")], "x", None, "ec_transfer_params must be an object"),
    ],
)
def test_what_does_not_fit_is_refused(
    tokenizer: Tokenizer, parts: list[dict[str, Any]], params: object, code: str | None, words: str
) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        parse(tokenizer, *parts, ec_transfer_params=params)
    assert (caught.value.status, caught.value.code) == (400, code)


def test_a_kv_ticket_brings_its_pictures_and_newer_tickets_win(tokenizer: Tokenizer) -> None:
    images = tuple(ImageInput(ImageSpan(key, start, 1), ticket(key, 1)) for start, key in enumerate("KL"))
    kv = replace(TICKET, images=images)
    got = parse(tokenizer, ref(), ref(), kv_transfer_params=kv.to_params())
    assert prompt_images(got.pictures, ()) == images
    fresh = replace(ticket("L", 1), id="fresh")
    got = parse(tokenizer, ref(), ref(), kv_transfer_params=kv.to_params(), ec_transfer_params=tickets(None, fresh))
    assert prompt_images(got.pictures, ()) == (images[0], replace(images[1], ticket=fresh))
    with pytest.raises(RequestError, match="another picture's"):
        parse(tokenizer, ref(), kv_transfer_params=kv.to_params(), ec_transfer_params=tickets(fresh, None))


@pytest.mark.parametrize(
    "images",
    [
        (ImageInput(ImageSpan("K", 0, 1), replace(ticket("K", 1), lease_s=float("nan"))),),
        (ImageInput(ImageSpan("K", 0, 1), replace(ticket("K", 1), lease_s=0.0)),),
        (ImageInput(ImageSpan("K", 0, 1), ticket("K", 1)), ImageInput(ImageSpan("K", 1, 2), ticket("K", 2))),
    ],
)
def test_pictures_of_a_kv_ticket_that_could_break_an_engine(
    tokenizer: Tokenizer, images: tuple[ImageInput, ...]
) -> None:
    """By leases that end at no time, and one picture with two sets of rows."""
    with pytest.raises(RequestError) as caught:
        parse(tokenizer, ref(), kv_transfer_params=replace(TICKET, images=images).to_params())
    assert (caught.value.status, caught.value.code) == (400, "ticket_mismatch")


def test_a_blind_model_takes_no_pictures_by_ticket() -> None:
    blind = load_tokenizer(random_model_folder("tiny").path)
    kv = replace(TICKET, images=(ImageInput(ImageSpan("K", 0, 1), None),))
    with pytest.raises(RequestError, match="takes text only"):
        parse(blind, "a", kv_transfer_params=kv.to_params())


def test_bare_prompts_hold_no_pictures(tokenizer: Tokenizer) -> None:
    assert tokenizer.image is not None
    with pytest.raises(RequestError, match="stands for pictures"):
        parse_generation({"prompt": [5, tokenizer.image.id]}, chat=False, tokenizer=tokenizer, max_model_len=100)
    got = parse_generation({"prompt": "a <image> b"}, chat=False, tokenizer=tokenizer, max_model_len=100)
    assert tokenizer.image.id not in got.prompts[0] and not got.pictures


# --- /v1/encode ---


def test_encode_bodies() -> None:
    stood = {"url": "v", "where": "messages[0].content[7]"}
    asked = parse_encode({"readers": 2, "images": [{"index": 3, "url": "data:,a"}, {"url": "u"}, stood]})
    assert asked.readers == 2
    assert [(s.index, s.url, s.where) for s in asked.sources] == [
        (3, "data:,a", "images[0]"),
        (1, "u", "images[1]"),
        (2, "v", "messages[0].content[7]"),
    ]
    assert parse_encode({"images": [{"url": "u"}]}).readers == 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "images"),
        ({"images": []}, "images"),
        ({"images": {"url": "u"}}, "images"),
        ({"images": [{"url": "u"}] * 2000}, "images"),
        ({"images": [{"url": 5}]}, "images[0].url"),
        ({"images": [{"url": "u"}, "u"]}, "images[1].url"),
        ({"images": [{"url": "u", "index": "3"}]}, "images[0].index"),
        ({"images": [{"url": "u", "where": 3}]}, "images[0].where"),
        ({"images": [{"url": "u"}], "readers": 3}, "readers"),
        ({"images": [{"url": "u"}], "readers": 0}, "readers"),
    ],
)
def test_wrong_encode_bodies_are_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_encode(body)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_headers_sum_up() -> None:
    def one(cache: str, queue_s: float, encode_s: float, fetch_s: float, decode_s: float) -> EncodedPicture:
        return EncodedPicture("k", ImageAnswer(ticket("k"), cache, queue_s, encode_s), fetch_s, decode_s)

    got = [one("miss", 0.001, 0.3, 0.5, 0.02), one("hit", 0.002, 0, 0.6, 0), one("miss", 0, 0.4, 0.1, 0.01)]
    assert cache_header(got) == ("X-Tercet-Cache", "hit=1, miss=2")
    assert encode_timing(got) == "fetch;dur=600.00, decode;dur=20.00, queue;dur=2.00, encode;dur=400.00"
    assert encode_timing(got[1:2], "image-").startswith("image-fetch;dur=600.00, image-decode;dur=0.00, ")
