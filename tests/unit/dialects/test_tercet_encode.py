"""The built-in engine's encode legs, without a socket."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tercet.core.errors import RequestError
from tercet.core.route import EncodeShare, NamedPicture, Rank, Route
from tercet.core.stage import Mode, Stage
from tercet.dialects.pictures import Pictures, find_pictures
from tercet.dialects.protocol import Answer, Failure, Leg, Legs, PicturesNeeded, Reply, Step
from tercet.dialects.request import CHAT_PATH, ClientRequest
from tercet.dialects.tercet import TercetDialect
from tercet.dialects.tercet_encode import TercetEncodeExchange
from tests.unit.dialects.samples import TICKET, D, P, chat_answer, sent_body

E0, E1 = Rank("E", 0, "http://e0:1"), Rank("E", 1, "http://e1:1", 2)
DIALECT = TercetDialect()


def looking(count: int, **more: Any) -> ClientRequest:
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": f"data:{i}", "detail": "low"}} for i in range(count)
    ]
    body = {"model": "m", "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "hm"}]}], **more}
    return ClientRequest(CHAT_PATH, body, b"", (("X-Request-Id", "r1"),), Pictures(body, find_pictures(body, 9)))


def encoded(*indices: int) -> Answer:
    data = [
        {"index": i, "key": f"k{i}", "tokens": 10 + i, "ticket": {"ticket_id": f"t{i}", "deep": [i]}} for i in indices
    ]
    return Answer(200, {}, json.dumps({"object": "list", "data": data}).encode())


def body_of(leg: Leg) -> Any:
    return json.loads(sent_body(leg))


def contents(leg: Leg) -> list[Any]:
    return [part[part["type"]] for part in body_of(leg)["messages"][0]["content"][:-1]]


def only(step: Step) -> Leg:
    assert isinstance(step, Legs), step
    (leg,) = step.legs
    return leg


def shared(prefill: Rank | None = P, **more: Any) -> tuple[TercetEncodeExchange, Leg, Leg]:
    route = Route(Mode.EPD, D, prefill, encode=(EncodeShare(E0, (0, 2)), EncodeShare(E1, (1,))), **more)
    exchange = DIALECT.begin(looking(3), route)
    assert isinstance(exchange, TercetEncodeExchange)
    first, second = exchange.start().legs
    return exchange, first, second


@pytest.mark.parametrize(("prefill", "readers"), [(P, 2), (None, 1)])
def test_encode_legs_go_side_by_side_and_are_joined_in_order(prefill: Rank | None, readers: int) -> None:
    exchange, first, second = shared(prefill)
    assert (first.stage, first.url, second.rank) == (Stage.ENCODE, "http://e0:1/v1/encode", E1)
    images = [{"index": i, "where": f"messages[0].content[{i}]", "url": f"data:{i}"} for i in (0, 2)]
    assert body_of(first) == {"model": "m", "readers": readers, "images": images}
    assert dict(second.headers)["X-data-parallel-rank"] == "2"
    assert exchange.on_answer(second, encoded(1)) == Legs(())
    leg = only(exchange.on_answer(first, encoded(2, 0)))
    assert leg.rank == (prefill or D)
    body = body_of(leg)
    assert contents(leg) == [{"key": f"k{i}", "tokens": 10 + i} for i in range(3)]
    assert [image["ticket_id"] for image in body["ec_transfer_params"]["images"]] == ["t0", "t1", "t2"]
    assert ("kv_transfer_params" in body) == (prefill is not None)
    assert exchange.pictures() == {0: ("k0", 10), 1: ("k1", 11), 2: ("k2", 12)}


def test_d_gets_neither_pictures_nor_their_names_with_a_ticket_of_the_prompt() -> None:
    exchange, first, second = shared()
    exchange.on_answer(second, encoded(1))
    prefill = only(exchange.on_answer(first, encoded(0, 2)))
    exchange._pictures.drop()  # what is still to be sent needs no bytes
    decode = only(exchange.on_answer(prefill, chat_answer(ticket=TICKET)))
    assert contents(decode) == [{}] * 3
    body = body_of(decode)
    assert body["kv_transfer_params"] == TICKET and "ec_transfer_params" not in body
    assert exchange.on_exit(True) == ()


def test_what_nobody_accepted_is_released_everywhere_and_once() -> None:
    exchange, first, second = shared()
    exchange.on_answer(second, encoded(1))
    assert [(leg.rank, leg.path, body_of(leg)) for leg in exchange.on_exit(False)] == [
        (E1, "/ec/release", {"ticket_ids": ["t1"]})
    ]
    # A late answer of a leg that was given up.
    exchange.on_answer(first, encoded(0, 2))
    assert [body_of(leg) for leg in exchange.on_exit(False)] == [{"ticket_ids": ["t0", "t2"]}]
    assert exchange.on_exit(False) == ()


def test_named_and_inline_pictures() -> None:
    named = (NamedPicture(0, "k", 7),)
    exchange = DIALECT.begin(looking(2), Route(Mode.EPD, D, P, encode=(EncodeShare(E0, (1,)),), named=named))
    prefill = only(exchange.on_answer(only(exchange.start()), encoded(1)))
    assert contents(prefill) == [{"key": "k", "tokens": 7}, {"key": "k1", "tokens": 11}]
    assert [bool(image) for image in body_of(prefill)["ec_transfer_params"]["images"]] == [False, True]
    inline = only(DIALECT.begin(looking(2), Route(Mode.PD, D, P, inline=(0, 1))).start())
    assert inline.make is not None and not inline.body, "the bytes are not kept twice"
    assert contents(inline) == [{"url": f"data:{i}", "detail": "low"} for i in range(2)]
    straight = only(DIALECT.begin(looking(1), Route(Mode.PPD, D, named=named)).start())
    assert contents(straight) == [{"key": "k", "tokens": 7}] and "ec_transfer_params" not in body_of(straight)


def test_the_tickets_pictures_are_learnt() -> None:
    exchange = DIALECT.begin(looking(1), Route(Mode.PD, D, P, inline=(0,)))
    images = [{"key": "k", "start": 3, "length": 9, "ticket": None}]
    exchange.on_answer(only(exchange.start()), chat_answer(ticket={**TICKET, "images": images}))
    assert exchange.pictures() == {0: ("k", 9)}


def needed(param: object) -> Answer:
    return Answer(409, {}, json.dumps({"error": {"message": "x", "code": "images_needed", "param": param}}).encode())


@pytest.mark.parametrize(
    ("param", "wanted"), [("0,2", (0, 2)), ("2", (2,)), (None, (0, 1, 2)), ("7", (0, 1, 2)), ("x", (0, 1, 2))]
)
def test_a_rank_says_which_pictures_it_lacks(param: object, wanted: tuple[int, ...]) -> None:
    exchange, first, second = shared()
    exchange.on_answer(second, encoded(1))
    prefill = only(exchange.on_answer(first, encoded(0, 2)))
    assert exchange.on_answer(prefill, needed(param)) == PicturesNeeded(P, wanted)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(400, {}, b'{"error": {"message": "picture 0: no picture"}}'), Reply),
        (Answer(503, {}, b"{}"), Failure),
        (Answer(200, {}, b"{}"), Failure),
        (Answer(200, {}, b"nonsense"), Failure),
        (encoded(0), Failure),
        (encoded(0, 1), Failure),
    ],
)
def test_other_answers_of_an_encoder(answer: Answer, kind: type[Step]) -> None:
    exchange, first, _ = shared()
    step = exchange.on_answer(first, answer)
    assert isinstance(step, kind)
    if isinstance(step, Failure):
        assert step.retry and step.rank == E0
    held = [i for leg in exchange.on_exit(False) for i in body_of(leg)["ticket_ids"]]
    assert len(held) == answer.body.count(b"ticket_id"), "wrong or not, what E holds is released"


def test_bytes_are_gone_once_dropped_and_the_body_never_held_them() -> None:
    request = looking(2)
    assert request.pictures is not None and "data:" not in json.dumps(request.body)
    request.pictures.drop()
    assert request.pictures.dropped
    with pytest.raises(RuntimeError, match="dropped"):
        request.pictures.url(0)


def test_find_pictures_is_strict_about_what_it_takes_for_one() -> None:
    body = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}] * 3}]}
    assert find_pictures(body, 3) == ((0, 0), (0, 1), (0, 2))
    with pytest.raises(RequestError, match=r"picture 2 .* a request can have 2"):
        find_pictures(body, 2)
    for odd in ({}, {"messages": 3}, {"messages": [3, {"content": [3, {"type": ["x"]}]}, {"content": "text"}]}):
        assert find_pictures(odd, 3) == ()


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ({"image_url": "http://web/one.png", "uuid": "theirs"}, "holds a picture, but has type None"),
        ({"image_url": {"url": "x"}}, "holds a picture, but has type None"),
        ({"type": "text", "text": "a", "image_url": {}, "uuid": "theirs"}, "holds a picture, but has type 'text'"),
        ({"type": "text", "text": "a", "image_url": None, "uuid": "theirs"}, "known by their content alone"),
        ({"type": "text", "text": "a", "image_embeds": {}, "uuid": "theirs"}, "holds a picture, but has type 'text'"),
        ({"type": "image_embeds", "image_embeds": {}}, "send the picture itself"),
        ({"type": "video_url", "video_url": {"url": "x"}, "uuid": "theirs"}, "known by their content alone"),
    ],
)
def test_what_vllm_would_take_for_somebody_elses_picture_is_refused(part: dict[str, Any], why: str) -> None:
    text = {"type": "text", "text": "a", "image_url": None, "image_embeds": None, "uuid": None}
    body = {"messages": [{"role": "user", "content": [text, {"type": "video_url", "video_url": {"url": "x"}}]}]}
    assert find_pictures(body, 3) == ()
    body["messages"].append({"role": "user", "content": [text, part]})
    with pytest.raises(RequestError, match=why) as caught:
        find_pictures(body, 3)
    assert (caught.value.status, caught.value.param) == (400, "messages[1].content[1]")
