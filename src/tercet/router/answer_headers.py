"""Which headers of a worker's answer a client gets. What is not named here stays inside: whose server it is, its
cookies, where it redirects to, and whatever parts of Tercet tell each other. `X-Request-Id` is the router's own."""

from __future__ import annotations

from collections.abc import Mapping

OF_GENERATION = frozenset(
    {"x-tercet-cached-tokens", "x-tercet-external-tokens", "x-tercet-prompt-tokens", "x-tercet-recomputed"}
)
"""What Tercet's own workers say of a request, for those who measure."""
_GENERATION = tuple(sorted(OF_GENERATION))
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
    found = []
    for name in _GENERATION:  # few, and there are as many in a worker's answer: no look at the others
        value = headers.get(name)
        if value is not None:
            found.append((name, value))
    return _end_to_end(found, headers) if "connection" in headers else found


def passed_through(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return what a client gets of the headers of any other answer."""
    found = [pair for pair in headers.items() if pair[0] in OF_OTHERS]
    return _end_to_end(found, headers) if found and "connection" in headers else found


def _end_to_end(found: list[tuple[str, str]], headers: Mapping[str, str]) -> list[tuple[str, str]]:
    ends_here = {name.strip().lower() for name in headers["connection"].split(",")}
    return [pair for pair in found if pair[0] not in ends_here]
