"""What is checked of every request before anything is done about it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hmac import compare_digest
from ipaddress import ip_address
from urllib.parse import urlsplit

from tercet.core.api_keys import ApiKey
from tercet.core.errors import RequestError
from tercet.core.ids import RequestIds
from tercet.dialects.request import PEERS
from tercet.router.dashboard.pages import HOME
from tercet.router.key_file import KeyFile
from tercet.router.quota import Quota, Quotas

_REQUEST_ID = re.compile(rf"(?!.*{PEERS})[A-Za-z0-9_.:-]{{1,128}}")
OPEN_PATHS = frozenset({"/health", "/ready", "/metrics", "/openapi.json", HOME})
PASSED_ON = ("traceparent", "tracestate")
ADMIN_V1 = frozenset({"/v1/load_lora_adapter", "/v1/unload_lora_adapter"})
"""Paths beside the OpenAI API's by which an engine is changed."""
INTERNAL_V1 = frozenset({"/v1/encode"})
"""What only routers ask of workers: answers are tickets."""


def without_key(path: str) -> bool:
    """True for what needs no key: probes, metrics, and the dashboard's files, which hold no data."""
    return path in OPEN_PATHS or path.startswith(HOME + "/")


def for_everyone(method: str, path: str) -> bool:
    """True for what any key may ask: the OpenAI API, and which mode it is. The rest is the operator's."""
    if path.startswith("/v1/"):
        return path not in ADMIN_V1
    return path == "/mode" and method in ("GET", "HEAD")


def changes(method: str, path: str) -> bool:
    """True for what changes how the router or an engine works, and is no page's to ask for but the router's own."""
    return method not in ("GET", "HEAD") and (path in ADMIN_V1 or not path.startswith("/v1/"))


def cross_site(headers: Mapping[str, str]) -> bool:
    """True for what another site's page had a browser send: it must change nothing here, nor on a laptop's loopback."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != headers.get("host")


def to_a_name(headers: Mapping[str, str]) -> bool:
    """True for what a browser sent to a name other than localhost. Of a name of its own a stranger's page may have DNS
    say later that it is this machine: its requests then come as from a page of ours."""
    if "origin" not in headers and "sec-fetch-site" not in headers:
        return False
    try:
        name = urlsplit("//" + headers.get("host", "")).hostname or ""
        if name != "localhost" and not name.endswith(".localhost"):
            ip_address(name)
    except ValueError:
        return True
    return False


class Door:
    """Lets in who has a key; everybody when there are no keys. Decides what a client may say to a worker. `here`: the
    router listens to this machine alone."""

    def __init__(self, keys: KeyFile, worker_api_key: str | None, *, here: bool = False) -> None:
        self._keys, self._here = keys, here
        self._worker = f"Bearer {worker_api_key}" if worker_api_key else None
        self.quotas = Quotas()
        self._ids = RequestIds("req")
        self.open = keys.never
        """True when nobody will ever need a key."""

    def request_id(self, headers: Mapping[str, str]) -> str:
        """Return the client's X-Request-Id if it is a sane one, else a new one."""
        asked = headers.get("x-request-id")
        return self._ids.next() if asked is None or not _REQUEST_ID.fullmatch(asked) else asked

    @property
    def guarded(self) -> bool:
        """True when a key is needed."""
        return not self.open and bool(self._keys.ring()[0])

    def check(self, method: str, path: str, headers: Mapping[str, str]) -> ApiKey | None:
        """Return the key of a request; None where none is needed. Raises RequestError 401, 403, 404."""
        if changes(method, path) and cross_site(headers):
            raise RequestError(403, f"{method} {path} was sent by another site's page", code="cross_site")
        if path in INTERNAL_V1:
            raise RequestError(404, f"no such path: {path}")
        if without_key(path):
            return None
        ring, anew = self._keys.ring()
        if anew:
            self.quotas.keep({key.digest for key in ring})
        if not ring:
            if self._here and changes(method, path) and to_a_name(headers):
                text = f"{method} {path}: without API keys browsers change this router at localhost or its address only"
                raise RequestError(403, text, code="cross_site")
            return None
        key = ring.find(headers.get("authorization", ""))
        if not key.admin and not for_everyone(method, path):
            text = f"{method} {path} needs an admin's key: `tercet keys new --admin` makes one"
            raise RequestError(403, text, code="admin_key_needed")
        return key

    def insider(self, headers: Mapping[str, str]) -> bool:
        """True for who may hear where the workers are, unasked: everybody without keys; else who shows the key that the
        workers are shown, as the launcher does."""
        shown = headers.get("authorization", "")
        return not self.guarded or (self._worker is not None and compare_digest(shown.encode(), self._worker.encode()))

    def enter(self, key: ApiKey | None) -> Quota | None:
        """Count a request in; None where nothing is limited. Raises RequestError 429."""
        return None if key is None else self.quotas.enter(key)

    def spent(self, digest: str, process: int, requests: int, tokens: int, in_flight: int) -> None:
        """Count what was spent of a key in another process; nothing where no such key is known here."""
        key = self._keys.ring()[0].of(digest)
        if key is not None:
            self.quotas.told(key, process, requests, tokens, in_flight)

    def worker_headers(self, rid: str, headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """Return the headers that go to the workers: never a client's own word on ranks."""
        result: tuple[tuple[str, str], ...] = (("X-Request-Id", rid),)
        if self._worker is not None:
            result += (("Authorization", self._worker),)
        elif "authorization" in headers and not self.guarded:
            result += (("Authorization", headers["authorization"]),)
        for name in PASSED_ON:
            if name in headers:
                result += ((name, headers[name]),)
        return result
