"""Requests with pictures through the router, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest

from tercet.http.client import ClientError
from tests.ports import free_port
from tests.unit.router.fake_vision import WEB, key_of
from tests.unit.router.harness import Got, Setup, part, routing, until

ONE, TWO, THREE = b"one", b"two", b"three"
URL = next(iter(WEB))


async def whole(setup: Setup, *turns: Sequence[str | bytes], **extra: Any) -> str:
    """The answer's text: what every route must give alike."""
    got = await setup.look(*turns, max_tokens=3, **extra)
    assert got.status == 200, got.body
    return got.streamed if extra.get("stream") else got.text


CONVERSATION: tuple[Sequence[str | bytes], ...] = (
    [ONE, "what is this"],
    "an answer",
    ["and", TWO, "and", URL],
    "well",
    [ONE, "is that", THREE],
)


@pytest.fixture
async def expected() -> AsyncIterator[list[str]]:
    async with routing("A", "aggregated", seeing="local") as setup:
        yield [await whole(setup, *CONVERSATION[: turn + 1]) for turn in (0, 2, 4)]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("letters", "mode", "seeing", "first"),
    [
        ("PD", "pd", "local", "P0>D0"),
        ("PD", "ppd", "local", "P0>D0"),
        ("EPD", "epd", "apart", "E0>P0>D0"),
        ("EPD", "eppd", "apart", "E0>P0>D0"),
        ("EEEPPDD", "epd", "apart", None),
        ("EEEPPDD", "eppd", "apart", None),
        ("EA", "epd", "apart", "E0>A0"),
        ("EEA", "eppd", "apart", None),
        ("EEPDA", "pd", "local", "P0>D0"),
    ],
)
async def test_the_same_answers_in_every_mode(
    letters: str, mode: str, seeing: str, first: str | None, stream: bool, expected: list[str]
) -> None:
    async with routing(letters, mode, seeing=seeing) as setup:
        for turn, answer in zip((0, 2, 4), expected, strict=True):
            got = await setup.look(*CONVERSATION[: turn + 1], max_tokens=3, stream=stream)
            assert (got.status, got.streamed if stream else got.text) == (200, answer), got.body
            if first and not turn:
                assert got.route == first
            await setup.idle()
        words = await setup.chat("text alone", max_tokens=2)
        assert words.status == 200 and "E" not in words.route
        await setup.idle()


async def test_text_and_what_p_holds_skip_e() -> None:
    async with routing("EPD", "epd", seeing="apart") as setup:
        (encoder,), (prefill,) = setup.seeing("E"), setup.seeing("P")
        first = await setup.look([ONE, TWO, "hm"])
        assert first.route == "E0>P0>D0" and first.headers["x-tercet-cache"] == "miss=2"
        timing = first.headers["server-timing"]
        assert all(word in timing for word in ("encode-leg;dur=", "e-encode;dur=5.00", "prefill-leg", "decode-leg"))
        again = await setup.look([TWO, ONE, "other words"])
        assert again.route == "P0>D0" and again.headers["x-tercet-cache"] == "held=2"
        assert encoder.encoded == [key_of(ONE), key_of(TWO)] and len(encoder.asked) == 1
        more = await setup.look([TWO, THREE, "hm"])
        assert more.route == "E0>P0>D0" and more.headers["x-tercet-cache"] == "held=1, miss=1"
        assert encoder.asked[-1] == [1], "indices are the prompt's"
        sent = prefill.inferences[-1][1]
        assert [p["type"] for p in sent["messages"][0]["content"]] == ["image_ref", "image_ref", "text"]
        assert (await setup.chat("hi")).route == "P0>D0"
        status = await setup.status()
        (row,) = [rank for worker in status["workers"] for rank in worker["ranks"] if rank["name"] == "P0"]
        assert row["pictures"] == 3
        assert status["counts"]["epd"]["pictures_encoded"] == 3 and status["counts"]["epd"]["pictures_named"] == 3
        assert await setup.metric("tercet:router_pictures_total", way="named") == 3
        assert await setup.metric("tercet:router_rank_pictures", rank="E0") >= 3
        await setup.idle()


