"""Is a part ready? One GET, answered or not."""

from __future__ import annotations

import asyncio
import json
from time import monotonic

from tercet.http.client import Client, ClientError

TIMEOUT_S = 10.0
SHOWN_CHARS = 300
POLL_S = 0.2


async def probe(client: Client, url: str, key: str | None = None) -> str | None:
    """GET the URL, with an API key if there is one; return None when the answer is 200, else what came instead, in
    words."""
    try:
        status, body = await _get(client, url, key)
    except ClientError as error:
        return str(error)
    if status == 200:
        return None
    text = body.decode("utf-8", errors="replace")[:SHOWN_CHARS].strip()
    return f"{url} answered {status}" + (f": {text}" if text else "")


async def until_drained(client: Client, router: str, worker: str, timeout_s: float, key: str | None = None) -> None:
    """Return when the router at one URL has forgotten the worker at another, or it takes too long. `key` is the API key
    of its workers, where it asks for keys."""
    until = monotonic() + timeout_s
    while monotonic() < until:
        workers = await _routed_workers(client, router, key)
        if workers is not None and worker not in workers:
            return
        await asyncio.sleep(POLL_S)


async def _routed_workers(client: Client, url: str, key: str | None) -> list[str] | None:
    """Return the URLs of the workers of the router at `url`, those that leave included; None when it does not say."""
    try:
        _, body = await _get(client, url + "/ready", key)
        workers = json.loads(body)["workers"]
    except (ClientError, ValueError, LookupError, TypeError):
        return None
    return [str(worker) for worker in workers]


async def _get(client: Client, url: str, key: str | None) -> tuple[int, bytes]:
    headers = [] if key is None else [("Authorization", f"Bearer {key}")]
    response = await client.request(
        "GET", url, headers=headers, first_byte_timeout_s=TIMEOUT_S, idle_timeout_s=TIMEOUT_S
    )
    return response.status, await response.read()
