"""A server whose timing is known, and which remembers what it did by its own clock.

    python -m benchmarks.bench.truth_server [--ttft-ms 100] [--tpot-ms 10] [--role-chunk] [--tokens-per-chunk N]
        [--keep-alive] [--split-utf8]

It answers `/v1/completions` and `/v1/chat/completions` with a first token after exactly `--ttft-ms` and the others
every `--tpot-ms`: optionally with an empty role chunk at once, several tokens a chunk (the first chunk has one), a
comment before every chunk, and characters whose bytes come in two writes. `GET /log` returns, and forgets, one entry a
request: its `X-Session-Id`, and when it was received and its first and last token were written, in perf_counter's
nanoseconds, which all processes of a machine share; `GET /count` how many there are. Prints its
port; ends when its stdin does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import asdict, dataclass
from time import perf_counter_ns
from typing import Any

import uvloop

from tercet.http.server import Request, Responder, Server

TEMPLATE_TOKENS = 5
"""What a chat template would add: words of a message are one token each."""


@dataclass(frozen=True, slots=True)
class Habits:
    """How the server streams. Milliseconds."""

    ttft_ms: float = 100.0
    tpot_ms: float = 10.0
    role_chunk: bool = False
    tokens_per_chunk: int = 1
    keep_alive: bool = False
    split_utf8: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """What the server did for one request."""

    session: str
    received_ns: int
    first_ns: int
    last_ns: int
    tokens: int


class TruthServer:
    """Answers by its habits, and logs."""

    def __init__(self, habits: Habits) -> None:
        self._habits = habits
        self._log: list[Entry] = []

    async def __call__(self, request: Request, responder: Responder) -> None:
        """Answer one request."""
        if request.path == "/v1/models":
            card = {"id": "truth", "object": "model", "max_model_len": 1_000_000}
            await _json(responder, {"object": "list", "data": [card]})
        elif request.path == "/health":
            await responder.send(200, b"")
        elif request.path == "/log":
            log, self._log = self._log, []
            await _json(responder, [asdict(entry) for entry in log])
        elif request.path == "/count":
            await _json(responder, len(self._log))
        elif request.path.startswith("/v1/"):
            await self._generate(request, responder)
        else:
            await responder.send(404, b'{"error": {"message": "not here"}}')

    async def _generate(self, request: Request, responder: Responder) -> None:
        habits, received_ns = self._habits, request.received_ns
        asked = json.loads(request.body)
        tokens = int(asked.get("max_completion_tokens") or asked["max_tokens"])
        chat = "messages" in asked
        responder.start(200, headers=[("X-Tercet-Route", "D0")])
        if habits.role_chunk and chat:
            responder.write(_event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}))
        sent = 0
        first_ns = last_ns = 0
        while sent < tokens:
            count = min(tokens - sent, habits.tokens_per_chunk if sent else 1)
            due_ms = habits.ttft_ms + (sent + count - 1) * habits.tpot_ms
            if habits.keep_alive:
                responder.write(b": keep-alive\n\n")
            await _until(received_ns + int(due_ms * 1e6))
            last_ns = perf_counter_ns()
            first_ns = first_ns or last_ns
            await self._write(responder, _chunk(chat, range(sent, sent + count)))
            sent += count
        usage = {"prompt_tokens": _prompt_tokens(asked), "completion_tokens": tokens}
        usage["total_tokens"] = usage["prompt_tokens"] + tokens
        counted = {"usage": {**usage, "prompt_tokens_details": {"cached_tokens": 0}}}
        responder.write(_event({**_head(chat), "choices": [], **counted}))
        responder.write(b"data: [DONE]\n\n")
        session = request.headers.get("x-session-id", "")
        self._log.append(Entry(session, received_ns, first_ns, last_ns, tokens))

    async def _write(self, responder: Responder, event: bytes) -> None:
        if not self._habits.split_utf8:
            responder.write(event)
            return
        middle = event.index("é".encode()) + 1
        responder.write(event[:middle])
        await asyncio.sleep(0)
        responder.write(event[middle:])


def _chunk(chat: bool, numbers: range) -> bytes:
    text = " é" * len(numbers)
    choice: dict[str, Any] = {"index": 0, "token_ids": list(numbers), "finish_reason": None}
    choice |= {"delta": {"content": text}} if chat else {"text": text}
    return _event({**_head(chat), "choices": [choice]})


def _head(chat: bool) -> dict[str, Any]:
    kind = "chat.completion.chunk" if chat else "text_completion"
    return {"id": "truth", "object": kind, "created": 0, "model": "truth"}


def _prompt_tokens(asked: dict[str, Any]) -> int:
    prompt = asked.get("prompt")
    if isinstance(prompt, list):
        return len(prompt)
    if isinstance(prompt, str):
        return len(prompt.split())
    contents = [message["content"] for message in asked["messages"]]
    texts = [text if isinstance(text, str) else " ".join(p.get("text", "") for p in text) for text in contents]
    return sum(len(text.split()) for text in texts) + TEMPLATE_TOKENS


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


async def _json(responder: Responder, data: Any) -> None:
    await responder.send(200, json.dumps(data).encode())


async def _until(due_ns: int) -> None:
    left_ns = due_ns - perf_counter_ns()
    while left_ns > 0:
        await asyncio.sleep(left_ns / 1e9)
        left_ns = due_ns - perf_counter_ns()


async def serve(habits: Habits) -> None:
    """Serve until stdin ends."""
    server = Server(TruthServer(habits), port=0)
    await server.start()
    print(server.port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.close(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ttft-ms", type=float, default=100.0)
    parser.add_argument("--tpot-ms", type=float, default=10.0)
    parser.add_argument("--role-chunk", action="store_true")
    parser.add_argument("--tokens-per-chunk", type=int, default=1)
    parser.add_argument("--keep-alive", action="store_true")
    parser.add_argument("--split-utf8", action="store_true")
    uvloop.run(serve(Habits(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
