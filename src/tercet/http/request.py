"""A request as a handler sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from tercet.core.errors import RequestError


@dataclass(slots=True)
class Request:
    """One request, wholly read. Header names are lower case; repeated headers are joined with ", ".

    `path` is percent-decoded; `target` is path and query as they came, without a host: fit for passing on.
    `client` is the peer's address, `received_ns` perf_counter's reading when the request was complete.
    """

    method: str
    target: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    client: str
    received_ns: int


def origin_form(target: str) -> str:
    """Return path and query of a request target, also of one in absolute form. Raises RequestError 400."""
    if target[0] != "/" and target != "*":
        scheme, separator, rest = target.partition("://")
        slash = rest.find("/")
        authority = rest.partition("?")[0] if slash < 0 else rest[:slash]
        if not separator or scheme.lower() not in ("http", "https") or not authority or "@" in authority:
            raise RequestError(400, "the request target is no path, nor a whole http URL", code="bad_http")
        target = rest[slash:] if slash >= 0 else f"/{rest[len(authority) :]}"
    if "#" in target:
        raise RequestError(400, "the request target holds a fragment", code="bad_http")
    return target


def split_target(target: str) -> tuple[str, str]:
    """Return (decoded path, raw query) of a request target in origin form."""
    path, _, query = target.partition("?")
    return (unquote(path) if "%" in path else path), query
