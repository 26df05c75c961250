"""The router before the stand-in of vLLM."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import Any

import pytest

from tests.conformance.vllm import Fabric, VllmServer
from tests.integration.dialects.harness import Engines, routing, until

ONE, TWO = b"a picture", b"another one"


def fleet(letters: str, **knobs: Any) -> list[VllmServer]:
    fabric = Fabric()
    return [VllmServer(letter, fabric, **knobs) for letter in letters]


def server(setup: Engines, letter: str) -> VllmServer:
    engine = setup.engine(letter)
    assert isinstance(engine, VllmServer)
    return engine


def forget_probes(setup: Engines) -> None:
    for engine in setup.engines:
        assert isinstance(engine, VllmServer)
        engine.encoded.clear()
        engine.loaded.clear()


@pytest.mark.parametrize("stream", [False, True])
async def test_prefill_is_handed_to_decode(stream: bool) -> None:
    options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    async with routing("vllm", fleet("PD"), "pd") as setup:
        setup.engine("P").cached = 2
        got = await setup.chat("hello there", max_tokens=3, **options)
        assert got.status == 200 and got.route == "P0>D0", got.body
        assert (got.streamed if stream else got.text) == "w3 w4 w5"
        assert b'"cached_tokens":2' in got.body.replace(b" ", b"")
        await setup.idle()
        assert not server(setup, "P").fabric.blocks


async def test_several_answers_draw_nothing_from_p() -> None:
    async with routing("vllm", fleet("PD"), "pd") as setup:
        got = await setup.chat("hello there", n=3, max_tokens=2)
        assert got.status == 200 and len(got.json["choices"]) == 3 and got.route == "D0", got.body
        assert not setup.engine("P").inferences and len(setup.engine("D").inferences) == 1
        await setup.idle()


async def test_several_answers_are_refused_where_d_would_wait_for_them_for_ever() -> None:
    async with routing("vllm", fleet("PD"), "pd", kv_connector="p2p-nccl") as setup:
        got = await setup.chat("hello there", n=2, max_tokens=2)
        assert (got.status, got.error["code"], got.error["param"]) == (400, "one_choice", "n")
        assert not any("hello there" in str(body) for engine in setup.engines for body in engine.bodies)
        assert (await setup.chat("hello there", max_tokens=2)).text == "w3 w4"
        await setup.idle()


@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize("takes_embeds", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_pictures_are_encoded_apart_and_found_by_their_hash(grid: bool, takes_embeds: bool, stream: bool) -> None:
    async with routing("vllm", fleet("EPD", grid=grid, takes_embeds=takes_embeds), "epd") as setup:
        forget_probes(setup)
        got = await setup.look([ONE, "and", TWO, "?"], max_tokens=2, stream=stream)
        assert got.status == 200 and got.route == "E0>P0>D0", got.body
        assert (got.streamed if stream else got.text) == "w11 w12"
        names = [sha256(data).hexdigest() for data in (ONE, TWO)]
        prefill, decode = server(setup, "P"), server(setup, "D")
        assert server(setup, "E").encoded == names and prefill.loaded == names
        assert not prefill.encoded and not decode.encoded and not decode.loaded
        kinds = {part["type"] for part in decode.bodies[-1]["messages"][0]["content"]}
        assert kinds == {"text", "image_embeds" if grid and takes_embeds else "image_url"}
        await setup.idle()
        assert not prefill.fabric.blocks


async def test_a_picture_behind_a_url_goes_by_the_hash_that_the_engines_make() -> None:
    async with routing("vllm", fleet("EPD"), "epd") as setup:
        forget_probes(setup)
        got = await setup.look(["http://web/one.png", "what?"], max_tokens=1)
        assert got.status == 200 and got.text == "w6", got.body
        assert server(setup, "P").loaded == server(setup, "E").encoded and len(server(setup, "E").encoded) == 1
        assert "uuid" not in server(setup, "P").bodies[-1]["messages"][0]["content"][0]
        bad = await setup.look(["http://web/none.png"], max_tokens=1)
        assert bad.status == 400 and "Failed to load" in bad.error["message"]
        await setup.idle()


async def test_a_clients_uuid_names_nobodys_picture() -> None:
    async with routing("vllm", fleet("EPD"), "epd") as setup:
        forget_probes(setup)
        part = {"type": "image_url", "image_url": {"url": "http://web/two.png"}, "uuid": sha256(ONE).hexdigest()}
        body = {"model": "m", "messages": [{"role": "user", "content": [part]}], "max_tokens": 1}
        got = await setup.post("/v1/chat/completions", body)
        assert got.status == 200 and server(setup, "E").encoded[0].startswith("pixels-")
        part = {"type": "image_embeds", "image_embeds": {}, "uuid": sha256(ONE).hexdigest()}
        got = await setup.post("/v1/chat/completions", {**body, "messages": [{"role": "user", "content": [part]}]})
        assert got.status == 400 and "send the picture itself" in got.error["message"]
        part = {"image_url": "http://web/two.png", "uuid": sha256(ONE).hexdigest()}
        got = await setup.post("/v1/chat/completions", {**body, "messages": [{"role": "user", "content": [part]}]})
        assert got.status == 400 and "send pictures as type 'image_url'" in got.error["message"]
        await setup.idle()


async def test_the_second_turn_needs_no_encoder_where_its_prefix_lies() -> None:
    async with routing("vllm", fleet("EPD"), "eppd") as setup:
        long = "word " * 200
        first = await setup.look([ONE, long], max_tokens=2)
        assert first.route == "E0>P0>D0", first.body
        forget_probes(setup)
        second = await setup.look([ONE, long], first.text, ["go on"], max_tokens=2)
        assert second.status == 200 and second.route == "D0", second.body
        assert not server(setup, "E").encoded
        await setup.idle()


async def test_a_worker_that_publishes_nothing_is_no_encoder() -> None:
    engines = fleet("EPD")
    engines[0].publishes = False
    async with routing("vllm", engines, "epd", wait=False) as setup:
        await until(lambda: setup.router.prober.problem(engines[0].url))
        assert "ec_producer" in str(setup.router.prober.problem(engines[0].url))


async def test_an_encoder_that_fails_is_a_clean_failure_and_another_takes_over() -> None:
    engines = fleet("EEPD")
    async with routing("vllm", engines, "epd", max_retries=2) as setup:
        for engine in engines[:1]:
            engine.refuse = 500
        for _ in range(3):
            got = await setup.look([ONE, "?"], max_tokens=1)
            assert got.status == 200, got.body
        engines[1].die = True
        got = await setup.look([TWO, "?"], max_tokens=1)
        assert got.status in (500, 502, 503)
        await setup.idle()
        assert not server(setup, "P").fabric.blocks


@pytest.mark.parametrize("where", ["P", "D"])
async def test_a_leg_that_fails_leaves_no_blocks_behind(where: str) -> None:
    async with routing("vllm", fleet("EPD"), "epd") as setup:
        setup.engine(where).refuse = 500
        got = await setup.look([ONE, "?"], max_tokens=4)
        assert got.status == 500, got.body
        setup.engine("D").refuse = 0  # now it hears of the release
        await until(lambda: not server(setup, "P").fabric.blocks)
        await setup.idle()


async def test_a_worker_that_ends_and_aborts_what_it_has_answers_nobody() -> None:
    async with routing("vllm", fleet("PPD"), "pd", max_retries=1) as setup:
        setup.engines[0].finish = "abort"
        for _ in range(4):
            got = await setup.chat("hello there", max_tokens=3)
            assert (got.status, got.text) == (200, "w3 w4 w5"), got.body
        setup.engine("D").finish = "abort"
        got = await setup.chat("hello there", max_tokens=3)
        assert (got.status, got.error["code"]) == (502, "engine_error")
        await setup.idle()


async def test_a_stream_that_was_aborted_is_counted_as_a_failure() -> None:
    async with routing("vllm", fleet("PD"), "pd") as setup:
        decode = setup.engine("D")
        decode.finish, decode.token_gate = "abort", asyncio.Event()
        asked = asyncio.create_task(setup.chat("hello there", max_tokens=3, stream=True))
        await setup.answering()
        decode.token_gate.set()
        got = await asked
        assert got.status == 200 and got.events[-1] == "[DONE]"
        await setup.idle()
        assert await setup.metric("tercet:router_stream_failures_total") == 1


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("letters", ["AA", "PDD"])
async def test_a_stream_that_fails_in_its_first_event_is_tried_elsewhere(letters: str, chat: bool) -> None:
    mode = "pd" if "P" in letters else "replicated"
    async with routing("vllm", fleet(letters), mode, max_retries=1, balancer="round_robin") as setup:
        bad, good = setup.engines[-2:]
        bad.error_after = 0
        ask = setup.chat if chat else setup.complete
        for _ in range(4):
            got = await ask("hello there", max_tokens=2, stream=True)
            assert got.status == 200 and got.streamed == ("w3 w4" if chat else "w2 w3"), got.body
        assert bad.inferences and not await setup.metric("tercet:router_stream_failures_total")
        good.error_after = 0
        got = await ask("hello there", max_tokens=2, stream=True)
        assert got.status == 500 and got.error["message"] == "the engine died"
        await setup.idle()
        await until(lambda: not server(setup, letters[0]).fabric.blocks)


@pytest.mark.parametrize("pictures", [False, True])
async def test_mooncake(pictures: bool) -> None:
    engines = fleet("EPD" if pictures else "PD")
    for engine in engines:
        engine.mooncake = True
        await engine.server.start()
    prefill = next(engine for engine in engines if engine.role == "P")
    fragments = {"P": f"#bootstrap={prefill.server.port}"}
    mode = "epd" if pictures else "pd"
    async with routing("vllm", engines, mode, started=True, fragments=fragments, kv_connector="mooncake") as setup:
        got = await (setup.look([ONE, "?"], max_tokens=3) if pictures else setup.chat("hello there", max_tokens=3))
        assert got.status == 200 and got.route.endswith("P0>D0"), got.body
        assert got.text == ("w6 w7 w8" if pictures else "w3 w4 w5")
        setup.engine("D").refuse = 500
        assert (await setup.chat("hello there", max_tokens=3)).status == 500
        setup.engine("D").refuse = 0
        await until(lambda: not prefill.fabric.blocks)
        await setup.idle()
