"""The pictures of a request: found, taken out of its body, and put back as bytes or by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tercet.core.errors import RequestError

PICTURE = "image_url"
REFERENCE = "image_ref"
EMBEDS = "image_embeds"
Place = tuple[int, int]
"""A message's index, and that of a part of its content."""


def find_pictures(body: Mapping[str, Any], limit: int) -> tuple[Place, ...]:
    """Return where the pictures of a chat request stand, in the order of its prompt.

    Raises RequestError 400 for more than `limit`, for one that is malformed, and for references and embeddings: those
    are the router's own, and would make a worker read what another client sent. Likewise for what vLLM would take for
    such, as it goes by what a part holds where its type is missing, or a name is given (`uuid`).
    """
    places: list[Place] = []
    for i, j, part in _parts(body):
        kind = part.get("type")
        where = _where(i, j)
        if kind in (REFERENCE, EMBEDS):
            raise RequestError(400, f"{where} has type {kind!r}: send the picture itself", param=where)
        if kind != PICTURE:
            if _holds(part, PICTURE, EMBEDS, "uuid"):
                raise _disguised(part, where)
            continue
        source = part.get(PICTURE)
        if not isinstance(source, dict) or not isinstance(source.get("url"), str) or not source["url"]:
            message = (
                f'{where} (picture {len(places)}) needs a URL: {{"type": "image_url", "image_url": {{"url": ...}}}}'
            )
            raise RequestError(400, message, param=where)
        if len(places) == limit:
            message = f"{where} is picture {limit} (from 0 on): a request can have {limit}; send fewer at once"
            raise RequestError(400, message, code="too_many_images", param=where)
        places.append((i, j))
    return tuple(places)


def refuse_names(body: Mapping[str, Any]) -> None:
    """Raise RequestError 400 where a request that is passed on as it is names media instead of sending them: in its
    messages, or in those of each of several chats."""
    messages = body.get("messages")
    several = isinstance(messages, list) and any(isinstance(chat, list) for chat in messages)
    for chat in messages if isinstance(messages, list) and several else (messages,):
        for i, j, part in _parts({"messages": chat}):
            if _holds(part, EMBEDS, REFERENCE, "uuid"):
                raise RequestError(400, f"{_where(i, j)} names media: send them, without a uuid", param=_where(i, j))


def _holds(part: Mapping[str, Any], *names: str) -> bool:
    """True when a part has one of these; null, as some clients write all that they leave out, is nothing."""
    return any(part.get(name) is not None for name in names)


def _disguised(part: Mapping[str, Any], where: str) -> RequestError:
    kind = part.get("type")
    if _holds(part, PICTURE, EMBEDS):
        message = f"{where} holds a picture, but has type {kind!r}: send pictures as type {PICTURE!r}"
    else:
        message = f"{where} has a uuid: media are known by their content alone; leave it out"
    return RequestError(400, message, param=where)


def url_at(body: Mapping[str, Any], place: Place) -> str:
    """Return the URL of the picture at a place that `find_pictures` gave."""
    i, j = place
    url: str = body["messages"][i]["content"][j][PICTURE]["url"]
    return url


def reference(key: str, tokens: int) -> dict[str, Any]:
    """Return the part of a message that names a picture."""
    return {"type": REFERENCE, REFERENCE: {"key": key, "tokens": tokens}}


EMPTY_REFERENCE: dict[str, Any] = {"type": REFERENCE, REFERENCE: {}}
"""Where a ticket of the whole prompt goes along, which names every picture."""


class Pictures:
    """The pictures of one request, taken out of its body: the only copy of their bytes, until `drop`. `keys` are the
    SHA-256 of their contents, None where only a URL is known."""

    __slots__ = ("_places", "_urls", "keys")

    def __init__(self, body: dict[str, Any], places: Sequence[Place], keys: Sequence[str | None] = ()) -> None:
        self._places = tuple(places)
        self.keys = tuple(keys) or (None,) * len(self._places)
        self._urls: tuple[str, ...] | None = tuple(url_at(body, place) for place in places)
        for i, j in places:
            body["messages"][i]["content"][j][PICTURE]["url"] = ""

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._places)

    @property
    def dropped(self) -> bool:
        """True once the bytes are gone."""
        return self._urls is None

    def url(self, index: int) -> str:
        """Return a picture's URL, which may hold all its bytes. Raises RuntimeError once they were dropped."""
        if self._urls is None:
            raise RuntimeError("the pictures were dropped: the request was accepted")
        return self._urls[index]

    def where(self, index: int) -> str:
        """Return the name of a picture's part of the client's body, for what is said against it."""
        return _where(*self._places[index])

    def drop(self) -> None:
        """Let go of the bytes: nobody will be asked again."""
        self._urls = None

    def put_back(self, body: Mapping[str, Any], parts: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
        """Return `body` with `parts` in the places of the pictures of these indices, and the others as they came."""
        messages = list(body["messages"])
        for index, (i, j) in enumerate(self._places):
            if messages[i] is body["messages"][i]:
                messages[i] = {**messages[i], "content": list(messages[i]["content"])}
            part = parts.get(index)
            messages[i]["content"][j] = self.part(body, index) if part is None else part
        return {**body, "messages": messages}

    def part(self, body: Mapping[str, Any], index: int) -> dict[str, Any]:
        """Return a picture's part of its message as it came."""
        i, j = self._places[index]
        part: dict[str, Any] = body["messages"][i]["content"][j]
        return {**part, PICTURE: {**part[PICTURE], "url": self.url(index)}}


def _where(i: int, j: int) -> str:
    return f"messages[{i}].content[{j}]"


def _parts(body: Mapping[str, Any]) -> Iterator[tuple[int, int, dict[str, Any]]]:
    messages = body.get("messages")
    for i, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            for j, part in enumerate(content):
                if isinstance(part, dict):
                    yield i, j, part
