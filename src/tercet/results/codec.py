"""Data classes to JSON and back, by their annotations."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")

DECIMALS = 6
"""Of every number that is kept: seconds to the microsecond, what the clock and the network can tell apart."""


def encode(value: object) -> Any:
    """Return `value` (data classes, tuples, dicts, plain values) as JSON-able objects; floats to six decimals."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    return round(value, DECIMALS) if isinstance(value, float) else value


def decode(kind: type[T], data: Any) -> T:
    """Return the data class `kind` read from what `encode` wrote. `data` must have been validated before."""
    hints = get_type_hints(kind)
    names = {field.name for field in fields(cast(Any, kind))}
    return kind(**{name: _value(hints[name], item) for name, item in data.items() if name in names})


def _value(hint: Any, data: Any) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return None if data is None else _value(next(arg for arg in args if arg is not type(None)), data)
    if origin is tuple:
        return tuple(_value(args[0], item) for item in data)
    if origin in (dict, Mapping):
        return {key: _value(args[1], item) for key, item in data.items()}
    if is_dataclass(hint) and isinstance(hint, type):
        return decode(hint, data)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(data)
    return float(data) if hint is float else data
