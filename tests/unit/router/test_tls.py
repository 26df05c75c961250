from __future__ import annotations

import asyncio
import ssl
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme

from tercet.core.errors import UsageError
from tercet.http.client import Client, ClientError
from tercet.http.server import Request, Responder, Server
from tercet.http.tls import client_context, server_context
from tercet.router.config import RouterConfig
from tests.unit.http.smuggling import NEXT
from tests.unit.router.fake_worker import FakeWorker, Tickets

from .harness import Setup, routing, until


@dataclass
class Files:
    """An authority, what it signed for 127.0.0.1, and a stranger's."""

    ca: str
    server: str
    client: str
    other_ca: str
    other_client: str


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    ours, others = trustme.CA(), trustme.CA()

    def written(name: str, write: Callable[[str], None]) -> str:
        path = str(folder / name)
        write(path)
        return path

    def signed(authority: trustme.CA, name: str, identity: str) -> str:
        return written(name, authority.issue_cert(identity).private_key_and_cert_chain_pem.write_to_path)

    return Files(
        written("ca.pem", ours.cert_pem.write_to_path),
        signed(ours, "server.pem", "127.0.0.1"),
        signed(ours, "client.pem", "client@example.org"),
        written("other-ca.pem", others.cert_pem.write_to_path),
        signed(others, "other-client.pem", "client@example.org"),
    )


async def _status(port: int, tls: ssl.SSLContext, path: str = "/v1/models") -> int:
    client = Client(tls=tls)
    try:
        response = await client.request("GET", f"https://127.0.0.1:{port}{path}")
        await response.read()
        return response.status
    finally:
        await client.close()


async def test_the_router_speaks_tls_to_who_believes_its_authority(files: Files) -> None:
    async with routing("A", tls_cert=files.server) as setup:
        port = setup.router.port
        client = Client(tls=client_context(files.ca))
        try:
            body = b'{"model": "m", "prompt": "a b c", "max_tokens": 20, "stream": true}'
            response = await client.request("POST", f"https://127.0.0.1:{port}/v1/completions", body=body)
            assert response.status == 200 and b"[DONE]" in await response.read()
        finally:
            await client.close()
        for stranger in (client_context(files.other_ca), client_context()):
            with pytest.raises(ClientError, match="certificate verify failed"):
                await _status(port, stranger)
        with pytest.raises(ClientError):
            await setup.get("/health")  # in the clear
        await setup.idle()


async def test_versions_before_1_2_are_refused(files: Files) -> None:
    async with routing("A", tls_cert=files.server) as setup:
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            old = client_context(files.ca)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                old.minimum_version, old.maximum_version = version, version
            old.set_ciphers("ALL:@SECLEVEL=0")
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection("127.0.0.1", setup.router.port, ssl=old)
        new = client_context(files.ca)
        new.maximum_version = ssl.TLSVersion.TLSv1_2
        assert await _status(setup.router.port, new) == 200


async def test_with_an_authority_for_clients_only_its_clients_are_served(files: Files) -> None:
    async with routing("A", tls_cert=files.server, tls_client_ca=files.ca) as setup:
        port = setup.router.port
        nobody, known = client_context(files.ca), client_context(files.ca, files.client)
        assert await _status(port, known) == 200
        assert await _status(port, nobody) == 403
        assert await _status(port, nobody, "/metrics") == 403
        assert await _status(port, nobody, "/health") == 200  # a kubelet has no certificate
        with pytest.raises(ClientError):
            await _status(port, client_context(files.ca, files.other_client), "/health")


async def test_keys_are_asked_for_behind_tls_too(files: Files) -> None:
    async with routing("A", tls_cert=files.server, api_keys=("k",)) as setup:
        assert await _status(setup.router.port, client_context(files.ca)) == 401


def _all_ready(setup: Setup) -> bool:
    fleet = setup.router.parts.fleet
    return all(map(fleet.ready, fleet.ranks))


async def test_workers_behind_https(files: Files) -> None:
    """They ask the router for a certificate; one whose authority isn't believed is no worker."""
    worker = FakeWorker("A", Tickets())

    async def handle(request: Request, responder: Responder) -> None:
        if responder.transport.get_extra_info("peercert"):
            await worker.handle(request, responder)
        else:
            await responder.send(403, b"")

    server = Server(handle, tls=server_context(files.server, None, files.ca))
    await server.start()
    url = f"https://127.0.0.1:{server.port}"
    try:
        cases: list[tuple[dict[str, Any], bool]] = [
            ({"worker_ca": files.ca, "worker_cert": files.client}, True),
            ({"worker_ca": files.ca}, False),
            ({"worker_ca": files.other_ca, "worker_cert": files.client}, False),
        ]
        for settings, ready in cases:
            async with routing("", "aggregated", wait=False, also=(url,), **settings) as setup:
                if ready:
                    await until(partial(_all_ready, setup))
                    assert (await setup.complete("a")).status == 200
                else:
                    await asyncio.sleep(0.5)
                    assert (await setup.complete("a")).status == 503
    finally:
        await server.close(0)


async def test_a_bad_request_and_one_that_stands_still_end_under_tls_too(files: Files) -> None:
    async def handle(request: Request, responder: Responder) -> None:
        await responder.send(200, b"x" * 1000)

    server = Server(handle, header_timeout_s=1.0, tls=server_context(files.server, None))
    await server.start()
    try:
        for sent, expected in ((b"BAD\r\n\r\n", b" 400 "), (NEXT, b" 200 "), (b"GET / HT", b" 408 ")):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=client_context(files.ca))
            writer.write(sent)
            try:
                assert expected in await asyncio.wait_for(reader.readuntil(b"\r\n"), 30)
                await asyncio.wait_for(reader.read(), 30)
            except ConnectionResetError:
                pass
            writer.close()
        # Who connects and never shakes hands is cut.
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()
    finally:
        await server.close(0)


def test_files_that_will_not_do_are_named(tmp_path: Path, files: Files) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    workers = ("http://127.0.0.1:1",)
    with pytest.raises(UsageError, match=r"empty\.pem"):
        RouterConfig(workers=workers, tls_cert=str(empty)).server_tls()
    with pytest.raises(UsageError, match=r"absent\.pem"):
        RouterConfig(workers=workers, tls_cert=files.server, tls_client_ca=str(tmp_path / "absent.pem")).server_tls()
    with pytest.raises(UsageError, match=r"empty\.pem"):
        RouterConfig(workers=workers, worker_ca=str(empty)).worker_tls()
    with pytest.raises(UsageError, match="need --tls-cert"):
        RouterConfig(workers=workers, tls_key=files.server)
    with pytest.raises(UsageError, match="needs --worker-cert"):
        RouterConfig(workers=workers, worker_key=files.server)
