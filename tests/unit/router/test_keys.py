from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import pytest

from tercet.core.api_keys import ApiKey, digest_of
from tercet.core.errors import UsageError
from tercet.router import key_file
from tercet.router.key_file import KeyFile
from tests.unit.http.wires import RawClient

from .harness import routing, until


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _line(key: str, **limits: int | bool) -> str:
    return ApiKey(f"name-{key}", digest_of(key), **limits).line()  # type: ignore[arg-type]


OPERATORS = [
    ("GET", "/status"),
    ("GET", "/requests"),
    ("POST", "/mode/aggregated"),
    ("POST", "/metrics/clear"),
    ("POST", "/conversations/clear"),
    ("POST", "/cache/reset"),
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/%6coad_lora_adapter"),
    ("POST", "/workers"),
    ("DELETE", "/workers/x"),
    ("GET", "/nothing"),
]


async def test_what_the_operator_may_do_needs_an_admins_key() -> None:
    async with routing("A", api_keys=(_line("user"), _line("ops", admin=True))) as setup:
        for method, path in OPERATORS:
            assert (await setup.send(method, path)).status == 401, path
            got = await setup.send(method, path, headers=_bearer("user"))
            assert (got.status, got.error["code"]) == (403, "admin_key_needed"), path
            assert (await setup.send(method, path, headers=_bearer("ops"))).status not in (401, 403), path
        for path in ("/v1/models", "/mode"):
            assert (await setup.get(path, _bearer("user"))).status == 200
        assert (await setup.complete("a", headers=_bearer("user"))).status == 200


async def test_who_shows_no_key_hears_whether_it_is_ready_and_not_where_the_workers_are() -> None:
    async with routing("A", api_keys=(_line("user"),), worker_api_key="of-workers") as setup:
        assert (await setup.get("/ready")).json == (await setup.get("/ready", _bearer("user"))).json
        assert (await setup.get("/ready")).json == {"ready": True, "mode": "aggregated"}
        told = await setup.get("/ready", {"authorization": "Bearer of-workers"})
        assert told.json["workers"] == [setup.workers[0].url]


LONG = b" HTTP/1.1\r\nHost: h\r\n%bContent-Length: 60000000\r\n\r\n" + b"x" * 100_000
CHUNKED = b" HTTP/1.1\r\nHost: h\r\n%bTransfer-Encoding: chunked\r\n\r\n3000000\r\n" + b"x" * 100_000


async def test_nobody_waits_for_a_long_body_that_will_be_refused() -> None:
    """Thousands of connections of strangers, each with a body half sent, would fill the memory."""
    user, prompt = b"Authorization: Bearer user\r\n", "a " * 100_000
    async with routing("A", api_keys=(_line("user"), _line("ops", admin=True))) as setup:

        async def answers(sent: bytes, more: bytes = b"") -> int:
            raw = RawClient(*await asyncio.open_connection("127.0.0.1", setup.router.port))
            await raw.send(sent)
            await raw.send(more)
            status, _, _ = await raw.answer()
            raw.close()
            return status

        for rest in (LONG, CHUNKED):
            assert await answers(b"POST /v1/completions" + rest % b"") == 401
            assert await answers(b"POST /v1/x" + rest % b"Authorization: Bearer no\r\n") == 401
            assert await answers(b"POST /workers" + rest % user) == 403
            assert await answers(b"POST /metrics" + rest % b"") == 413, "which takes none"
        body = json.dumps({"model": "m", "prompt": prompt}).encode()
        head = b"POST /v1/completions HTTP/1.1\r\nHost: h\r\n%bContent-Length: %d\r\n\r\n" % (user, len(body))
        assert await answers(head + body[:100_000], body[100_000:]) == 200


async def test_what_only_routers_ask_is_for_nobody() -> None:
    async with routing("A") as setup:
        assert (await setup.post("/v1/encode", {"model": "m"})).status == 404
        assert (await setup.post("/kv/release", {"ticket_id": "x"})).status == 404


