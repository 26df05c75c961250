"""What the stand-ins of real engines share: an OpenAI server that is strict, and fails on demand.

A token is a word. The answer to a prompt is a function of its number of words, so that every route must give the same.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tercet.http.server import Request, Responder, Server

INFERENCES = ("/v1/chat/completions", "/v1/completions")


class Refused(Exception):
    """The engine answers this error. SGLang and TensorRT-LLM write it flat: no `error` around it."""

    def __init__(self, status: int, message: str, kind: str = "BadRequestError") -> None:
        super().__init__(message)
        self.status = status
        self.body = {"object": "error", "message": message, "type": kind, "param": None, "code": status}


class Engine:
    """One worker of `role` P, D or A. Attributes are knobs: turn them while it runs.

    `faults` are requests that the engine would not have understood. `running` requests are under way, `cancelled`
    counts those whose client left.
    """

    ready_paths: tuple[str, ...] = ("/health",)

    def __init__(self, role: str, *, ranks: int = 1) -> None:
        self.role, self.ranks = role, ranks
        self.server = Server(self.handle)
        self.refuse = 0  # the status that inferences are answered
        self.die = False  # cut the connection of an inference
        self.cut_after: int | None = None  # cut a stream after so many tokens
        self.error_after: int | None = None  # or say in it that the engine failed
        self.gate: asyncio.Event | None = None  # inferences wait for it
        self.token_gate: asyncio.Event | None = None  # streams wait for it after their first token
        self.finish = "length"
        self.cached = 0  # prompt tokens found in its prefix cache
        self.patience_s = 300.0  # how long a leg waits for the other one
        self.seen: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.faults: list[str] = []
        self.running = self.cancelled = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    async def stop(self) -> None:
        await self.server.close(0)

    @property
    def inferences(self) -> list[tuple[str, dict[str, Any], dict[str, str]]]:
        """What clients sent: the router's own probes left out."""
        return [item for item in self.seen if not item[2].get("x-request-id", "").startswith("probe-")]

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [body for _, body, _ in self.inferences]

    def fault(self, message: str) -> Refused:
        self.faults.append(message)
        return Refused(400, message)

    async def handle(self, request: Request, responder: Responder) -> None:
        try:
            if request.path in self.ready_paths:
                await responder.send(200, b"")
            elif request.path == "/v1/models":
                await send(responder, {"object": "list", "data": [{"id": "m", "object": "model"}]})
            elif request.path in INFERENCES and request.method == "POST":
                await self._inference(request, responder)
            else:
                raise Refused(404, "Not Found")
        except Refused as error:
            await send(responder, self.error_body(error), error.status)

    def error_body(self, error: Refused) -> dict[str, Any]:
        """Return an error as this engine writes it."""
        return error.body

    async def _inference(self, request: Request, responder: Responder) -> None:
        body = json.loads(request.body)
        self.seen.append((request.path, body, dict(request.headers)))
        probe = request.headers.get("x-request-id", "").startswith("probe-")
        self.running += 1
        try:
            if not probe:
                if self.gate is not None:
                    await self.gate.wait()
                if self.die:
                    responder.abort()
                    return
                if self.refuse:
                    raise Refused(self.refuse, "refused on demand", "InternalServerError")
            await self.serve(request, body, responder)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def serve(self, request: Request, body: dict[str, Any], responder: Responder) -> None:
        """Check the request field by field and answer it."""
        raise NotImplementedError

    # --- answers ---

    async def answer(
        self,
        request: Request,
        body: dict[str, Any],
        words: list[str],
        responder: Responder,
        limit: int,
        *,
        cached: int | None,
        fields: dict[str, Any] | None = None,
        prompt_logprobs: bool = True,
        **more: Any,
    ) -> None:
        """Answer `limit` tokens to the prompt `words`; `more` are fields of the choices, `fields` of the answer.

        Without `prompt_logprobs` an echoed prompt comes without its logprobs, though they were asked for.
        """
        chat = request.path.endswith("chat/completions")
        tokens, n = [f"w{len(words) + i}" for i in range(limit)], body.get("n") or 1
        echoed = words if body.get("echo") and not chat else []
        shown = echoed if prompt_logprobs else []
        if not body.get("stream"):
            text = " ".join(echoed + tokens)
            content: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            said = {**content, **logprobs(body, chat, shown + tokens, len(words) - len(shown))}
            choices = [{"index": i, **said, "finish_reason": self.finish, **more} for i in range(n)]
            data = {"id": "x", "object": "chat.completion" if chat else "text_completion", "model": "m"}
            counted = usage(len(words), limit * n, cached)
            await send(responder, {**data, "choices": choices, "usage": counted, **(fields or {})})
            return
        responder.start(200)
        for i, token in enumerate(tokens):
            if i == self.cut_after:
                responder.abort()
                return
            if i == self.error_after:
                error = Refused(500, "the engine died", "INTERNAL_SERVER_ERROR").body
                responder.write(b"data: " + json.dumps({"error": error}).encode() + b"\n\n")
                break
            if i == 1 and self.token_gate is not None:
                await self.token_gate.wait()
            first = echoed if i == 0 else []
            text = (" " if i else "") + " ".join([*first, token])
            delta: dict[str, Any] = {"delta": {"content": text}} if chat else {"text": text}
            if chat and i == 0:
                delta["delta"]["role"] = "assistant"
            seen = shown if i == 0 else []
            delta |= logprobs(body, chat, [*seen, token], len(words) + i - len(seen))
            finish = self.finish if i == limit - 1 else None
            responder.write(event({"id": "x", "choices": [{"index": 0, **delta, "finish_reason": finish}]}))
            await responder.drain()
        if (body.get("stream_options") or {}).get("include_usage"):
            responder.write(event({"id": "x", "choices": [], "usage": usage(len(words), limit, cached)}))
        responder.write(b"data: [DONE]\n\n")
        responder.finish()


