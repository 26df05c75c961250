"""The endpoints by which workers join and leave."""

from __future__ import annotations

import json
from math import isfinite
from urllib.parse import parse_qs

from tercet.core.errors import RequestError, UsageError
from tercet.core.stage import ROLE_NAMES
from tercet.dialects.request import parse_object
from tercet.http.server import Request, Responder
from tercet.router.discovery.source import LETTERS
from tercet.router.parts import Parts
from tercet.router.roster import Roster


class Members:
    """POST /workers and DELETE /workers/{name}."""

    def __init__(self, parts: Parts, roster: Roster) -> None:
        self._parts, self._roster = parts, roster

    async def add(self, request: Request, responder: Responder) -> None:
        """POST /workers {"url": "http://...", "role": "prefill"}: it gets requests once an inference through it
        succeeded. Raises RequestError 400, 409."""
        try:
            data = parse_object(request.body)
            url, role = data["url"], data["role"]
        except (RequestError, LookupError):
            raise RequestError(400, 'a worker joins as {"url": "http://HOST:PORT", "role": "decode"}') from None
        if not isinstance(url, str) or not isinstance(role, str) or role not in LETTERS:
            raise RequestError(400, f"role must be one of {', '.join(ROLE_NAMES.values())}", param="role")
        try:
            joined = self._roster.add(url, LETTERS[role])
        except UsageError as error:
            here = url.partition("#")[0].rstrip("/") in self._parts.fleet.workers
            raise RequestError(409 if here else 400, str(error), param="url") from None
        await responder.send(201, json.dumps({"url": joined, "role": role}).encode())

    async def remove(self, request: Request, responder: Responder) -> None:
        """DELETE /workers/{URL, quoted, or P0}?timeout=SECONDS: drain, then remove. Answers at once; /status lists the
        worker as draining until it is gone. Raises RequestError 400, 404."""
        name = request.path.removeprefix("/workers/")
        asked = parse_qs(request.query).get("timeout", [""])[0]
        try:
            timeout_s = float(asked or self._parts.live.drain_timeout_s)
        except ValueError:
            timeout_s = -1.0
        if not isfinite(timeout_s) or timeout_s < 0:
            raise RequestError(400, "timeout is a number of seconds", param="timeout")
        try:
            url = self._roster.find(name)
        except LookupError:
            raise RequestError(404, f"no worker {name!r} here", code="unknown_worker") from None
        self._roster.remove(url, timeout_s)
        data = {"url": url, "draining": True, "in_flight": self._parts.visits[url]}
        await responder.send(202, json.dumps(data).encode())
