"""A line for each request: as text or as JSON, of one that is answered, refused, broken or left."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest

from tercet.core.api_keys import ApiKey, digest_of
from tercet.core.errors import UsageError
from tercet.router.config import RouterConfig
from tercet.router.request_log import JsonFormatter
from tests.unit.router.harness import routing

SECRET = "xyzzy-of-the-prompt"
KEYS = (ApiKey("ops", digest_of("k"), admin=True).line(),)
MINE = {"Authorization": "Bearer k"}


def told(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    lines = [JsonFormatter().format(record) for record in caplog.records]
    assert not [line for line in lines if "\n" in line]
    return [data for data in map(json.loads, lines) if data["logger"] == "tercet.request"]


async def test_json_is_one_object_a_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="tercet")
    async with routing("PD", "pd", log_requests=True, log_format="json", api_keys=KEYS) as setup:
        good = await setup.chat(SECRET, headers=MINE | {"X-Request-Id": "a"}, max_tokens=3, stream=True)
        kept = (await setup.get("/requests", MINE)).json["requests"][0]
        await setup.post("/v1/completions", f'{{"prompt": "{SECRET}'.encode(), MINE)
        await setup.complete(SECRET, model=f"{SECRET}\n{{}}"[:4], headers=MINE)
        await setup.complete(SECRET)  # without a key
        await setup.get("/status", MINE)
        await setup.post("/metrics/clear", b"", MINE)
        await setup.get("/v1/models", MINE)
        await setup.get("/health")
        await setup.get("/metrics")
        setup.role("D")[0].cut_after = 1
        await setup.chat(SECRET, headers=MINE, max_tokens=3, stream=True)
    assert good.status == 200
    first, malformed, unknown, unlocked, cleared, models, broken = told(caplog)
    assert {name: first[name] for name in kept} == kept, "the line is the record"
    assert first["message"] == "generation" and first["level"] == "info" and first["key"] == "ops"
    assert first["time"].endswith("+00:00")
    assert (malformed["status"], malformed["error"]) == (400, "invalid_json")
    assert (unknown["status"], unknown["error"]) == (404, "model_not_found")
    assert (unlocked["path"], unlocked["status"], unlocked["key"]) == ("/v1/completions", 401, None)
    assert (cleared["path"], cleared["status"], cleared["key"]) == ("/metrics/clear", 200, "ops")
    assert (models["method"], models["path"], models["status"]) == ("GET", "/v1/models", 200), "a look is not told"
    assert (broken["status"], broken["error"]) == (502, "worker_unreachable")
    assert SECRET not in caplog.text and SECRET not in json.dumps(told(caplog))


async def test_text_is_one_line_a_request_whatever_comes_from_outside(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="tercet.request")
    async with routing("A", "aggregated", log_requests=True) as setup:
        setup.workers[0].timing = "queue;dur=0.01, prefill;dur=0.02"
        await setup.complete("a b c", headers={"X-Request-Id": "mine"}, max_tokens=4)
        setup.workers[0].status = 400
        setup.workers[0].error = {"message": SECRET, "type": "x", "code": f"{SECRET}\nforged", "param": None}
        await setup.complete("a b c", max_tokens=4)
        setup.workers[0].status = 500
        await setup.complete("a b c", max_tokens=4)
        await setup.get("/nothing%0Aforged")
    answered, refused, failed, nothing = [record.getMessage() for record in caplog.records]
    assert answered.startswith("mine 200 aggregated first A0 3(0 cached)>4 queue@A0=0.0 prefill@A0=0.0 stream@A0=")
    assert answered.endswith(" ms") and "total=" in answered
    assert " 400 " in refused and 'error="worker_refused"' in refused
    assert " 500 " in failed and 'error="worker_error"' in failed, "a code that is no word is not kept"
    assert '"/nothing\\nforged" 404' in nothing
    assert "\n" not in "".join([answered, refused, failed, nothing]) and SECRET not in caplog.text


@pytest.mark.parametrize("how", ["text", "json"])
async def test_what_a_worker_calls_its_error_is_neither_logged_nor_counted_unless_it_is_a_word(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with routing("AA", "aggregated", log_requests=True, log_format=how) as setup:
        for worker in setup.workers:
            worker.status, worker.error = 500, {"message": "m", "code": f"{SECRET} is no word"}
        assert (await setup.complete("a")).status == 500
        kept, metrics = await setup.get("/requests"), await setup.get("/metrics")
        assert SECRET not in json.dumps(told(caplog) if how == "json" else caplog.text)
        assert SECRET.encode() not in kept.body, "nor is it kept"
        assert SECRET.encode() not in metrics.body and b'retries_total{reason="worker_error"} 1.0' in metrics.body


async def test_nobody_asked_for_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="tercet.request")
    async with routing("A", "aggregated") as setup:
        await setup.complete("a")
        await setup.get("/status")
    assert not caplog.records


def test_an_exception_is_in_the_line() -> None:
    try:
        raise ValueError("why")
    except ValueError:
        record = logging.getLogger("x").makeRecord("x", logging.ERROR, "f", 1, "it %s", ("broke",), sys.exc_info())
    data = json.loads(JsonFormatter().format(record))
    assert (data["message"], data["level"], data["logger"]) == ("it broke", "error", "x")
    assert data["exception"].startswith("builtins.ValueError\n") and "test_request_log.py:" in data["exception"]
    assert "why" not in data["exception"], "an exception's words may quote a prompt"


def test_another_format_is_refused() -> None:
    with pytest.raises(UsageError, match="choose text or json"):
        RouterConfig(workers=("http://a:1",), log_format="xml")
