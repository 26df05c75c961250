"""Wrong input is refused with an OpenAI error object."""

from __future__ import annotations

import pytest

from tercet.dialects.request import MOST_PARTS
from tests.unit.router.harness import routing


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("body", [b"", b'{"prompt": "a"', b"[1]", b'"x"', b"\xff\xfe", b'{"a":' * 3000])
async def test_bad_json_is_400(path: str, body: bytes) -> None:
    async with routing("A") as setup:
        got = await setup.post(path, body)
        assert got.status == 400 and got.error["code"] == "invalid_json"
        assert got.error["type"] == "invalid_request_error"


@pytest.mark.parametrize("field", ["tools", "cache_salt", "messages"])
async def test_a_body_that_is_nested_too_deeply_is_refused_at_any_depth(field: str) -> None:
    """Where it can just be read, what hashes it finds it too deep."""
    statuses = set()
    async with routing("A", "aggregated") as setup:
        for depth in range(800, 1020):
            body = f'{{"model": "nope", "{field}": {"[" * depth}{"]" * depth}}}'
            statuses.add((await setup.post("/v1/chat/completions", body.encode())).status)
    assert statuses == {400, 404}


async def test_unknown_model_is_404_and_reaches_no_worker() -> None:
    async with routing("PD", "pd") as setup:
        got = await setup.chat("hi", model="nope")
        assert got.status == 404 and got.error["code"] == "model_not_found" and "nope" in got.error["message"]
        assert got.error["param"] == "model"
        assert (await setup.chat("hi", model=7)).error["param"] == "model"
        assert not any(worker.inferences for worker in setup.workers)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"])
async def test_a_long_name_is_not_told_back_whole(path: str) -> None:
    async with routing("A") as setup:
        got = await setup.post(path, b'{"model": "%s", "prompt": "a", "messages": []}' % ("ü" * 3_000_000).encode())
        assert got.status == 404 and "üüü" in got.error["message"] and len(got.body) < 2_000


@pytest.mark.parametrize("mode", ["pd", "ppd"])
async def test_words_that_are_no_unicode_are_no_fault_of_the_router(mode: str) -> None:
    async with routing("PD", mode) as setup:
        for path in ("/v1/chat/completions", "/v1/completions"):
            got = await setup.post(path, b'{"model": "\\ud83d", "prompt": "a"}')
            assert (got.status, got.error["code"]) == (404, "model_not_found")
        assert (await setup.complete("a b", cache_salt="\ud83d")).status == 200, "the worker's to refuse"
        assert b"\\ud83d" in (await setup.get("/requests")).body and (await setup.get("/metrics")).status == 200
        await setup.idle()


async def test_a_chat_has_no_more_messages_and_parts_than_can_be_looked_at_in_no_time() -> None:
    said, part = {"role": "user", "content": "a"}, {"type": "text", "text": "a"}
    async with routing("A", "aggregated") as setup:
        crowds: tuple[list[object], ...] = (
            [said] * (MOST_PARTS + 1),
            [said, {"role": "user", "content": [part] * MOST_PARTS}],
        )
        for messages in crowds:
            got = await setup.post("/v1/chat/completions", {"model": "m", "messages": messages})
            assert (got.status, got.error["code"]) == (400, "too_many_messages"), "though it is a small body"
        assert not setup.workers[0].inferences
        crowds = ([said] * MOST_PARTS, [{"role": "user", "content": [part] * (MOST_PARTS - 1)}])
        for messages in crowds:
            assert (await setup.post("/v1/chat/completions", {"model": "m", "messages": messages})).status == 200


async def test_a_body_too_large_is_413() -> None:
    async with routing("A", max_body_bytes=1000) as setup:
        got = await setup.post("/v1/completions", b" " * 1001)
        assert got.status == 413 and got.error["message"]
        assert (await setup.complete("a")).status == 200


async def test_a_workers_4xx_passes_verbatim_and_is_not_retried() -> None:
    for letters, mode in (("AA", "aggregated"), ("PPDD", "pd")):
        async with routing(letters, mode) as setup:
            for worker in setup.workers:
                worker.status = 400
                worker.error = {"message": "too long: 9 and 5", "type": "t", "code": "context_length_exceeded"}
                worker.error["param"] = "prompt"
            for stream in (False, True):
                got = await setup.complete("a b c", stream=stream)
                assert got.status == 400 and got.json == {"error": setup.workers[0].error}
                assert got.headers["content-type"] == "application/json"
            assert sum(len(worker.inferences) for worker in setup.workers) == 2
            assert await setup.metric("tercet:router_retries_total") == 0
            await setup.idle()


async def test_a_4xx_of_d_releases_what_p_holds() -> None:
    async with routing("PD", "pd") as setup:
        setup.role("D")[0].status = 422
        assert (await setup.complete("a b c")).status == 422
        await setup.idle()
        assert setup.tickets.ended == {"released": 1}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("GET", "/mode/pd", 405),
        ("POST", "/status", 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/v2/x", 404),
        ("GET", "/", 404),
        ("POST", "/mode/auto", 404),
        ("POST", "/mode/", 404),
        ("POST", "/mode/pd/x", 404),
        ("POST", "/mode/replicated", 409),
    ],
)
async def test_paths_and_methods(method: str, path: str, status: int) -> None:
    async with routing("PD", "pd") as setup:
        got = await setup.send(method, path)
        assert got.status == status and got.error["message"]
        assert got.headers["x-request-id"].startswith("req-")


async def test_api_keys() -> None:
    async with routing("A", api_keys=("k1", "key two"), worker_api_key="inner") as setup:
        for path in ("/health", "/ready", "/metrics"):
            assert (await setup.get(path)).status == 200
        for wrong in ({}, {"Authorization": "Bearer k"}, {"Authorization": "k1"}, {"Authorization": "Basic k1"}):
            for method, path in (("POST", "/v1/completions"), ("GET", "/status"), ("POST", "/mode/aggregated")):
                got = await setup.send(method, path, headers=wrong)
                assert got.status == 401 and got.error["type"] == "authentication_error"
        for key in ("k1", "key two"):
            got = await setup.complete("a", headers={"Authorization": f"Bearer {key}"})
            assert got.status == 200
        # Workers see the router's key, never the client's.
        assert {h["authorization"] for _, _, h in setup.workers[0].inferences} == {"Bearer inner"}


async def test_without_keys_the_clients_own_goes_to_the_worker() -> None:
    async with routing("A") as setup:
        await setup.complete("a", headers={"Authorization": "Bearer mine"})
        assert setup.workers[0].inferences[0][2]["authorization"] == "Bearer mine"