def logprobs(body: dict[str, Any], chat: bool, tokens: list[str], start: int) -> dict[str, Any]:
    """Return the `logprobs` of tokens from position `start` on, a function of the position alone; nothing where they
    were not asked for."""
    if not body.get("logprobs"):
        return {}
    values = [-(start + i) / 64 for i in range(len(tokens))]
    if chat:
        content = [{"token": t, "logprob": v, "top_logprobs": []} for t, v in zip(tokens, values, strict=True)]
        return {"logprobs": {"content": content}}
    top = [{t: v} for t, v in zip(tokens, values, strict=True)]
    offsets = [-1] * len(tokens)  # as SGLang writes them
    return {
        "logprobs": {"tokens": tokens, "token_logprobs": values, "top_logprobs": top, "text_offset": offsets},
    }


async def send(responder: Responder, data: object, status: int = 200) -> None:
    await responder.send(status, json.dumps(data, separators=(",", ":")).encode())


def event(data: object) -> bytes:
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def usage(prompt: int, completion: int, cached: int | None) -> dict[str, Any]:
    details = None if cached is None else {"cached_tokens": cached}
    total = prompt + completion
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": total,
        "prompt_tokens_details": details,
    }


def words_of(body: dict[str, Any]) -> list[str]:
    """Return the tokens of a prompt."""
    if "messages" in body:
        return " ".join(f"{m['role']} {m['content']}" for m in body["messages"]).split()
    prompt = body["prompt"]
    if isinstance(prompt, list):
        return [str(item) for item in prompt]
    return str(prompt).split()


async def meet(patience_s: float, event: asyncio.Event, what: str) -> None:
    """Wait for the other leg; give up as an engine does. Raises Refused 500."""
    try:
        async with asyncio.timeout(patience_s):
            await event.wait()
    except TimeoutError:
        raise Refused(500, f"{what} timed out after {patience_s:g}s", "InternalServerError") from None


def limit_of(body: dict[str, Any]) -> int:
    return int(body.get("max_completion_tokens") or body.get("max_tokens") or 16)
