"""Requests that two servers could read differently, each with the one answer that is expected."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

HANDLED = 0
"""Stands for the handler's own answer: the request was read, and nothing of it left over."""
NEXT = b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
READ = (HANDLED, HANDLED)
"""Both the request and NEXT, sent behind it, are answered."""

_GET = b"GET /health HTTP/1.1\r\n"
_POST = b"POST /health HTTP/1.1\r\nHost: h\r\n"
_CHUNKED = _POST + b"Transfer-Encoding: chunked\r\n\r\n"
_ONE = b"1\r\na\r\n"
_LAST = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Row:
    """What is sent, and the statuses of the answers until the server closes."""

    name: str
    sent: bytes
    answers: tuple[int, ...] = (400,)


def _length(name: str, value: bytes, *answers: int) -> Row:
    return Row(f"length: {name}", _POST + b"Content-Length:" + value + b"\r\n\r\na", answers or (400,))


def _coding(name: str, value: bytes, *answers: int) -> Row:
    return Row(f"coding: {name}", _POST + b"Transfer-Encoding:" + value + b"\r\n\r\n" + _LAST, answers or (400,))


def _line(name: str, line: bytes, *answers: int) -> Row:
    return Row(f"request line: {name}", line + b"\r\nHost: h\r\n\r\n", answers or (400,))


def _header(name: str, lines: bytes, *answers: int) -> Row:
    return Row(f"header: {name}", _GET + b"Host: h\r\n" + lines + b"\r\n\r\n", answers or (400,))


def _host(name: str, lines: bytes, *answers: int) -> Row:
    return Row(f"host: {name}", _GET + lines + b"\r\n", answers or (400,))


def _chunks(name: str, chunks: bytes, *answers: int) -> Row:
    return Row(f"chunk: {name}", _CHUNKED + chunks, answers or (400,))


