"""Identifiers: request ids, unguessable ticket ids, and `url@rank` addresses."""

from __future__ import annotations

import secrets
from itertools import count

MAX_NAME_CHARS = 256


def new_id(prefix: str) -> str:
    """Return `prefix-` and 128 random bits in hex: unique, and unguessable by a client."""
    return f"{prefix}-{secrets.token_hex(16)}"


def is_name(text: str) -> bool:
    """True for what can be the id of something: one line, and short. One that came through other hands may be anything,
    and is logged."""
    return 0 < len(text) <= MAX_NAME_CHARS and text.isascii() and text.isprintable()


class RequestIds:
    """Names for requests: unique, not secret. The system is asked for randomness once, not once a request."""

    def __init__(self, prefix: str) -> None:
        self._prefix = f"{prefix}-{secrets.token_hex(12)}"
        self._count = count()

    def next(self) -> str:
        """Return a new name."""
        return f"{self._prefix}{next(self._count):08x}"


def join_rank(url: str, rank: int | None) -> str:
    """Write a rank's address: `url@rank`, or the URL alone when rank is None."""
    return url if rank is None else f"{url}@{rank}"
