"""Is a part ready? One GET, answered or not."""

from __future__ import annotations

from tercet.http.client import Client, ClientError

TIMEOUT_S = 10.0
SHOWN_CHARS = 300


async def probe(client: Client, url: str, key: str | None = None) -> str | None:
    """GET the URL, with an API key if there is one; return None when the answer is 200, else what came instead, in
    words."""
    headers = [] if key is None else [("Authorization", f"Bearer {key}")]
    try:
        response = await client.request(
            "GET", url, headers=headers, first_byte_timeout_s=TIMEOUT_S, idle_timeout_s=TIMEOUT_S
        )
        body = await response.read()
    except ClientError as error:
        return str(error)
    if response.status == 200:
        return None
    text = body.decode("utf-8", errors="replace")[:SHOWN_CHARS].strip()
    return f"{url} answered {response.status}" + (f": {text}" if text else "")