async def test_limits_answer_429_with_the_time_to_wait() -> None:
    lines = (_line("few", requests_per_minute=2), _line("one", concurrent=1), _line("tokens", tokens_per_minute=6))
    async with routing("A", api_keys=lines) as setup:
        for _ in range(2):
            assert (await setup.complete("a", headers=_bearer("few"))).status == 200
        got = await setup.complete("a", headers=_bearer("few"))
        assert (got.status, got.error["type"]) == (429, "rate_limit_error")
        assert 1 <= int(got.headers["retry-after"]) <= 30
        got = await setup.post("/v1/echo", b"x", headers=_bearer("few"))  # every path of the API is counted
        assert got.status == 429
        assert (await setup.get("/v1/models", _bearer("few"))).status == 200  # what costs nothing isn't

        gate = setup.workers[0].gate = asyncio.Event()
        several = [asyncio.create_task(setup.complete("a b c d", headers=_bearer("one"))) for _ in range(4)]
        await until(lambda: sum(asked.done() for asked in several) == 3)
        gate.set()
        assert sorted(got.status for got in await asyncio.gather(*several)) == [200, 429, 429, 429]
        assert (await setup.complete("a", headers=_bearer("one"))).status == 200

        assert (await setup.complete("a b c d e f g h", headers=_bearer("tokens"), max_tokens=8)).status == 200
        got = await setup.complete("a", headers=_bearer("tokens"))
        assert got.status == 429 and int(got.headers["retry-after"]) >= 30
        await setup.idle()


async def test_streams_and_those_who_leave_them_are_charged() -> None:
    async with routing("A", api_keys=(_line("a", tokens_per_minute=40), _line("b", tokens_per_minute=40))) as setup:
        got = await setup.complete("a b c", headers=_bearer("a"), max_tokens=60, stream=True)
        assert got.status == 200
        assert (await setup.complete("a", headers=_bearer("a"))).status == 429
        task = asyncio.create_task(setup.complete("a b c", headers=_bearer("b"), max_tokens=60, stream=True))
        while not any(worker.running for worker in setup.workers):
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await setup.idle()
        assert (await setup.complete("a", headers=_bearer("b"))).status == 429


async def test_who_asks_for_more_than_a_number_can_be_and_leaves_is_charged_and_noted() -> None:
    async with routing("A", api_keys=(_line("a", tokens_per_minute=40),)) as setup:
        setup.workers[0].gate = asyncio.Event()
        task = asyncio.create_task(setup.complete("a b c", headers=_bearer("a"), max_tokens=10**400))
        await until(lambda: setup.workers[0].running)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await setup.idle()
        assert [record.to_json()["status"] for record in setup.router.parts.recent.latest(1)] == [499]
        got = await setup.complete("a", headers=_bearer("a"))
        assert got.status == 429 and len(got.headers["retry-after"]) < 12


async def test_the_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_file, "LOOK_S", 0.0)
    path = tmp_path / "keys"
    path.write_text(_line("old") + "\n")
    async with routing("A", api_key_file=str(path)) as setup:

        async def works(key: str) -> bool:
            return (await setup.get("/v1/models", _bearer(key))).status == 200

        assert await works("old") and not await works("new")
        path.write_text(_line("new") + "\n")
        assert await works("new") and not await works("old")
        for nonsense in ("", "sha256:xx\n", "# nothing\n"):
            path.write_text(nonsense)
            assert await works("new") and not await works("old")
        path.unlink()
        assert await works("new") and not await works("")


def test_a_file_without_keys_is_refused_and_one_with_bare_keys_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    with pytest.raises(UsageError, match="cannot read"):
        KeyFile(path=str(path))
    path.write_text("\n# none\n")
    with pytest.raises(UsageError, match="holds no key"):
        KeyFile(path=str(path))
    path.write_text("bare-key\n")
    with caplog.at_level(logging.WARNING):
        KeyFile(path=str(path))
    assert "1 keys as they are" in caplog.text and "bare-key" not in caplog.text
