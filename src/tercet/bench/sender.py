"""Sends one request and times its answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from time import perf_counter_ns
from typing import Any

from tercet.bench.answer import Answer
from tercet.bench.result import RequestResult
from tercet.http.client import Client, ClientError, Response

Headers = tuple[tuple[str, str], ...]


class Sender:
    """Sends OpenAI requests to one server. `timeout_s` bounds the wait for the first byte, and each silence after."""

    def __init__(self, client: Client, url: str, *, headers: Headers = (), timeout_s: float = 600.0) -> None:
        base = url.rstrip("/").removesuffix("/v1")
        self._client = client
        self._completions = f"{base}/v1/completions"
        self._chat = f"{base}/v1/chat/completions"
        self._headers = headers
        self._timeout_s = timeout_s

    async def send(
        self,
        body: Mapping[str, Any] | bytes,
        *,
        scheduled_ns: int,
        conversation: str = "",
        turn: int = 1,
        headers: Headers = (),
        expected_tokens: int | None = None,
        chat: bool | None = None,
    ) -> RequestResult:
        """Send `body` (to the chat path when it holds `messages`, or as `chat` says) and return what came of it.

        Never raises for what the server does: that is in the result. `expected_tokens` None accepts any length.
        """
        if not isinstance(body, bytes):
            chat = "messages" in body if chat is None else chat
            body = json.dumps(body, separators=(",", ":")).encode()
        url = self._chat if chat else self._completions
        sent_ns = perf_counter_ns()
        answer: Answer | None = None
        response: Response | None = None
        failure: str | None = None
        try:
            response = await self._client.request(
                "POST",
                url,
                headers=(("Content-Type", "application/json"), *self._headers, *headers),
                body=body,
                first_byte_timeout_s=self._timeout_s,
                idle_timeout_s=self._timeout_s,
            )
            answer = Answer(response.status, response.headers.get("content-type", ""))
            now_ns = response.head_ns
            async for piece, now_ns in response.chunks():
                answer.feed(piece, now_ns)
            answer.finish(now_ns, expected_tokens)
        except ClientError as error:
            failure = f"{error.reason}: {error}"
        return _result(
            response, answer, failure, (conversation, turn), scheduled_ns, sent_ns, perf_counter_ns(), expected_tokens
        )


def _result(
    response: Response | None,
    answer: Answer | None,
    failure: str | None,
    place: tuple[str, int],
    scheduled_ns: int,
    sent_ns: int,
    done_ns: int,
    expected_tokens: int | None,
) -> RequestResult:
    if response is None or answer is None:
        return RequestResult(*place, scheduled_ns, sent_ns, done_ns, error=failure, expected_tokens=expected_tokens)
    said = response.headers
    own = _number(said.get("x-tercet-cached-tokens"))
    counted = _number(said.get("x-tercet-prompt-tokens"))
    return RequestResult(
        *place,
        scheduled_ns,
        sent_ns,
        done_ns,
        head_ns=response.head_ns,
        chunk_ns=tuple(answer.chunk_ns),
        status=response.status,
        error=failure or answer.error,
        expected_tokens=expected_tokens,
        prompt_tokens=answer.prompt_tokens if answer.prompt_tokens is not None else counted,
        cached_tokens=own if own is not None else answer.cached_tokens,
        external_tokens=_number(said.get("x-tercet-external-tokens")),
        completion_tokens=answer.completion_tokens,
        recomputed=said.get("x-tercet-recomputed") == "1",
        finish_reason=answer.finish_reason,
        text="".join(answer.text),
        token_ids=tuple(answer.token_ids),
        route=said.get("x-tercet-route"),
        server_timing=said.get("server-timing"),
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
