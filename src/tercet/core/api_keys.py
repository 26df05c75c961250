"""API keys: who may ask, and how much. Files hold one a line, hashed, or as they are."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256

from tercet.core.digits import count_in
from tercet.core.errors import RequestError, UsageError

HASHED = "sha256:"
KEY_BYTES = 32
"""A key is random: 256 bits that nobody can try out, so that a fast hash of it is as good as a slow one."""

_WORDS = ("admin", "priority")
_LIMITS = ("requests_per_minute", "tokens_per_minute", "concurrent")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key: never itself. A limit of None is none; `admin` may change how the router works,
    `priority` whose requests go first."""

    name: str
    digest: str
    admin: bool = False
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None
    priority: bool = False

    @property
    def limited(self) -> bool:
        """True when there is anything to count."""
        return any(getattr(self, limit) is not None for limit in _LIMITS)

    def line(self) -> str:
        """Return the key's line in a file."""
        limits = [f"{limit}={value}" for limit in _LIMITS if (value := getattr(self, limit)) is not None]
        words = [word for word in _WORDS if getattr(self, word)]
        return " ".join([f"{HASHED}{self.digest}", f"name={self.name}", *limits, *words])


class KeyRing:
    """The keys that are let in. Falsy when there are none: then everybody is."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        """Read a file's lines. Where all keys are there as they are, without any that is hashed, all are admin's.
        Raises UsageError for a line that is none."""
        lines = list(lines)
        plain_only = not any(line.startswith(HASHED) for line in lines)
        keys = [read_line(line, i, admin=plain_only) for i, line in enumerate(lines, 1)]
        names = [key.name for key in keys]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UsageError(f"two API keys are named {twice!r}: each needs its own name")
        self._keys: Mapping[str, ApiKey] = {key.digest: key for key in keys}
        self.plain = sum(not line.startswith(HASHED) for line in lines)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __iter__(self) -> Iterator[ApiKey]:
        return iter(self._keys.values())

    def of(self, digest: str) -> ApiKey | None:
        """Return the key of a hash; None when there is none."""
        return self._keys.get(digest)

    def find(self, authorization: str) -> ApiKey:
        """Return the key of an Authorization header. Raises RequestError 401.

        Found by its hash: how long that takes depends on the hash of what was sent, which tells nothing of a key.
        """
        scheme, _, given = authorization.partition(" ")
        digest = digest_of(given.strip())
        key = self._keys.get(digest)
        if key is None or scheme.lower() != "bearer" or not hmac.compare_digest(key.digest, digest):
            raise RequestError(401, "wrong or missing API key: send Authorization: Bearer KEY", code="invalid_api_key")
        return key


def digest_of(key: str) -> str:
    """Return the hash of a key, in hex."""
    return sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def new_key() -> str:
    """Return a new key."""
    return f"tk-{secrets.token_urlsafe(KEY_BYTES)}"


def read_line(line: str, number: int, *, admin: bool) -> ApiKey:
    """Read one line of a key file. `admin` is said of a key that lies there as it is. Raises UsageError."""
    if not line.startswith(HASHED):
        return ApiKey(f"line-{number}", digest_of(line), admin)
    digest, *words = line.removeprefix(HASHED).split()
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise UsageError(f"line {number} of the API keys: {HASHED} needs 64 hex digits, of `tercet keys new`")
    said: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        known = not equals if name in _WORDS else equals and value and (name == "name" or name in _LIMITS)
        if not known or name in said or (name in _LIMITS and not count_in(value)):
            raise UsageError(
                f"line {number} of the API keys: {word!r} is unknown; write name=NAME, admin, priority, "
                f"{', '.join(f'{limit}=N' for limit in _LIMITS)}"
            )
        said[name] = value
    limits = {limit: count_in(said[limit]) for limit in _LIMITS if limit in said}
    return ApiKey(said.get("name", f"line-{number}"), digest, "admin" in said, **limits, priority="priority" in said)


def key_lines(text: str) -> tuple[str, ...]:
    """Return the lines of a key file that hold keys: neither empty nor # comments."""
    return tuple(line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#"))
