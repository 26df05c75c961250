"""Sends one request and times its answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from time import perf_counter_ns
from typing import Any

from tercet.bench.answer import Answer, paired
from tercet.bench.result import RequestResult
from tercet.bench.tally import Tally
from tercet.core.digits import count_in
from tercet.http.client import Client, ClientError, Response
from tercet.http.server_timing import durations

Headers = tuple[tuple[str, str], ...]

_KINDS = {
    "connect": "refused",
    "connect_timeout": "refused",
    "first_byte_timeout": "timeout",
    "idle_timeout": "stalled",
    "closed": "closed",
    "protocol": "invalid_answer",
    "too_large": "invalid_answer",
    "too_many_connections": "not_sent",
}
"""What a failure of the client is in a results file."""

_AT_ONCE = 16
"""Pieces that are parsed together: their times are those of the socket, and the loop is free in between."""


class Sender:
    """Sends OpenAI requests to one server. `timeout_s` bounds the wait for the first byte of an answer's body,
    `idle_timeout_s` each silence after it. `tally` is kept up to date."""

    def __init__(
        self,
        client: Client,
        url: str,
        *,
        headers: Headers = (),
        timeout_s: float = 600.0,
        idle_timeout_s: float = 60.0,
        tally: Tally | None = None,
    ) -> None:
        base = url.rstrip("/").removesuffix("/v1")
        self._client = client
        self._completions = f"{base}/v1/completions"
        self._chat = f"{base}/v1/chat/completions"
        self._headers = (("Content-Type", "application/json"), *headers)
        self._timeout_s = timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._tally = tally or Tally()

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
        tally = self._tally
        tally.sent += 1
        sent_ns = perf_counter_ns()
        answer: Answer | None = None
        response: Response | None = None
        failed: ClientError | None = None
        try:
            response = await self._client.request(
                "POST",
                self._chat if chat else self._completions,
                headers=(*self._headers, *headers),
                body=body,
                first_byte_timeout_s=self._timeout_s,
                idle_timeout_s=self._idle_timeout_s,
            )
            answer = Answer(response.status, response.headers.get("content-type", ""))
            now_ns = response.head_ns
            async for piece, now_ns in response.chunks(at_once=_AT_ONCE):
                before = len(answer.chunk_ns)
                answer.feed(piece, now_ns)
                tally.chunks += len(answer.chunk_ns) - before
            answer.finish(now_ns, expected_tokens)
        except ClientError as error:
            failed = error
        done_ns = perf_counter_ns()
        result = _result(response, answer, failed, (conversation, turn), (scheduled_ns, sent_ns, done_ns))
        tally.done += 1
        tally.failed += not result.ok
        return result


def _result(
    response: Response | None,
    answer: Answer | None,
    failed: ClientError | None,
    place: tuple[str, int],
    times: tuple[int, int, int],
) -> RequestResult:
    if response is None or answer is None:
        assert failed is not None
        return RequestResult(*place, *times, error=str(failed), failure=_KINDS[failed.reason])
    if failed is not None:
        answer.fail(_KINDS[failed.reason], str(failed))
    said = response.headers
    own = count_in(said.get("x-tercet-cached-tokens"))
    counted = count_in(said.get("x-tercet-prompt-tokens"))
    return RequestResult(
        *place,
        *times,
        head_ns=response.head_ns,
        chunk_ns=tuple(answer.chunk_ns),
        chunk_tokens=answer.chunk_tokens,
        status=response.status,
        error=answer.error,
        failure=answer.failure,
        prompt_tokens=answer.prompt_tokens if answer.prompt_tokens is not None else counted,
        cached_tokens=own if own is not None else answer.cached_tokens,
        external_tokens=count_in(said.get("x-tercet-external-tokens")),
        completion_tokens=answer.completion_tokens,
        vision_tokens=answer.vision_tokens,
        recomputed=said.get("x-tercet-recomputed") == "1",
        finish_reason=answer.finish_reason,
        text=paired("".join(answer.text)),
        token_ids=tuple(answer.token_ids),
        route=said.get("x-tercet-route"),
        phases_ms=durations(said.get("server-timing", "")) | answer.timeline,
    )
