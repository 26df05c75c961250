"""What is checked of every request before anything is done about it."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping

from tercet.core.errors import RequestError
from tercet.core.ids import new_id

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
OPEN_PATHS = frozenset({"/health", "/ready", "/metrics"})
PASSED_ON = ("traceparent", "tracestate")


def request_id(headers: Mapping[str, str]) -> str:
    """Return the client's X-Request-Id if it is a sane one, else a new one."""
    asked = headers.get("x-request-id", "")
    return asked if _REQUEST_ID.fullmatch(asked) else new_id("req")


class Door:
    """Lets in who has a key; everybody when there are no keys. Decides what a client may say to a worker."""

    def __init__(self, api_keys: tuple[str, ...], worker_api_key: str | None) -> None:
        self._keys = tuple(key.encode() for key in api_keys)
        self._worker = f"Bearer {worker_api_key}" if worker_api_key else None

    def check(self, path: str, headers: Mapping[str, str]) -> None:
        """Raise RequestError 401 unless the path is open to all or the key is right."""
        if not self._keys or path in OPEN_PATHS:
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = key.strip().encode("utf-8", "surrogatepass")
        # Every key is compared, in constant time: timing tells nothing.
        right = [hmac.compare_digest(given, known) for known in self._keys]
        if scheme.lower() != "bearer" or not any(right):
            raise RequestError(401, "wrong or missing API key: send Authorization: Bearer KEY", code="invalid_api_key")

    def worker_headers(self, rid: str, headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """Return the headers that go to the workers: never a client's own word on ranks."""
        result = [("X-Request-Id", rid)]
        if self._worker is not None:
            result.append(("Authorization", self._worker))
        elif not self._keys and "authorization" in headers:
            result.append(("Authorization", headers["authorization"]))
        result += [(name, headers[name]) for name in PASSED_ON if name in headers]
        return tuple(result)
