"""Asking a running router, for the commands that show one."""

from __future__ import annotations

import json
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tercet.core.errors import TercetError, UsageError

if TYPE_CHECKING:
    from tercet.launch.state import RunState

TIMEOUT_S = 10.0


def router_url(given: str | None, states: list[RunState]) -> str:
    """Return the URL of the router that is meant: one that was given, or of a deployment by its name; without either of
    the one deployment that is running. Raises UsageError."""
    named = [state for state in states if state.name == given]
    if given is None and not states:
        raise UsageError("nothing is running here: give a router's URL, or start something: tercet serve 1P1D --detach")
    if given is None:
        if len(states) != 1:
            raise UsageError(f"{len(states)} deployments are running: name one, or give a router's URL")
        return states[0].url
    if named:
        return named[0].url
    if not given.startswith(("http://", "https://")):
        raise UsageError(f"{given!r} is neither a router's URL (http://HOST:PORT) nor a running deployment's name")
    from tercet.http.address import server_url

    return server_url(given)


class RouterClient:
    """A connection to one router's administration. Use as an async context manager."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        from tercet.http.client import Client

        self.url, self._client = url, Client()
        self._headers = [("Authorization", f"Bearer {api_key}")] if api_key else []

    async def __aenter__(self) -> RouterClient:
        """Enter."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        await self._client.close()

    async def get(self, path: str, holds: str, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        """Return an answer, a JSON object that has `holds`. Raises TercetError when none comes, or another."""
        from tercet.http.client import ClientError

        try:
            response = await self._client.request(
                "GET",
                self.url + path,
                headers=self._headers,
                first_byte_timeout_s=timeout_s,
                idle_timeout_s=timeout_s,
            )
            body = await response.read()
        except ClientError as error:
            raise TercetError(f"no router answers on {self.url}: {error}") from error
        if response.status == 401:
            raise TercetError(f"{self.url} wants an API key: give it with --api-key-file")
        if response.status == 403:
            raise TercetError(f"{self.url} wants an admin's key: `tercet keys new --admin` makes one")
        try:
            data = json.loads(body)
        except ValueError:
            data = None
        if response.status != 200 or not isinstance(data, dict) or holds not in data:
            path = path.partition("?")[0]
            raise TercetError(
                f"{self.url}{path} answered {response.status}, and not as a tercet router does: is it one?"
            )
        return data