async def test_p_that_lost_a_picture_gets_it_again_at_once() -> None:
    async with routing("EPD", "epd", seeing="apart") as setup:
        answer = await whole(setup, [ONE, "hm"])
        (prefill,) = setup.seeing("P")
        prefill.pool.clear()
        prefill.cache.clear()
        got = await setup.look([ONE, "hm"], max_tokens=3)
        assert (got.text, got.route, got.headers["x-tercet-cache"]) == (answer, "E0>P0>D0", "hit=1")
        assert await setup.metric("tercet:router_images_needed_total") == 1
        await setup.idle()


class RoomForOne(set[str]):
    """Embeddings of which each drives out those before."""

    def add(self, key: str) -> None:
        self.clear()
        super().add(key)


async def test_p_that_loses_a_picture_while_another_comes_again_gets_all_of_them() -> None:
    async with routing("EPD", "epd", seeing="apart") as setup:
        answer = await whole(setup, ["hm", ONE, TWO])
        (prefill,) = setup.seeing("P")
        prefill.pool = RoomForOne([key_of(TWO)])
        prefill.cache.clear()
        got = await setup.look(["hm", ONE, TWO], max_tokens=3)
        assert (got.text, got.route, got.headers["x-tercet-cache"]) == (answer, "E0>P0>D0", "hit=2")
        assert await setup.metric("tercet:router_images_needed_total") == 2
        await setup.idle()


@pytest.mark.parametrize(("letters", "mode", "seeing"), [("EPD", "epd", "apart"), ("PD", "pd", "local")])
async def test_d_that_must_recompute_gets_fresh_embeddings(letters: str, mode: str, seeing: str) -> None:
    async with routing(letters, mode, seeing=seeing) as setup:
        (decode,) = setup.seeing("D")
        decode.needs_pictures = True
        await whole(setup, [ONE, "hm"], stream=True)
        assert not decode.needs_pictures
        assert await setup.metric("tercet:router_images_needed_total") == 1
        await setup.idle()


async def test_a_straight_turn_whose_prefix_is_gone_goes_through_p() -> None:
    async with routing("PD", "ppd", seeing="local") as setup:
        turns: tuple[Sequence[str | bytes], ...] = ([ONE, "what is it"], "an answer", ["and now"])
        answer = await whole(setup, *turns)
        await setup.post("/cache/reset")
        await whole(setup, turns[0])
        straight = await setup.look(*turns, max_tokens=3)
        assert (straight.route, straight.text) == ("D0", answer)
        (decode,) = setup.seeing("D")
        decode.cache.clear()
        got = await setup.look(*turns, max_tokens=3)
        assert (got.route, got.text) == ("P0>D0", answer)
        await setup.idle()


async def test_ppd_sends_a_new_picture_through_p() -> None:
    async with routing("PD", "ppd", seeing="local") as setup:
        await whole(setup, [ONE, "what is it"])
        assert (await setup.look([ONE, "what is it"], "hm", ["and now"])).route == "D0"
        assert (await setup.look([ONE, "what is it"], "hm", [TWO, "and now"])).route == "P0>D0"
        assert (await setup.look([URL, "what is it"])).route == "P0>D0"
        assert (await setup.look([URL, "what is it"], "hm", ["now"])).route == "P0>D0", "a URL proves nothing"
        await setup.idle()


async def test_several_encoders_work_side_by_side_and_join_in_order() -> None:
    async with routing("EEPD", "epd", seeing="apart") as setup:
        gate = asyncio.Event()
        for encoder in setup.seeing("E"):
            encoder.gate = gate
        pictures = [bytes([i]) * 10 for i in range(5)]
        task = asyncio.create_task(setup.look([*pictures, "hm"], max_tokens=3))
        await until(lambda: all(encoder.running for encoder in setup.seeing("E")))
        gate.set()
        got = await task
        assert got.route == "E0+E1>P0>D0" and got.headers["x-tercet-cache"] == "miss=5"
        assert sorted(i for e in setup.seeing("E") for i in e.asked[0]) == [0, 1, 2, 3, 4]
        assert sorted(len(e.asked[0]) for e in setup.seeing("E")) == [2, 3]
        encoded = {key: e for e in setup.seeing("E") for key in e.encoded}
        setup.seeing("P")[0].pool.clear()
        setup.seeing("P")[0].cache.clear()
        await whole(setup, [*reversed(pictures), "hm"])
        assert all(len(e.encoded) == len(set(e.encoded)) for e in setup.seeing("E")), "each where it is known"
        assert len(encoded) == 5
        await setup.idle()


