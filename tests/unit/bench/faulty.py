"""A server that fails in chosen ways, on bare sockets: what it does to a request is what it does to the bytes."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(**choice: object) -> bytes:
    return f"data: {json.dumps({'choices': [{'index': 0, **choice}]})}\n\n".encode()


def usage(tokens: int) -> bytes:
    return (
        f"data: {json.dumps({'choices': [], 'usage': {'prompt_tokens': 1, 'completion_tokens': tokens}})}\n\n".encode()
    )


def plain(status: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


TOKEN = event(text="x", token_ids=[7])

FAULTS: dict[str, tuple[bytes, bool]] = {
    "well": (HEAD + chunk(TOKEN) + chunk(TOKEN) + chunk(usage(2)) + chunk(DONE) + b"0\r\n\r\n", True),
    "drops": (b"", False),
    "stalls": (HEAD + chunk(TOKEN), True),
    "http 500": (plain("500 Oh", b'{"error": {"message": "out of memory"}}'), True),
    "http 429": (plain("429 Busy", b"busy"), True),
    "cut": (HEAD + chunk(TOKEN), False),
    "ends early": (HEAD + chunk(TOKEN) + b"0\r\n\r\n", True),
    "engine": (HEAD + chunk(TOKEN) + chunk(event(text="", finish_reason="error")) + chunk(DONE) + b"0\r\n\r\n", True),
    "in stream": (HEAD + chunk(b'data: {"error": {"message": "broke"}}\n\n') + chunk(DONE) + b"0\r\n\r\n", True),
    "short": (HEAD + chunk(TOKEN) + chunk(usage(1)) + chunk(DONE) + b"0\r\n\r\n", True),
    "garbage": (HEAD + chunk(b"data: {oh\n\n") + chunk(DONE) + b"0\r\n\r\n", True),
    "odd": (HEAD + chunk(b'data: {"choices": [null]}\n\n') + chunk(DONE) + b"0\r\n\r\n", True),
    "not http": (b"SSH-2.0-OpenSSH\r\n\r\n", False),
    "silent": (b"", True),
}
"""What is answered, and whether the connection stays open."""

KINDS = {
    "drops": "closed",
    "stalls": "stalled",
    "http 500": "http_5xx",
    "http 429": "http_4xx",
    "cut": "closed",
    "ends early": "closed",
    "engine": "engine_error",
    "in stream": "engine_error",
    "short": "wrong_length",
    "garbage": "invalid_answer",
    "odd": "invalid_answer",
    "not http": "invalid_answer",
    "silent": "timeout",
}
"""What each fault is in the results."""


@asynccontextmanager
async def faulty(choose: Callable[[int], str]) -> AsyncIterator[tuple[str, Counter[str]]]:
    """Serve; `choose` names the fault of the n-th request. Yields the URL and how often each was done."""
    done: Counter[str] = Counter()
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(next(line for line in head.lower().split(b"\r\n") if b"content-length" in line).split()[1])
                await reader.readexactly(size)
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            fault = choose(done.total())
            done[fault] += 1
            answer, stays = FAULTS[fault]
            writer.write(answer)
            if not stays:
                writer.close()
                return

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", done
    finally:
        server.close()
        for writer in writers:
            writer.close()
        await server.wait_closed()
