"""Requests through every mode, on real sockets."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.unit.router.harness import routing

MODES = [("A", "aggregated"), ("AA", "replicated"), ("PD", "pd"), ("PD", "ppd"), ("PPDD", "pd"), ("PPDD", "ppd")]


@pytest.mark.parametrize(("letters", "mode"), MODES)
async def test_every_mode_gives_the_same_answer(letters: str, mode: str) -> None:
    async with routing(letters, mode) as setup:
        texts: list[str] = []
        for turn in range(4):
            texts.append(f"question {turn} " * 10)
            got = await setup.chat(*texts, max_tokens=5)
            assert got.status == 200, got.body
            words = len(" ".join(f"{('user', 'assistant')[i % 2]} {t}" for i, t in enumerate(texts)).split())
            assert got.text == " ".join(f"w{words + i}" for i in range(5))
            assert got.json["usage"]["prompt_tokens"] == words and "kv_transfer_params" not in got.json
            stream = await setup.chat(*texts, max_tokens=5, stream=True)
            assert stream.headers["content-type"] == "text/event-stream" and stream.streamed == got.text
            texts.append(got.text)
        await setup.idle()


async def test_ppd_sends_later_turns_straight_to_the_decode_worker() -> None:
    async with routing("PPDD", "ppd") as setup:
        first = await setup.chat("hello " * 50, max_tokens=5)
        second = await setup.chat("hello " * 50, first.text, "again", max_tokens=5, stream=True)
        third = await setup.chat("hello " * 50, first.text, "again", second.streamed, "and again", max_tokens=5)
        assert first.route[0] == "P" and first.route[2] == ">"
        assert second.route == third.route == first.route.split(">")[1]
        # D had the prefix in its own cache.
        assert int(second.headers["x-tercet-cached-tokens"]) >= 51
        assert await setup.metric("tercet:router_wrong_index_total") == 0


async def test_pd_goes_through_p_every_turn() -> None:
    async with routing("PD", "pd") as setup:
        first = await setup.chat("hello", max_tokens=5)
        second = await setup.chat("hello", first.text, "again", max_tokens=5)
        assert first.route == second.route == "P0>D0"
        assert setup.tickets.ended == {"accepted": 2}


async def test_a_conversation_is_known_by_its_session() -> None:
    async with routing("PDD", "ppd") as setup:
        session = {"X-Session-Id": "s1"}
        first = await setup.complete("tiny", headers=session, max_tokens=3)
        second = await setup.complete(f"tiny {first.text} more", headers=session, max_tokens=3)
        third = await setup.complete(f"tiny {first.text} more", max_tokens=3)
        assert second.route == first.route.split(">")[1]
        assert third.route.startswith("P0>"), "without the session it is a new conversation"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_wrong_index_is_counted_and_forgotten(stream: bool) -> None:
    async with routing("PD", "ppd") as setup:
        (worker,) = setup.role("D")
        first = await setup.chat("hello " * 300, max_tokens=5)
        worker.cache.clear()  # evicted, and nobody told
        worker.forgets = True
        second = await setup.chat("hello " * 300, first.text, "again", max_tokens=5, stream=stream)
        assert second.route == "D0" and second.status == 200
        assert second.headers["x-tercet-cached-tokens"] == "0"
        assert await setup.metric("tercet:router_wrong_index_total", mode="ppd") == 1
        assert (await setup.status())["counts"]["ppd"]["wrong_index"] == 1


async def test_long_input_of_a_later_turn_goes_through_p() -> None:
    async with routing("PD", "ppd", ppd_threshold=100) as setup:
        first = await setup.complete([1] * 200, max_tokens=5, headers={"X-Session-Id": "s"})
        assert first.route == "P0>D0"
        for new, route in ((99, "D0"), (100, "P0>D0")):
            await setup.post("/conversations/clear")
            await setup.complete([1] * 200, max_tokens=5, headers={"X-Session-Id": "s"})
            got = await setup.complete([1] * 205 + [new] * new, max_tokens=5, headers={"X-Session-Id": "s"})
            assert got.route == route


async def test_response_headers() -> None:
    async with routing("PD", "pd") as setup:
        got = await setup.chat("hello", headers={"X-Request-Id": "my.id-1"}, max_tokens=3, stream=True)
        assert got.headers["x-request-id"] == "my.id-1" and got.route == "P0>D0"
        timing = dict(item.split(";dur=") for item in got.headers["server-timing"].split(", "))
        assert list(timing) == ["router", "prefill-leg", "decode-leg", "p-prefill", "queue", "prefill"]
        assert timing["p-prefill"] == "9.00" and 0 < float(timing["router"]) < 1000
        assert [item[2]["x-request-id"] for w in setup.workers for item in w.inferences] == ["my.id-1"] * 2
        ours = "___prefill_addr_10.0.0.1:21001___decode_addr_10.0.0.2:22001_x"
        for bad in ("", "a b", "x" * 200, "new\tline", "é", ours):
            got = await setup.chat("hello", headers={"X-Request-Id": bad})
            assert got.headers["x-request-id"].startswith("req-")
        refused = await setup.chat("hello", headers={"X-Request-Id": "id2"}, model="nope")
        assert refused.status == 404 and refused.headers["x-request-id"] == "id2"


async def test_private_fields_and_rank_headers_never_reach_a_worker() -> None:
    evil: dict[str, Any] = {
        "kv_transfer_params": {"do_remote_prefill": True, "remote_host": "10.0.0.1"},
        "ec_transfer_params": {},
        "bootstrap_host": "10.0.0.1",
        "data_parallel_rank": 3,
    }
    for letters, mode in (("A", "aggregated"), ("PD", "pd")):
        async with routing(letters, mode) as setup:
            got = await setup.chat("hi", headers={"X-data-parallel-rank": "7"}, custom_field={"a": 1}, **evil)
            assert got.status == 200, got.body
            for worker in setup.workers:
                (sent,) = [body for _, body, _ in worker.inferences]
                assert sent["custom_field"] == {"a": 1}, "unknown fields pass"
                assert not {"ec_transfer_params", "bootstrap_host", "data_parallel_rank"} & sent.keys()
                assert "10.0.0.1" not in json.dumps(sent)
            await setup.idle()


async def test_n_list_prompts_and_token_ids() -> None:
    async with routing("PD", "pd") as setup:
        several = await setup.complete("a b", n=3, max_tokens=2)
        assert len(several.json["choices"]) == 3 and several.route == "P0>D0"
        ids = await setup.complete([5, 6, 7], max_tokens=2)
        assert ids.text == "w3 w4" and ids.route == "P0>D0"
        lists = await setup.complete(["a b", "c"], max_tokens=2)
        assert lists.route == "D0"
        await setup.idle()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("how", ["stop", "one token"])
async def test_an_early_end_skips_d(stream: bool, how: str) -> None:
    async with routing("PD", "pd") as setup:
        setup.role("P")[0].finish = "stop" if how == "stop" else ""
        options: dict[str, Any] = {"stream_options": {"include_usage": True}} if stream else {}
        got = await setup.chat("hi there", stream=stream, max_tokens=1 if how == "one token" else 9, **options)
        assert got.status == 200 and not setup.role("D")[0].inferences
        if stream:
            assert got.headers["content-type"] == "text/event-stream" and got.streamed == "w3"
            assert json.loads(got.events[-2])["usage"]["completion_tokens"] == 1
            assert json.loads(got.events[0])["choices"][0]["finish_reason"] == ("stop" if how == "stop" else "length")
        else:
            assert got.text == "w3" and "kv_transfer_params" not in got.json
        await setup.idle()
        assert setup.tickets.ended["released"] == (how == "one token")
        assert await setup.metric("tercet:router_early_ends_total") == 1


async def test_usage_says_what_p_had_cached() -> None:
    async with routing("PD", "pd") as setup:
        await setup.chat("hello there friend", max_tokens=2)
        setup.role("D")[0].forgets = True
        got = await setup.chat("hello there friend", max_tokens=2)
        assert got.json["usage"]["prompt_tokens_details"]["cached_tokens"] == 4
        assert got.headers["x-tercet-cached-tokens"] == "0"


@pytest.mark.parametrize("mode", ["aggregated", "replicated"])
async def test_ranks_of_one_url(mode: str) -> None:
    async with routing("A", mode, ranks=3, balancer="round_robin") as setup:
        # The worker says that it has three ranks.
        routes = {(await setup.chat(f"hello {i}")).route for i in range(6)}
        assert routes == {"A0", "A1", "A2"}
        ranks = {headers["x-data-parallel-rank"] for _, _, headers in setup.workers[0].inferences}
        assert ranks == {"0", "1", "2"}
        await setup.idle()


async def test_data_parallel_size_expands_both_pools_and_pairs_freely() -> None:
    async with routing("PD", "pd", ranks=2, data_parallel_size=2, balancer="random") as setup:
        routes = {(await setup.chat(f"hello {i}")).route for i in range(40)}
        assert routes == {"P0>D0", "P0>D1", "P1>D0", "P1>D1"}
        await setup.idle()


async def test_several_models() -> None:
    async with routing("AA", "aggregated", wait=False) as setup:
        setup.workers[1].model = "other"
        await setup.ready()
        for name, route in (("m", "A0"), ("other", "A1")):
            got = await setup.chat("hi", model=name)
            assert got.route == route and got.json["model"] == name
        assert (await setup.post("/v1/chat/completions", {"messages": []})).status == 400
        models = (await setup.get("/v1/models")).json
        assert models["object"] == "list" and [card["id"] for card in models["data"]] == ["m", "other"]
        assert (await setup.get("/v1/models/other")).json == {"id": "other", "object": "model", "max": 7}
        assert (await setup.get("/v1/models/none")).error["code"] == "model_not_found"


async def test_without_a_model_the_only_one_is_meant() -> None:
    async with routing("PD", "ppd") as setup:
        got = await setup.post("/v1/completions", {"prompt": "a b", "max_tokens": 2})
        assert got.status == 200 and got.text == "w2 w3"


async def test_other_paths_go_to_a_worker_as_they_are() -> None:
    async with routing("PD", "pd", ranks=2, data_parallel_size=2) as setup:
        got = await setup.post("/v1/echo?x=%20y", b"raw\x00bytes", {"Content-Type": "text/plain"})
        assert got.body == b"/v1/echo?x=%20y|raw\x00bytes" and got.headers["etag"] == "text/plain"
        assert got.route.startswith("D")
        got = await setup.post("/v1/echo", {"a": 1, "kv_transfer_params": {"x": 1}})
        assert got.body == b'/v1/echo|{"a":1}'
        assert (await setup.get("/v1/none")).status == 404
        assert (await setup.get("/v1/%2e%2e/metrics")).status == 404


async def test_many_at_once() -> None:
    async with routing("PPDD", "ppd") as setup:
        for worker in setup.workers:
            worker.token_s = 0.001

        async def one(i: int) -> None:
            texts = [f"question {i}"]
            for _ in range(3):
                got = await setup.chat(*texts, max_tokens=4, stream=bool(i % 2))
                assert got.status == 200
                texts += [got.streamed if i % 2 else got.text, "more"]

        await asyncio.gather(*(one(i) for i in range(60)))
        await setup.idle()
        assert (await setup.status())["counts"]["ppd"]["ok"] == 180
