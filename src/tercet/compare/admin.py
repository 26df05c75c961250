"""What a comparison asks of a server beside its traffic: mode, caches, workers, one known question."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from time import monotonic
from typing import Any

from tercet.bench.sender import Headers
from tercet.core.errors import TercetError, UsageError
from tercet.http.client import Client, ClientError

ADMIN_TIMEOUT_S = 10.0
RESET_WAIT_S = 10.0
RESET_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 120.0
JSON = (("Content-Type", "application/json"),)
CAPITAL_QUESTION = "Complete the sentence: The capital of France is"
"""Put so that the bundled model prefers each token of its answer by 1.7 or more to any other (fp32). Asked plainly it
begins with "The" by a margin of 0.1, which another CPU's bf16 turns round."""


async def switch_mode(client: Client, url: str, mode: str, headers: Headers = ()) -> None:
    """Switch a router's mode. Raises TercetError with its reason when it refuses."""
    status, data = await _call(client, "POST", f"{url}/mode/{mode}", headers=headers)
    if status != 200:
        raise TercetError(f"{url} refused mode {mode} with {status}: {_message(data)}")


async def forget_everything(client: Client, router_url: str) -> None:
    """Empty every worker's prefix cache and the router's memory of conversations.

    A worker refuses while sequences still use its blocks: it is asked again for RESET_WAIT_S, then TercetError.
    """
    until = monotonic() + RESET_WAIT_S
    while True:
        status, data = await _call(client, "POST", f"{router_url}/cache/reset", timeout_s=RESET_TIMEOUT_S)
        if status == 200:
            break
        if status != 502 or monotonic() > until:
            raise TercetError(f"{router_url} did not empty its workers' caches ({status}): {_message(data)}")
        await asyncio.sleep(0.1)
    status, data = await _call(client, "POST", f"{router_url}/conversations/clear")
    if status != 200:
        raise TercetError(f"{router_url} did not forget its conversations ({status}): {_message(data)}")


async def ask_capital(client: Client, url: str, model: str) -> str:
    """Return the answer to the question about the capital of France."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": CAPITAL_QUESTION}],
        "temperature": 0,
        "max_tokens": 16,
    }
    status, data = await _call(client, "POST", f"{url}/v1/chat/completions", body, timeout_s=ANSWER_TIMEOUT_S)
    if status != 200:
        raise TercetError(f"{url} answered {status} to a plain question: {_message(data)}")
    return str(data["choices"][0]["message"]["content"]).strip()


async def _call(
    client: Client,
    method: str,
    url: str,
    body: Mapping[str, Any] | None = None,
    *,
    headers: Headers = (),
    timeout_s: float = ADMIN_TIMEOUT_S,
) -> tuple[int, Any]:
    payload = b"" if body is None else json.dumps(body).encode()
    try:
        response = await client.request(
            method, url, headers=(*JSON, *headers), body=payload, first_byte_timeout_s=timeout_s
        )
        raw = await response.read()
    except ValueError as error:
        raise UsageError(f"{url}: {error}; write for instance http://127.0.0.1:8000") from error
    except ClientError as error:
        raise TercetError(f"{method} {url}: {error}") from error
    try:
        return response.status, json.loads(raw) if raw else None
    except ValueError:
        return response.status, raw.decode(errors="replace")


def _message(data: Any) -> str:
    """Return an OpenAI error object's message, or what came instead."""
    if isinstance(data, dict) and isinstance(data.get("error"), dict):
        return str(data["error"].get("message"))
    return json.dumps(data)
