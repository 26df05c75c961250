"""What the client makes of answers that two readers could take for different things."""

from __future__ import annotations

import asyncio

import pytest

from tercet.http.client import ClientError
from tercet.http.server import Request, Responder

from .wires import client, connect, raw_serving, serving

_OK = b"HTTP/1.1 200 OK\r\n"
_LAST = b"0\r\n\r\n"
_CHUNKED = _OK + b"Transfer-Encoding: chunked\r\n\r\n"

READ = {
    "a length": (_OK + b"Content-Length: 2\r\n\r\nab", b"ab"),
    "no length": (_OK + b"Connection: close\r\n\r\nab", b"ab"),
    "chunks": (_CHUNKED + b"2\r\nab\r\n" + _LAST, b"ab"),
    "an extension": (_CHUNKED + b"2;x=y\r\nab\r\n" + _LAST, b"ab"),
    "a trailer": (_CHUNKED + b"2\r\nab\r\n0\r\nX: y\r\n\r\n", b"ab"),
    "interim answers": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nX: y\r\n\r\n" + _CHUNKED + _LAST, b""),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\nab", b"ab"),
}
REFUSED = {
    "both framings": _OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + _LAST,
    "both framings, chunked first": _OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + _LAST,
    "the same length twice": _OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nab",
    "two lengths": _OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    "a list of lengths": _OK + b"Content-Length: 2, 2\r\n\r\nab",
    "a signed length": _OK + b"Content-Length: +2\r\n\r\nab",
    "a negative length": _OK + b"Content-Length: -2\r\n\r\nab",
    "a length in hex": _OK + b"Content-Length: 0x2\r\n\r\nab",
    "a length beyond 64 bits": _OK + b"Content-Length: 99999999999999999999\r\n\r\nab",
    "a length with thousands of zeros": _OK + b"Content-Length: " + b"0" * 5000 + b"2\r\n\r\nab",
    "a space before the colon": _OK + b"Content-Length : 2\r\n\r\nab",
    "chunked with a prefix": _OK + b"Transfer-Encoding: xchunked\r\n\r\n2\r\nab\r\n" + _LAST,
    "chunked with a suffix": _OK + b"Transfer-Encoding: chunkedx\r\n\r\n2\r\nab\r\n" + _LAST,
    "gzip, chunked": _OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nab\r\n" + _LAST,
    "chunked, identity": _OK + b"Transfer-Encoding: chunked, identity\r\n\r\n2\r\nab\r\n" + _LAST,
    "identity": _OK + b"Transfer-Encoding: identity\r\n\r\nab",
    "chunked twice": _OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + _LAST,
    "chunked in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n" + _LAST,
    "a folded header": _OK + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "a bare CR": _OK + b"X: a\rSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
    "a bare LF": _OK + b"X: a\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
    "a NUL": _OK + b"X: a\0b\r\nContent-Length: 0\r\n\r\n",
    "a control character": _OK + b"X: a\x01b\r\nContent-Length: 0\r\n\r\n",
    "a header without a name": _OK + b": a\r\nContent-Length: 0\r\n\r\n",
    "a header without a colon": _OK + b"X\r\nContent-Length: 0\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/0.9": b"<html>hello</html>\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\nabc",
    "a chunk longer than its size": _CHUNKED + b"1\r\nab\r\n" + _LAST,
    "a signed chunk size": _CHUNKED + b"+2\r\nab\r\n" + _LAST,
    "a negative chunk size": _CHUNKED + b"-2\r\nab\r\n" + _LAST,
    "a chunk size in 0x": _CHUNKED + b"0x2\r\nab\r\n" + _LAST,
    "a chunk size beyond 64 bits": _CHUNKED + b"f" * 17 + b"\r\nab",
    "a bare LF after a chunk size": _CHUNKED + b"2\nab\r\n" + _LAST,
    "a bare LF in an extension": _CHUNKED + b"2;a\n\r\nab\r\n" + _LAST,
    "a bare LF after a chunk": _CHUNKED + b"2\r\nab\n" + _LAST,
    "a second answer behind chunks": _CHUNKED + _LAST + _OK + b"Content-Length: 0\r\n\r\n",
    "a line end behind chunks": _CHUNKED + b"2\r\nab\r\n" + _LAST + b"\n",
    "an empty line behind chunks": _CHUNKED + b"2\r\nab\r\n" + _LAST + b"\r\n",
    "headers without end": _OK + b"X: " + b"a" * 200_000,
    "interim answers without end": b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000,
}


@pytest.mark.parametrize(("sent", "body"), READ.values(), ids=READ.keys())
async def test_what_can_be_read_in_one_way_is_read(sent: bytes, body: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        await writer.drain()

    async with raw_serving(talk) as url, client() as made:
        response = await made.request("GET", url)
        assert (response.status, await response.read()) == (200, body)


@pytest.mark.parametrize("sent", REFUSED.values(), ids=REFUSED.keys())
async def test_what_could_be_read_in_two_ways_is_an_error_and_never_reaches_a_client(sent: bytes) -> None:
    closed = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        try:
            await writer.drain()
            assert await reader.read() == b""  # nothing else is asked on a connection like this
        finally:
            closed.set()

    async with raw_serving(talk) as url, client() as made:
        seen: list[ClientError] = []

        async def relay(request: Request, responder: Responder) -> None:
            try:
                response = await made.request("GET", url, first_byte_timeout_s=5)
                await response.relay(responder)
            except ClientError as error:
                seen.append(error)
                if responder.started:
                    responder.abort()
                else:
                    await responder.send(502, b"")

        async with serving(relay) as server:
            raw = await connect(server)
            await raw.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            try:
                got = await raw.rest()
            except ConnectionResetError:
                got = b""
            assert seen and {error.reason for error in seen} == {"protocol"}, (got, seen)
            # The client has the head of an answer that broke later, or only the refusals; nothing of a second answer.
            assert got.count(b"HTTP/1.1 ") <= 2 and b"Set-Cookie" not in got
            assert got.count(b"HTTP/1.1 200") <= 1
            raw.close()
        await asyncio.wait_for(closed.wait(), 30)