async def test_another_encoder_takes_over() -> None:
    async with routing("EEPD", "epd", seeing="apart") as setup:
        broken, good = setup.seeing("E")
        for failure in ("503", "killed"):
            if failure == "503":
                broken.status = 503
            else:
                broken.status = 200
                broken.gate = asyncio.Event()
            task = asyncio.create_task(setup.look([failure.encode(), b"x" + failure.encode(), "hm"], max_tokens=3))
            if failure == "killed":
                await until(lambda: broken.running)
                await broken.stop()
            got = await task
            assert got.status == 200 and got.route == "E1>P0>D0", got.body
            assert sorted(good.asked[-1]) == [0, 1]
            await setup.idle()
        assert await setup.metric("tercet:router_encode_retries_total") == 2


async def test_a_slow_encoder_is_given_up_in_time() -> None:
    async with routing("EEPD", "epd", seeing="apart", encode_timeout_s=0.3) as setup:
        setup.seeing("E")[0].gate = asyncio.Event()
        got = await setup.look([ONE, TWO, "hm"], max_tokens=3)
        assert got.status == 200 and got.route == "E1>P0>D0"
        await setup.idle()


async def test_without_encoders_an_error_or_locally() -> None:
    async with routing("EPD", "epd", seeing="apart") as setup:
        setup.seeing("E")[0].status = 503
        got = await setup.look([ONE, "hm"])
        assert got.status == 503 and got.error["code"] == "engine_dead"
        await setup.idle()
    async with routing("EPD", "epd", seeing="local", encode_fallback="local") as setup:
        await setup.seeing("E")[0].stop()
        got = await setup.look([ONE, "hm"])
        assert got.status == 200 and got.route == "P0>D0", got.body
        assert await setup.metric("tercet:router_encode_fallbacks_total") == 1
        assert setup.seeing("P")[0].encoded == [key_of(ONE)]


async def test_wrong_pictures_are_refused_by_their_index() -> None:
    async with routing("EPD", "epd", seeing="apart", max_images=3) as setup:
        got = await setup.look([ONE, "http://web/nothing.png", "hm"])
        assert got.status == 400 and "picture 1" in got.error["message"]
        got = await setup.look([ONE, TWO], "x", [THREE, URL])
        assert got.status == 400 and "picture 3" in got.error["message"]
        assert got.error["param"] == "messages[2].content[1]"
        for wrong in ({}, {"url": 3}, "x", {"url": ""}):
            got = await _parts(setup, {"type": "image_url", "image_url": wrong})
            assert got.status == 400 and "picture 0" in got.error["message"]
        got = await _parts(setup, {"type": "image_ref", "image_ref": {"key": key_of(ONE), "tokens": 4}})
        assert got.status == 400 and "image_ref" in got.error["message"]
        assert not setup.seeing("P")[0].inferences
        forged: dict[str, Any] = {"ec_transfer_params": {"images": [{"ticket_id": "x"}]}}
        assert (await setup.look([ONE, "hm"], **forged)).status == 200
        await setup.idle()


async def _parts(setup: Setup, *parts: dict[str, Any]) -> Got:
    return await setup.post(
        "/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": list(parts)}]}
    )


