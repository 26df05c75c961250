"""A server whose timing is known: first token after 100 ms, the others every 10 ms, told by its own clock.

Each token's text is "<received ns>,<written ns>;" on perf_counter's clock, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import sys
from time import perf_counter_ns

import uvloop

from tercet.http.server import Request, Responder, Server

TTFT_S = 0.1
TPOT_S = 0.01


async def answer(request: Request, responder: Responder) -> None:
    received_ns = request.received_ns
    asked = json.loads(request.body)
    tokens = int(asked["max_tokens"])
    chat = "messages" in asked
    responder.start(200, headers=[("X-Tercet-Route", "D0")])
    if chat:
        responder.write(_event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}))
    responder.write(b": keep-alive\n\n")
    for i in range(tokens):
        await _until(received_ns + int((TTFT_S + i * TPOT_S) * 1e9))
        text = f"{received_ns},{perf_counter_ns()};"
        choice = {"index": 0, "delta": {"content": text}} if chat else {"index": 0, "text": text, "token_ids": [i]}
        responder.write(_event({"choices": [choice]}))
    usage = {"prompt_tokens": 7, "completion_tokens": tokens, "prompt_tokens_details": {"cached_tokens": 3}}
    responder.write(_event({"choices": [], "usage": usage}))
    responder.write(b"data: [DONE]\n\n")


def _event(data: dict[str, object]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


async def _until(due_ns: int) -> None:
    left_ns = due_ns - perf_counter_ns()
    while left_ns > 0:
        await asyncio.sleep(left_ns / 1e9)
        left_ns = due_ns - perf_counter_ns()


async def main() -> None:
    server = Server(answer, port=0)
    await server.start()
    print(server.port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until the parent closes its end
    await server.close(0)


if __name__ == "__main__":
    uvloop.run(main())
