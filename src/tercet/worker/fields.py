"""Reads single fields of a request body; every complaint is a RequestError 400 that names the field."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from tercet.core.errors import RequestError

T = TypeVar("T")


def bad(field: str, wanted: str, got: object) -> RequestError:
    """Return the complaint that `field` must be `wanted`."""
    return RequestError(400, f"{field} must be {wanted}, not {_begin(got)}", param=field)


def _begin(value: object) -> str:
    """Return the first characters of a value as JSON, without writing all of it: it may be 64 MiB."""
    text = ""
    for piece in json.JSONEncoder(default=str).iterencode(value[:80] if isinstance(value, str) else value):
        text += piece[:80]
        if len(text) >= 80:
            break
    return text[:80]


def number(body: Mapping[str, Any], field: str, default: T, kind: Callable[[Any], T], low: float, high: float) -> T:
    """Return an int or float (`kind`) between `low` and `high`; `default` when it is absent or null."""
    value = body.get(field)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
        raise bad(field, "an integer" if kind is int else "a number", value)
    if not low <= value <= high:
        raise bad(field, f"between {low:g} and {high:g}", value)
    return kind(value)


def flag(body: Mapping[str, Any], field: str, default: bool = False) -> bool:
    """Return a boolean."""
    value = body.get(field)
    if value is not None and not isinstance(value, bool):
        raise bad(field, "true or false", value)
    return default if value is None else value


def integers(body: Mapping[str, Any], field: str, limit: int) -> Sequence[int]:
    """Return a list of token ids below `limit`."""
    value = body.get(field)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(type(i) is int and 0 <= i < limit for i in value):
        raise bad(field, f"a list of token ids below {limit}", value)
    return value


def strings(body: Mapping[str, Any], field: str, most: int) -> tuple[str, ...]:
    """Return a string, or a list of at most `most` non-empty ones, as a tuple."""
    value = body.get(field)
    if value is None or value == "":
        return ()
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(s, str) and s for s in given) or len(given) > most:
        raise bad(field, f"a string or a list of at most {most} non-empty strings", value)
    return tuple(given)


def mapping(body: Mapping[str, Any], field: str) -> dict[str, Any]:
    """Return an object, empty when it is absent or null."""
    value = body.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise bad(field, "an object", value)
    return value
