"""The router as a process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys

import pytest

from tercet.core.errors import UsageError
from tercet.http.client import Client, ClientError
from tercet.router.app import Router
from tercet.router.config import RouterConfig
from tests.ports import free_port
from tests.unit.router.fake_worker import FakeWorker, Tickets
from tests.unit.router.harness import until

RUN = """
import json, sys
from tercet.router.app import run
from tercet.router.config import RouterConfig
sys.exit(run(RouterConfig(**json.loads(sys.argv[1]))))
"""


async def start(*, port: int, workers: list[str]) -> asyncio.subprocess.Process:
    settings = {"port": port, "workers": workers, "shutdown_grace_s": 60, "health_interval_s": 0.1}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUN, json.dumps(settings), stderr=asyncio.subprocess.PIPE
    )


async def test_a_busy_port_is_a_usage_error_that_names_it() -> None:
    worker = await FakeWorker("A", Tickets()).start()
    try:
        router = Router(RouterConfig(workers=(worker.url,), port=worker.server.port))
        with pytest.raises(UsageError, match=f"{worker.server.port}.*in use.*--port"):
            await router.start()
        await router.close(0)
        process = await start(port=worker.server.port, workers=[worker.url])
        assert process.stderr is not None
        error = (await asyncio.wait_for(process.stderr.read(), 60)).decode()
        assert await process.wait() == 2
        assert error.startswith("error: can't listen on 127.0.0.1:") and "Traceback" not in error
    finally:
        await worker.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_streams_end_and_exits_with_0(number: signal.Signals) -> None:
    worker = await FakeWorker("A", Tickets()).start()
    worker.token_s = 0.05
    port = free_port()
    process = await start(port=port, workers=[worker.url])
    client = Client()
    try:
        await until_ready(client, port)
        body = json.dumps({"prompt": "a b", "stream": True, "max_tokens": 8}).encode()
        response = await client.request("POST", f"http://127.0.0.1:{port}/v1/completions", body=body)
        process.send_signal(number)
        assert (await response.read()).endswith(b"data: [DONE]\n\n")
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        await end(process)
        await client.close()
        await worker.stop()


async def test_a_second_signal_does_not_wait() -> None:
    worker = await FakeWorker("A", Tickets()).start()
    worker.gate = None
    port = free_port()
    process = await start(port=port, workers=[worker.url])
    client = Client()
    try:
        await until_ready(client, port)
        worker.gate = asyncio.Event()
        body = json.dumps({"prompt": "a b"}).encode()
        request = asyncio.create_task(client.request("POST", f"http://127.0.0.1:{port}/v1/completions", body=body))
        await until(lambda: worker.inferences)
        process.terminate()
        await until_closed(port)  # two signals that are seen at once are one
        await asyncio.sleep(0.1)
        assert process.returncode is None
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 30) == 0
        await until(lambda: worker.cancelled)
        await asyncio.wait({request})
    finally:
        await end(process)
        await client.close()
        await worker.stop()


def test_the_router_needs_no_torch() -> None:
    code = "import sys, tercet.router.app; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


async def until_ready(client: Client, port: int) -> None:
    for _ in range(400):
        try:
            response = await client.request("GET", f"http://127.0.0.1:{port}/ready")
            await response.read()
            if response.status == 200:
                return
        except ClientError:
            pass
        await asyncio.sleep(0.05)
    raise AssertionError("the router did not get ready")


async def until_closed(port: int) -> None:
    """Wait until nobody listens at the port."""
    async with asyncio.timeout(30):
        with contextlib.suppress(ConnectionError):
            while True:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                await asyncio.sleep(0.02)


async def end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()
