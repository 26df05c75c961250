"""How many answers to a prompt a request is for. Routing asks it and the dialects do: they must not differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ONE = (None, 1)
"""As JSON has it: 1.0 and true, which engines take for 1, are equal to it. What is no number at all is none of these,
and for an engine to refuse that is asked alone."""


def wants_several(body: Mapping[str, Any]) -> bool:
    """True unless one answer to a prompt is wanted (`n`)."""
    return body.get("n") not in ONE


def tries_several(body: Mapping[str, Any]) -> bool:
    """True unless one answer to a prompt is wanted, and one tried (`best_of`, which some engines ignore)."""
    return body.get("n") not in ONE or body.get("best_of") not in ONE
