"""Reads bodies of /v1/encode and writes their answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tercet.core.errors import RequestError
from tercet.worker.encoded_picture import EncodedPicture, PictureSource
from tercet.worker.fields import bad, number

MAX_READERS = 2
"""A prefill worker, and a decode worker that may have to recompute."""
MAX_IMAGES = 1024
"""Bounds what is read of a body before the worker's own bound is looked at."""
_CACHES = ("hit", "miss", "joined")


@dataclass(frozen=True, slots=True)
class EncodeRequest:
    """Pictures to encode; each ticket is for so many readers."""

    sources: tuple[PictureSource, ...]
    readers: int


def parse_encode(body: dict[str, Any]) -> EncodeRequest:
    """Check a body of /v1/encode. Raises RequestError 400 naming the field."""
    images = body.get("images")
    if not isinstance(images, list) or not 0 < len(images) <= MAX_IMAGES:
        raise bad("images", "a non-empty list of images", images)
    return EncodeRequest(
        tuple(_source(image, i) for i, image in enumerate(images)), number(body, "readers", 1, int, 1, MAX_READERS)
    )


def _source(image: object, place: int) -> PictureSource:
    """Read an image. What is wrong with the picture itself is said of `where` it stood in the client's request."""
    where = f"images[{place}]"
    given = image if isinstance(image, dict) else {}
    url, index = given.get("url"), given.get("index", place)
    if not isinstance(url, str) or not url:
        raise RequestError(400, f"{where}.url must be a data URI or a URL", param=f"{where}.url")
    if type(index) is not int:
        raise RequestError(400, f"{where}.index must be the picture's number in its request", param=f"{where}.index")
    stood = given.get("where", where)
    if not isinstance(stood, str):
        raise RequestError(400, f"{where}.where must name the picture's place", param=f"{where}.where")
    return PictureSource(index, url, stood)


def encode_answer(asked: EncodeRequest, encoded: Sequence[EncodedPicture]) -> bytes:
    """Return the answer's body."""
    data = [
        {
            "index": source.index,
            "key": picture.key,
            "tokens": picture.answer.ticket.tokens,
            "cache": picture.answer.cache,
            "ticket": picture.answer.ticket.to_params(),
        }
        for source, picture in zip(asked.sources, encoded, strict=True)
    ]
    return json.dumps({"object": "list", "data": data}).encode()


def cache_header(encoded: Sequence[EncodedPicture]) -> tuple[str, str]:
    """Return the header that says what the embedding cache did."""
    counts = Counter(picture.answer.cache for picture in encoded)
    return "X-Tercet-Cache", ", ".join(f"{name}={counts[name]}" for name in _CACHES if counts[name])


def encode_timing(encoded: Sequence[EncodedPicture], prefix: str = "") -> str:
    """Return what Server-Timing says of pictures.

    Those of a request go side by side: each time is that of the picture that took longest there.
    """
    times = {
        "fetch": max(picture.fetch_s for picture in encoded),
        "decode": max(picture.decode_s for picture in encoded),
        "queue": max(picture.answer.queue_s for picture in encoded),
        "encode": max(picture.answer.encode_s for picture in encoded),
    }
    return ", ".join(f"{prefix}{name};dur={seconds * 1e3:.2f}" for name, seconds in times.items())