TABLE = (
    _length("one", b" 1", *READ),
    _length("white space around it", b"  1 \t", *READ),
    _length("leading zeros", b" 001", *READ),
    _length("a sign", b" +1"),
    _length("negative", b" -1"),
    _length("hex", b" 0x1"),
    _length("a space inside", b" 1 1"),
    _length("a list", b" 1, 1"),
    _length("nothing", b""),
    _length("a digit beyond ASCII", b" \xb2"),
    _length("an underscore", b" 1_0"),
    _length("a fraction", b" 1.0"),
    _length("beyond 64 bits", b" 18446744073709551617"),
    _length("thousands of zeros before it", b" " + b"0" * 5000 + b"1", 413),
    _length("beyond the bound", b" 9999999999999", 413),
    _length("the same twice", b" 1\r\nContent-Length: 1"),
    _length("two that differ", b" 1\r\nContent-Length: 2"),
    _length("a space before the colon", b" 1\r\nContent-Length : 1"),
    _length("and chunked", b" 5\r\nTransfer-Encoding: chunked"),
    Row("coding: chunked and a length", _POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + _LAST),
    Row("coding: chunked", _CHUNKED + _ONE + _LAST, READ),
    _coding("in capitals, behind a tab", b"\tChUNKED ", *READ),
    _coding("a vertical tab before it", b" \x0bchunked"),
    _coding("in quotes", b' "chunked"', 501),
    _coding("a prefix", b" xchunked", 501),
    _coding("a suffix", b" chunkedx", 501),
    _coding("a parameter", b" chunked;a=b", 501),
    _coding("identity", b" identity", 501),
    _coding("nothing", b""),
    _coding("chunked, identity", b" chunked, identity"),
    _coding("chunked twice", b" chunked, chunked"),
    _coding("gzip, chunked", b" gzip, chunked", 501),
    _coding("an empty one before it", b" , chunked", 501),
    _coding("identity, then a second header", b" identity\r\nTransfer-Encoding: chunked", 501),
    _coding("chunked, then identity in a second header", b" chunked\r\nTransfer-Encoding: identity"),
    _coding("a space before the colon", b" chunked\r\nTransfer-Encoding : chunked"),
    _coding("folded", b"\r\n chunked"),
    Row("coding: in HTTP/1.0", b"POST /health HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + _LAST),
    Row(
        "coding: in HTTP/1.0, keep-alive",
        b"POST /health HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n" + _LAST,
    ),
    _line("as it should be", b"GET /health HTTP/1.1", *READ),
    _line("a whole URL", b"GET http://h/health HTTP/1.1", *READ),
    _line("a whole URL of another host", b"GET https://other:1/health HTTP/1.1", *READ),
    _line("a URL with a user", b"GET http://user@h/health HTTP/1.1"),
    _line("a URL without a host", b"GET http:///health HTTP/1.1"),
    _line("another scheme", b"GET ftp://h/health HTTP/1.1"),
    _line("a host alone", b"GET h:80 HTTP/1.1"),
    _line("a fragment", b"GET /health#x HTTP/1.1"),
    _line("a tab between", b"GET\t/health HTTP/1.1"),
    _line("a space before it", b" GET /health HTTP/1.1"),
    _line("a space behind it", b"GET /health HTTP/1.1 "),
    _line("a space in the target", b"GET /hea lth HTTP/1.1"),
    _line("two spaces", b"GET  /health HTTP/1.1", *READ),  # skipped: there is no other way to read it
    _line("a byte beyond ASCII", b"GET /health\xff HTTP/1.1"),
    _line("a control character", b"GET /health\x01 HTTP/1.1"),
    _line("a NUL", b"GET /health\0 HTTP/1.1"),
    _line("a bare CR", b"GET /health\rX HTTP/1.1"),
    _line("a method in lower case", b"get /health HTTP/1.1"),
    _line("an unknown method", b"SMUGGLE /health HTTP/1.1"),
    _line("CONNECT", b"CONNECT h:80 HTTP/1.1", 405),
    _line("no version", b"GET /health", 505),
    _line("HTTP/0.9", b"GET /health HTTP/0.9", 505),
    _line("HTTP/1.2", b"GET /health HTTP/1.2"),
    _line("HTTP/1.10", b"GET /health HTTP/1.10"),
    _line("HTTP/2.0", b"GET /health HTTP/2.0", 505),
    _line("http/1.1", b"GET /health http/1.1"),
    _line("a bare LF behind it", b"GET /health HTTP/1.1\nX: y"),
    Row("HTTP/2's preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    Row("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40)),
    Row("empty lines before it", b"\r\n\r\n" + _GET + b"Host: h\r\n\r\n", READ),
    _host("none", b""),
    _host("nothing", b"Host:\r\n", *READ),
    _host("a port", b"Host: h:8000\r\n", *READ),
    _host("IPv6", b"Host: [::1]:8000\r\n", *READ),
    _host("two", b"Host: h\r\nHost: i\r\n"),
    _host("the same twice", b"Host: h\r\nHost: h\r\n"),
    _host("a list", b"Host: h, i\r\n"),
    _host("a path", b"Host: h/x\r\n"),
    _host("a user", b"Host: a@h\r\n"),
    _host("a port that is none", b"Host: h:x\r\n"),
    Row("host: none in HTTP/1.0", b"GET /health HTTP/1.0\r\n\r\n", (HANDLED,)),
    _header("a value beyond ASCII", b"X: \xff", *READ),
    _header("a space before the colon", b"X : y"),
    _header("a space in its name", b"X Y: z"),
    _header("no colon", b"X"),
    _header("no name", b": x"),
    _header("a name beyond ASCII", b"\xff: x"),
    _header("folded", b"X: a\r\n b"),
    _header("folded by a tab", b"X: a\r\n\tb"),
    _header("a bare LF behind it", b"X: a\nY: b"),
    _header("a bare CR in it", b"X: a\rY: b"),
    _header("a NUL", b"X: a\0b"),
    _header("a control character", b"X: a\x01b"),
    _header("DEL", b"X: a\x7fb"),
    Row("header: white space before the first", _GET + b" X: y\r\nHost: h\r\n\r\n"),
    Row("header: a bare LF ends the last", _GET + b"Host: h\n\r\n"),
    Row("header: a bare LF ends the head", _GET + b"Host: h\r\n\n"),
    Row("header: bare LF everywhere", b"GET /health HTTP/1.1\nHost: h\n\n"),
    _header("127 beside the host", b"\r\n".join(b"x%d: 1" % i for i in range(127)), *READ),
    _header("128 beside the host", b"\r\n".join(b"x%d: 1" % i for i in range(128)), 431),
    _header("one 200 times", b"\r\n".join([b"x: 1"] * 200), 431),
    _header("70 kB", b"x: " + b"a" * 70_000, 431),
    _header("a length in Connection", b"Connection: content-length, keep-alive\r\nContent-Length: 0", *READ),
    _chunks("an extension", b'1;a="b"\r\na\r\n0;x\r\n\r\n', *READ),
    _chunks("a size in capitals", b"A\r\n0123456789\r\n" + _LAST, *READ),
    _chunks("leading zeros", b"0001\r\na\r\n" + _LAST, *READ),
    _chunks("no size", b"\r\na\r\n" + _LAST),
    _chunks("a negative size", b"-1\r\na\r\n" + _LAST),
    _chunks("a signed size", b"+1\r\na\r\n" + _LAST),
    _chunks("0x", b"0x1\r\na\r\n" + _LAST),
    _chunks("an underscore", b"1_0\r\na\r\n" + _LAST),
    _chunks("a space before the size", b" 1\r\na\r\n" + _LAST),
    _chunks("a space behind the size", b"1 \r\na\r\n" + _LAST),
    _chunks("a size beyond 64 bits", b"f" * 17 + b"\r\na"),
    _chunks("a bare LF behind the size", b"1\na\r\n" + _LAST),
    _chunks("a bare LF in an extension", b"1;a\n\r\na\r\n" + _LAST),
    _chunks("a bare CR in an extension", b"1;a\rb\r\na\r\n" + _LAST),
    _chunks("an extension of 1 MB", b"1;" + b"a" * 1_000_000, 413),
    _chunks("longer than its size", b"1\r\nab\r\n" + _LAST),
    _chunks("no line end behind it", b"1\r\na" + _LAST),
    _chunks("a bare LF behind it", b"1\r\na\n" + _LAST),
    _chunks("a bare LF ends the body", _ONE + b"0\n\n"),
    _chunks("a trailer", _ONE + b"0\r\nX-Tercet-Trailer: y\r\n\r\n", *READ),
    _chunks("a host in a trailer", _ONE + b"0\r\nHost: other\r\n\r\n", *READ),
    _chunks("a length in a trailer", _ONE + b"0\r\nContent-Length: 5\r\n\r\n"),
    _chunks("a coding in a trailer", _ONE + b"0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    _chunks("a folded trailer", _ONE + b"0\r\nX: a\r\n b\r\n\r\n"),
    _chunks("a trailer of 1 MB", _ONE + b"0\r\nX: " + b"a" * 1_000_000, 413),
    Row("pipelined behind a bad one", _GET + b"Host: h\r\n\r\n" + b"BAD\r\n\r\n", (HANDLED, 400)),
    Row("a GET with a body", _GET + b"Host: h\r\nContent-Length: 3\r\n\r\nGET", READ),
    Row("expect: an unknown", _POST + b"Expect: cake\r\nContent-Length: 1\r\n\r\na", (417,)),
    Row("expect: sent on without waiting", _POST + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\na", (100, *READ)),
    Row("upgrade: h2c", _POST + b"Upgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 3\r\n\r\nGET", READ),
    Row("upgrade: websocket", _GET + b"Host: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", READ),
    Row(
        "upgrade: with both framings",
        _POST + b"Upgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n" + _LAST,
    ),
    Row("upgrade: two hosts", _POST + b"Host: i\r\nUpgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 0\r\n\r\n"),
)


async def statuses(host: str, port: int, sent: bytes) -> tuple[int, ...]:
    """Send `sent` and NEXT over a bare socket; return the statuses of all answers until the server closes."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(sent + NEXT)
        answers = await asyncio.wait_for(reader.read(-1), 10)
    finally:
        writer.close()
    return tuple(int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers))


async def faults(host: str, port: int, *, get: int, post: int) -> list[str]:
    """Send the whole table; return what was answered otherwise. `get` and `post` are the handler's own statuses."""
    wrong: list[str] = []
    for row in TABLE:
        own = post if row.sent.startswith(b"POST") else get
        expected = tuple(
            status or (own if i == row.answers.index(HANDLED) else get) for i, status in enumerate(row.answers)
        )
        got = await statuses(host, port, row.sent)
        if got != expected:
            wrong.append(f"{row.name}: {got}, not {expected}")
    return wrong
