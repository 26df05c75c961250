"""What a client may not say to a worker, and what of a prompt is in no log."""

from __future__ import annotations

import json
import logging

import pytest

from .harness import routing

FIELDS = {
    "kv_transfer_params": {"do_remote_prefill": True, "remote_host": "10.0.0.1"},
    "ec_transfer_params": {"x": 1},
    "disaggregated_params": {"request_type": "context_only"},
    "data_parallel_rank": 3,
    "routed_dp_rank": 3,
    "disagg_prefill_dp_rank": 3,
    "bootstrap_host": "10.0.0.1",
    "bootstrap_port": 8998,
    "bootstrap_room": 7,
    "bootstrap_anything": 1,
}
HEADERS = {
    "X-data-parallel-rank": "3",
    "X-Tercet-Anything": "1",
    "X-Tercet-Timeline": "1",
    "X-Forwarded-For": "10.0.0.1",
    "Cookie": "a=b",
    "Connection": "close, x-named",
    "X-Named": "1",
    "Keep-Alive": "9",
    "TE": "trailers",
    "Proxy-Authorization": "Basic x",
    "Proxy-Connection": "close",
    "Forwarded": "for=10.0.0.1",
    "X-Real-IP": "10.0.0.1",
    "X-HTTP-Method-Override": "DELETE",
    "X-Original-URL": "/cache/reset",
    "Accept-Encoding": "gzip",
    "Origin": "http://elsewhere",
    "Referer": "http://elsewhere",
    "User-Agent": "me",
    "X-Session-Id": "mine",
    "X-Tercet-Priority": "1",
}
REACHES = {"host", "content-length", "content-type", "x-request-id", "traceparent", "tracestate"}
TRACE = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "v=1"}


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/echo"])
async def test_private_fields_and_headers_reach_no_worker_and_traces_do(path: str) -> None:
    async with routing("A") as setup:
        seen: list[dict[str, str]] = []
        worker = setup.workers[0]
        handle = worker.handle

        async def watched(request, responder):  # type: ignore[no-untyped-def]
            if request.path == path:
                seen.append(dict(request.headers))
            await handle(request, responder)

        worker.server.handler = watched
        body = {"model": "m", "prompt": "a", "messages": [{"role": "user", "content": "a"}], **FIELDS}
        body["vllm_xargs"] = {"kv_transfer_params": 1, "mine": 2}
        got = await setup.post(path, body, {**HEADERS, **TRACE})
        assert got.status == 200
        sent = json.loads(got.body.partition(b"|")[2]) if path == "/v1/echo" else worker.inferences[-1][1]
        assert not set(sent) & set(FIELDS) and sent["vllm_xargs"] == {"mine": 2}
        headers = seen[-1]
        assert set(headers) == REACHES, headers
        assert {name: headers[name] for name in TRACE} == TRACE


@pytest.mark.parametrize("kind", ["application/JSON", "Application/Json; charset=utf-8", "text/JSON", None])
async def test_private_fields_are_taken_out_whatever_the_body_is_called(kind: str | None) -> None:
    async with routing("A") as setup:
        body = json.dumps({"model": "m", "input": "a", **FIELDS}).encode()
        sent = [] if kind is None else [("Content-Type", kind)]
        response = await setup.client.request("POST", f"{setup.url}/v1/echo", headers=sent, body=body)
        assert json.loads((await response.read()).partition(b"|")[2]) == {"model": "m", "input": "a"}


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/echo"])
async def test_a_name_in_a_body_says_no_more_where_blocks_come_from_than_one_in_a_header(path: str) -> None:
    """vLLM's /v1/responses takes its name for the engine from there, in which P2P-NCCL workers read their peer's
    address."""
    theirs = "___prefill_addr_10.0.0.9:21001___decode_addr_10.0.0.9:22001_x"
    async with routing("A") as setup:
        for name, reaches in ((theirs, False), ("mine", True), (7, True)):
            body = {"model": "m", "prompt": "a", "messages": [{"role": "user", "content": "a"}], "request_id": name}
            got = await setup.post(path, body)
            assert got.status == 200
            worker = setup.workers[0]
            sent = json.loads(got.body.partition(b"|")[2]) if path == "/v1/echo" else worker.inferences[-1][1]
            assert ("request_id" in sent) is reaches and sent["model"] == "m"


@pytest.mark.parametrize("path", ["/v1/echo", "/v1/chat/completions"])
@pytest.mark.parametrize(
    "part",
    [
        {"type": "video_url", "video_url": {"url": "x"}, "uuid": "theirs"},
        {"type": "image_embeds", "image_embeds": {}},
        {"type": "image_ref", "image_ref": {"key": "theirs", "tokens": 4}},
    ],
)
async def test_media_that_another_client_sent_are_not_to_be_named(path: str, part: dict[str, object]) -> None:
    nothing = dict.fromkeys(("image_url", "image_embeds", "image_ref", "uuid"))  # as some clients write it
    async with routing("A") as setup:
        message = {"role": "user", "content": [{"type": "text", "text": "a", **nothing}, part]}
        several = [[{"role": "user", "content": "a"}], [message]]
        for messages in ([message], several) if path == "/v1/echo" else ([message],):
            got = await setup.post(path, {"model": "m", "messages": messages})
            assert (got.status, got.error["param"]) == (400, "messages[0].content[1]"), got.body
        del message["content"][1]  # type: ignore[attr-defined]
        assert (await setup.post(path, {"model": "m", "messages": [message]})).status == 200
        assert not path.endswith("echo") or (await setup.post(path, {"messages": [[message], "x", 3]})).status == 200


async def test_what_is_not_json_is_passed_on_as_it_is() -> None:
    async with routing("A") as setup:
        for kind in ("multipart/form-data; boundary=x", "application/octet-stream", "text/plain"):
            got = await setup.post("/v1/echo", b"{no JSON", {"Content-Type": kind})
            assert (got.status, got.body) == (200, b"/v1/echo|{no JSON")


async def test_no_prompt_is_in_a_log_at_any_level(caplog: pytest.LogCaptureFixture) -> None:
    mark = "xyzzy-of-the-prompt"
    with caplog.at_level(logging.DEBUG):
        async with routing("PD", "pd", api_keys=("key-of-the-client",)) as setup:
            mine = {"Authorization": "Bearer key-of-the-client"}
            assert (await setup.chat(mark, headers=mine)).status == 200
            assert (await setup.complete(mark, headers=mine, stream=True)).status == 200
            assert (await setup.post("/v1/completions", f'{{"prompt": "{mark}'.encode(), mine)).status == 400
            assert (await setup.post("/v1/completions", {"model": 5, "prompt": mark}, mine)).status == 400
            assert (await setup.post("/v1/absent", {"input": mark}, mine)).status == 404
            await setup.post("/v1/completions", {"prompt": mark}, {"Authorization": f"Bearer {mark}"})
            for worker in setup.workers:
                await worker.stop()
            assert (await setup.complete(mark, headers=mine)).status >= 500
    assert caplog.records
    assert mark not in caplog.text and "key-of-the-client" not in caplog.text
