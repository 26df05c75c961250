"""`tercet router` as a process, before stand-ins of real engines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Sequence

import pytest

from tercet.http.client import Client, ClientError
from tests.conformance.engine import Engine
from tests.conformance.sglang import Rooms, SglangServer
from tests.conformance.trtllm import Held, TrtllmServer
from tests.ports import free_port


def engines(dialect: str) -> Sequence[Engine]:
    if dialect == "sglang":
        rooms = Rooms()
        return [SglangServer("P", rooms, bootstrap_port=9001), SglangServer("D", rooms)]
    held = Held()
    return [TrtllmServer("P", held), TrtllmServer("D", held)]


@pytest.mark.parametrize(("dialect", "fragment"), [("sglang", "#bootstrap=9001"), ("trtllm", "")])
async def test_the_command_serves_the_dialect(dialect: str, fragment: str) -> None:
    prefill, decode = engines(dialect)
    for engine in (prefill, decode):
        await engine.server.start()
    port = free_port()
    words = ["router", "--dialect", dialect, "--port", str(port), "--mode", "pd"]
    words += ["--prefill", prefill.url + fragment, "--decode", decode.url]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tercet", *words)
    client, url = Client(), f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(90):
            while True:
                with contextlib.suppress(ClientError):
                    if (await client.request("GET", url + "/ready")).status == 200:
                        break
                await asyncio.sleep(0.1)
            body = json.dumps({"model": "m", "prompt": "a b c", "max_tokens": 3}).encode()
            response = await client.request("POST", url + "/v1/completions", body=body)
            data = json.loads(await response.read())
        assert data["choices"][0]["text"] == "w3 w4 w5"
        assert prefill.faults + decode.faults == [] and prefill.inferences and decode.inferences
    finally:
        await client.close()
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 60) == 0
        for engine in (prefill, decode):
            await engine.stop()
