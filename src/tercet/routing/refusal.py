"""Why a request has no route."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no route: HTTP status, a sentence, and a code for programs."""

    status: int
    reason: str
    code: str
