"""Which headers of a worker's answer a client gets. What is not named here stays inside: whose server it is, its
cookies, where it redirects to, and whatever parts of Tercet tell each other. `X-Request-Id` is the router's own."""

from __future__ import annotations

from collections.abc import Mapping

OF_GENERATION = frozenset(
    {"x-tercet-cached-tokens", "x-tercet-external-tokens", "x-tercet-prompt-tokens", "x-tercet-recomputed"}
)
"""What Tercet's own workers say of a request, for those who measure."""
OF_OTHERS = OF_GENERATION | {
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "etag",
    "last-modified",
    "retry-after",
    "vary",
}
"""What belongs to a body that is passed on as it is, besides its type and length."""


def generated(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return what a client gets of the headers of an answer to a prompt. Names are lower case."""
    return _named(headers, OF_GENERATION)


def passed_through(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return what a client gets of the headers of any other answer."""
    return _named(headers, OF_OTHERS)


def _named(headers: Mapping[str, str], names: frozenset[str]) -> list[tuple[str, str]]:
    found = [pair for pair in headers.items() if pair[0] in names]
    if found and "connection" in headers:
        ends_here = {name.strip().lower() for name in headers["connection"].split(",")}
        found = [pair for pair in found if pair[0] not in ends_here]
    return found
