"""What may change while the router runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from math import isfinite
from typing import Any

from tercet.core.errors import UsageError
from tercet.router.config import RouterConfig


@dataclass(slots=True)
class Live:
    """Deadlines, in seconds, and how often is tried again: begin as configured, and change for requests to come."""

    connect_timeout_s: float
    first_byte_timeout_s: float
    encode_timeout_s: float
    answer_timeout_s: float
    idle_timeout_s: float
    queue_timeout_s: float
    drain_timeout_s: float
    max_retries: int

    @classmethod
    def of(cls, config: RouterConfig) -> Live:
        """Return what `config` says."""
        return cls(**{field.name: getattr(config, field.name) for field in fields(cls)})

    def take(self, config: RouterConfig, settings: Mapping[str, float]) -> bool:
        """Be as `settings`, named as flags are (`idle_timeout`), say, and else as `config`; return whether that is a
        change. Raises UsageError, and nothing changes."""
        changes: dict[str, Any] = {_field(name, value): value for name, value in settings.items()}
        wanted = Live.of(replace(config, **changes))
        if wanted == self:
            return False
        for field in fields(self):
            setattr(self, field.name, getattr(wanted, field.name))
        return True


NAMES = tuple(field.name.removesuffix("_s") for field in fields(Live))


def _field(name: str, value: float) -> str:
    if name not in NAMES:
        raise UsageError(f"{name!r} can't be changed while the router runs: {', '.join(NAMES)} can")
    if not isfinite(value) or value < 0 or (name == "max_retries" and value != int(value)):
        raise UsageError(
            f"{name}: {value} is {'no number of tries' if name == 'max_retries' else 'no time in seconds'}"
        )
    return name if name == "max_retries" else f"{name}_s"
