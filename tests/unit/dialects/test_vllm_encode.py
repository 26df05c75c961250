"""vLLM's encode legs, without a socket."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tercet.core.route import EncodeShare, NamedPicture, Rank, Route
from tercet.core.stage import Mode, Stage
from tercet.dialects.pictures import Pictures, find_pictures
from tercet.dialects.protocol import Answer, Failure, Leg, Legs, Reply, Step
from tercet.dialects.request import CHAT_PATH, ClientRequest
from tercet.dialects.vllm import VllmDialect
from tercet.dialects.vllm_encode import VllmEncodeExchange, read_embeddings
from tests.unit.dialects.samples import NIXL_TICKET, D, P, chat_answer, sent_body

E0, E1 = Rank("E", 0, "http://e0:1"), Rank("E", 1, "http://e1:1", 2)
GRID = {"image_grid_thw": [[1, 4, 6]]}


def looking(keys: tuple[str | None, ...], **more: Any) -> ClientRequest:
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": f"data:{i}", "detail": "low"}, "uuid": "theirs"}
        for i in range(len(keys))
    ]
    body = {"model": "m", "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "hm"}]}], **more}
    return ClientRequest(CHAT_PATH, body, b"", (("X-Request-Id", "r1"),), Pictures(body, find_pictures(body, 9), keys))


def published(*names: str, metadata: dict[str, Any] | None = None, **handle: Any) -> Answer:
    items: dict[str, Any] = {}
    for i, name in enumerate(names):
        entry = items.setdefault(name, {"metadata": metadata or {}, "item_indices": [], **handle})
        entry["item_indices"].append(i)
    usage = {"prompt_tokens": 20, "completion_tokens": 0}
    return Answer(200, {}, json.dumps({"choices": [], "usage": usage, "ec_transfer_params": items}).encode())


def body_of(leg: Leg) -> Any:
    return json.loads(sent_body(leg))


def parts_of(leg: Leg) -> list[Any]:
    return list(body_of(leg)["messages"][0]["content"])


def only(step: Step) -> Leg:
    assert isinstance(step, Legs), step
    (leg,) = step.legs
    return leg


def shared(**more: Any) -> tuple[VllmEncodeExchange, Leg, Leg]:
    route = Route(Mode.EPD, D, P, encode=(EncodeShare(E0, (0, 2)), EncodeShare(E1, (1,))))
    exchange = VllmDialect().begin(looking(("k0", None, "k2"), **more), route)
    assert isinstance(exchange, VllmEncodeExchange)
    first, second = exchange.start().legs
    return exchange, first, second


def test_several_answers_are_ds_alone_with_what_e_published() -> None:
    exchange, first, second = shared(n=2)
    exchange.on_answer(first, published("k0", "k2", metadata=GRID))
    decode = only(exchange.on_answer(second, published("p1", metadata=GRID)))
    assert decode.rank == D and body_of(decode)["n"] == 2 and "kv_transfer_params" not in body_of(decode)
    assert [part["type"] for part in parts_of(decode)] == ["image_embeds"] * 3 + ["text"]


def test_encode_legs_hold_media_only_named_by_their_content() -> None:
    _, first, second = shared(max_tokens=7, temperature=0.5, mm_processor_kwargs={"crop": True}, stream=True)
    assert (first.stage, first.url, dict(second.headers)["X-data-parallel-rank"]) == (
        Stage.ENCODE,
        "http://e0:1/v1/chat/completions",
        "2",
    )
    images = [
        {"type": "image_url", "image_url": {"url": f"data:{i}", "detail": "low"}, "uuid": f"k{i}"} for i in (0, 2)
    ]
    assert body_of(first) == {
        "model": "m",
        "mm_processor_kwargs": {"crop": True},
        "messages": [{"role": "user", "content": images}],
        "stream": False,
    }
    # Where only a URL is known nobody's name is taken for it, a client's least of all.
    assert parts_of(second) == [{"type": "image_url", "image_url": {"url": "data:1", "detail": "low"}}]


def test_metadata_takes_a_pictures_place_on_p_and_d() -> None:
    exchange, first, second = shared()
    assert exchange.on_answer(second, published("h1")) == Legs(())
    prefill = only(exchange.on_answer(first, published("k0", "k2", metadata=GRID)))
    expected = [
        {"type": "image_embeds", "image_embeds": GRID, "uuid": "k0"},
        {"type": "image_url", "image_url": {"url": "data:1", "detail": "low"}},
        {"type": "image_embeds", "image_embeds": GRID, "uuid": "k2"},
        {"type": "text", "text": "hm"},
    ]
    assert parts_of(prefill) == expected and body_of(prefill)["max_tokens"] == 1
    assert exchange.pictures() == {0: ("k0", 10), 1: ("h1", 20), 2: ("k2", 10)}
    decode = only(exchange.on_answer(prefill, chat_answer(ticket=NIXL_TICKET)))
    assert parts_of(decode) == expected and body_of(decode)["kv_transfer_params"] == NIXL_TICKET
    assert not exchange.pictures(), "a consumer's encoder cache may have dropped them"
    release, _nudge = exchange.on_exit(accepted=False)
    assert release.rank == D and body_of(release)["kv_transfer_params"] == NIXL_TICKET


def test_a_consumer_without_embeds_gets_the_pictures_once_more() -> None:
    exchange, first, second = shared()
    exchange.on_answer(second, published("h1"))
    prefill = only(exchange.on_answer(first, published("k0", "k2", metadata=GRID)))
    refusal = Answer(400, {}, b'{"error": {"message": "You must set `--enable-mm-embeds` to input `image_embeds`"}}')
    again = only(exchange.on_answer(prefill, refusal))
    assert [part["type"] for part in parts_of(again)] == ["image_url"] * 3 + ["text"]
    assert isinstance(exchange.on_answer(again, refusal), Reply), "but not for ever"


def test_the_connectors_handles_go_to_the_consumer_as_they_came() -> None:
    exchange, first, second = shared()
    exchange.on_answer(second, published("h1"))
    prefill = only(exchange.on_answer(first, published("k0", "k2", peer_host="h", peer_port=3)))
    handle = {"peer_host": "h", "peer_port": 3}
    assert body_of(prefill)["ec_transfer_params"] == {"k0": handle, "k2": handle}
    decode = only(exchange.on_answer(prefill, chat_answer(ticket=NIXL_TICKET)))
    assert "ec_transfer_params" not in body_of(decode)


def test_own_processing_keeps_the_picture() -> None:
    exchange, first, second = shared(mm_processor_kwargs={"crop": True})
    exchange.on_answer(second, published("h1"))
    prefill = only(exchange.on_answer(first, published("h0", "h2", metadata=GRID)))
    assert [part["type"] for part in parts_of(prefill)] == ["image_url"] * 3 + ["text"]


def test_what_is_named_or_inline_goes_as_a_picture() -> None:
    for route in (
        Route(Mode.EPPD, D, named=(NamedPicture(0, "k0", 3),)),
        Route(Mode.PD, D, P, inline=(0,)),
    ):
        leg = only(VllmDialect().begin(looking(("k0",)), route).start())
        assert leg.make is not None and not leg.body
        assert parts_of(leg)[0] == {
            "type": "image_url",
            "image_url": {"url": "data:0", "detail": "low"},
            "uuid": "k0",
        }


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(400, {}, b'{"error": {"message": "Failed to load image"}}'), Reply),
        (Answer(503, {}, b"{}"), Failure),
        (Answer(200, {}, b'{"choices": [], "ec_transfer_params": null}'), Failure),
        (Answer(200, {}, b"nonsense"), Failure),
        (Answer(200, {}, b'{"choices": [{"finish_reason": "error"}]}'), Failure),
        (published("k0"), Failure),
        (published("k0", "k1", "k2"), Failure),
    ],
)
def test_other_answers_of_an_encoder(answer: Answer, kind: type[Step]) -> None:
    exchange, first, _ = shared()
    step = exchange.on_answer(first, answer)
    assert isinstance(step, kind)
    if isinstance(step, Failure):
        assert step.retry and step.rank == E0
    assert exchange.on_exit(False) == ()


def test_the_same_picture_twice_is_one_embedding() -> None:
    found = read_embeddings(published("k", "k").body, 2)
    assert [item.hash for item in found] == ["k", "k"] and found[0].tokens == 10


def test_the_probe_wants_an_embedding() -> None:
    probe = VllmDialect().prove_encoder("data:x", E1, ())
    leg = only(probe.start())
    assert parts_of(leg) == [{"type": "image_url", "image_url": {"url": "data:x"}}]
    assert isinstance(probe.on_answer(leg, published("h")), Reply)
    step = probe.on_answer(leg, Answer(200, {}, b"{}"))
    assert isinstance(step, Failure) and "ec_producer" in step.error.message
    assert isinstance(probe.on_answer(leg, Answer(500, {}, b"{}")), Failure)
    assert not probe.pictures() and not probe.on_exit(True)