@pytest.mark.parametrize(
    ("letters", "mode", "who", "better"),
    [
        ("EPD", "pd", "P0", "epd"),
        ("EPD", "ppd", "P0", "eppd"),
        ("EA", "aggregated", "A0", "epd"),
        ("EA", "replicated", "A0", "eppd"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_mode_in_which_nobody_can_encode_is_named_and_a_better_one(
    letters: str, mode: str, who: str, better: str, stream: bool
) -> None:
    async with routing(letters, mode, seeing="apart", breaker_failures=1) as setup:
        got = await setup.look([ONE, "hm"], stream=stream)
        assert (got.status, got.error["code"]) == (501, "encodes_not"), got.body
        assert f"in mode {mode} " in got.error["message"] and f"{who} lacks the stage encode" in got.error["message"]
        assert f"take mode {better}," in got.error["message"] and got.error["param"] == "messages[0].content[0]"
        assert (await setup.chat("text")).status == 200, "nobody failed"
        assert (await setup.post(f"/mode/{better}")).status == 200
        assert (await setup.look([ONE, "hm"])).status == 200
        await setup.idle()


async def test_who_shall_encode_instead_and_cannot_is_named() -> None:
    async with routing("EPD", "epd", seeing="local", encode_fallback="local") as setup:
        setup.seeing("P")[0].encodes = False
        await setup.seeing("E")[0].stop()
        got = await setup.look([ONE, "hm"])
        assert got.status == 501 and "P0 lacks the stage encode" in got.error["message"], got.body
        assert "no encode worker answers" in got.error["message"]


async def test_a_mode_needs_its_encode_workers() -> None:
    async with routing("PD", "pd", seeing="local") as setup:
        got = await setup.post("/mode/epd")
        assert got.status == 409 and "encode worker (E)" in got.error["message"]


async def test_ready_means_that_a_picture_finds_its_way() -> None:
    async with routing("EPD", "epd", seeing="apart") as setup:
        assert (await setup.get("/ready")).status == 200
        await setup.seeing("E")[0].stop()
        await until(lambda: not setup.router.parts.fleet.ready(setup.seeing("E")[0].url))
        got = await setup.get("/ready")
        assert got.status == 503 and "encode worker (E)" in got.json["reason"]
        assert (await setup.chat("text")).status == 200, "text needs no encoder"


@pytest.mark.parametrize("where", ["E", "P", "D"])
async def test_a_client_that_leaves_leaves_nothing_behind(where: str) -> None:
    async with routing("EEPD", "epd", seeing="apart") as setup:
        worker = setup.seeing(where)[0]
        worker.gate = asyncio.Event()
        task = asyncio.create_task(setup.look([ONE, TWO, "hm"], stream=where == "D"))
        await until(lambda: worker.running)
        task.cancel()
        await asyncio.wait({task})
        await until(lambda: setup.router.parts.fleet.in_flight == 0)
        worker.gate.set()
        await setup.idle()


async def test_an_answer_that_ends_at_p_releases_what_e_holds() -> None:
    async with routing("EPD", "epd", seeing="apart") as setup:
        got = await setup.look([ONE, "hm"], max_tokens=1)
        assert got.status == 200
        await setup.idle()
        assert setup.embeddings.ended == {"released": 1}


async def test_the_router_holds_the_bytes_once_and_lets_go_when_d_answers() -> None:
    picture = b"x" * (24 << 20)
    body = {"model": "m", "max_tokens": 2, "stream": True}
    body["messages"] = [{"role": "user", "content": [part(picture), part("hm")]}]
    raw = json.dumps(body).encode()
    async with routing("EPD", "epd", seeing="apart") as setup, router_process(setup) as (process, url):
        (encoder,), (decode,) = setup.seeing("E"), setup.seeing("D")
        gates = encoder.gate, decode.gate = asyncio.Event(), asyncio.Event()
        decode.gate_after = 1
        before = process.memory_info().rss
        response = asyncio.create_task(
            setup.client.request("POST", f"{url}/v1/chat/completions", body=raw, first_byte_timeout_s=60)
        )
        await until(lambda: encoder.running)
        waiting = process.memory_info().rss - before
        gates[0].set()
        got = await response

        def streaming() -> int:
            return process.memory_info().rss - before

        await until(lambda: streaming() < 0.25 * len(raw))
        assert got.status == 200 and decode.running, "the answer has begun, and goes on"
        gates[1].set()
        await got.read()
        assert waiting < 1.5 * len(raw), (len(raw), waiting)


@asynccontextmanager
async def router_process(setup: Setup) -> AsyncIterator[tuple[psutil.Process, str]]:
    """A second router before the same workers, alone in a process."""
    roles = [
        flag
        for letter, name in (("E", "--encode"), ("P", "--prefill"), ("D", "--decode"))
        for worker in setup.role(letter)
        for flag in (name, worker.url)
    ]
    port = free_port()
    command = [sys.executable, "-m", "tercet", "router", "--mode", "epd", *roles, "--port", str(port)]
    child = await asyncio.create_subprocess_exec(*command)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            with contextlib.suppress(ClientError):
                if (await setup.client.request("GET", f"{url}/ready")).status == 200:
                    break
            await asyncio.sleep(0.05)
        yield psutil.Process(child.pid), url
    finally:
        child.kill()
        await child.wait()
