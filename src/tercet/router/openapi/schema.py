"""JSON Schema, in fewer words."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def obj(required: dict[str, Schema] | None = None, **optional: Schema) -> Schema:
    """Return an object with members that must be there and such that may be; others are allowed."""
    needed = required or {}
    found: Schema = {"type": "object", "properties": {**needed, **optional}}
    return found | ({"required": list(needed)} if needed else {})


def array(items: Schema, **bounds: int) -> Schema:
    """Return a list; `bounds` are `minItems`, `maxItems`."""
    return {"type": "array", "items": items, **bounds}


def string(**bounds: Any) -> Schema:
    """Return a text; `bounds` are `enum`, `minLength`, `pattern`..."""
    return {"type": "string", **bounds}


def integer(low: int | None = None, high: int | None = None) -> Schema:
    """Return an integer, within bounds."""
    return _number("integer", low, high)


def number(low: float | None = None, high: float | None = None) -> Schema:
    """Return a number, within bounds."""
    return _number("number", low, high)


def boolean() -> Schema:
    """Return true or false."""
    return {"type": "boolean"}


def nullable(schema: Schema) -> Schema:
    """Allow null, too."""
    return {"anyOf": [schema, {"type": "null"}]}


def mapping(values: Schema) -> Schema:
    """Return an object whose members all are `values`."""
    return {"type": "object", "additionalProperties": values}


def ref(name: str) -> Schema:
    """Return a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def _number(kind: str, low: float | None, high: float | None) -> Schema:
    found: Schema = {"type": kind}
    if low is not None:
        found["minimum"] = low
    if high is not None:
        found["maximum"] = high
    return found
