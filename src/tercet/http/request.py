"""A request as a handler sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote


@dataclass(slots=True)
class Request:
    """One request, wholly read. Header names are lower case; repeated headers are joined with ", ".

    `path` is percent-decoded; `target` is path and query as they came, fit for passing on.
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


def split_target(target: str) -> tuple[str, str]:
    """Return (decoded path, raw query) of a request target in origin or absolute form."""
    if not target.startswith("/") and "://" in target:
        rest = target.split("://", 1)[1]
        slash = rest.find("/")
        target = rest[slash:] if slash >= 0 else "/"
    path, _, query = target.partition("?")
    return (unquote(path) if "%" in path else path), query
