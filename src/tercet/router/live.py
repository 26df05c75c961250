"""What may change while the router runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from math import isfinite
from typing import Any

from tercet.core.errors import UsageError
from tercet.router.config import RouterConfig
from tercet.router.discovery.source import Setting
from tercet.routing.policy import Policy

NUMBERS = frozenset({"max_retries", "breaker_failures", "max_concurrent", "max_queue", "ppd_threshold"})
"""Whole ones; the others but the balancer are times in seconds."""
BALANCER = "balancer"


@dataclass(slots=True)
class Live:
    """Deadlines, in seconds, how often is tried again, how much is let in, when a breaker opens, and how routes are
    chosen: begin as configured, and change for requests to come. `policy` is what the configuration makes of it."""

    connect_timeout_s: float
    first_byte_timeout_s: float
    encode_timeout_s: float
    answer_timeout_s: float
    idle_timeout_s: float
    queue_timeout_s: float
    drain_timeout_s: float
    max_retries: int
    breaker_failures: int
    breaker_pause_s: float
    breaker_max_pause_s: float
    max_concurrent: int
    max_queue: int
    ppd_threshold: int
    balancer: str | None
    policy: Policy = field(compare=False)

    @classmethod
    def of(cls, config: RouterConfig) -> Live:
        """Return what `config` says."""
        return cls(**{name: getattr(config, name) for name in FIELDS}, policy=config.policy())

    def values(self) -> dict[str, Any]:
        """Return the settings by the names of the configuration's fields."""
        return {name: getattr(self, name) for name in FIELDS}

    def become(self, config: RouterConfig) -> bool:
        """Be as `config`; return whether that is a change."""
        wanted = Live.of(config)
        if wanted == self:
            return False
        for each in fields(self):
            setattr(self, each.name, getattr(wanted, each.name))
        return True

    def take(self, config: RouterConfig, settings: Mapping[str, Setting]) -> bool:
        """Be as `settings`, named as flags are (`idle_timeout`), say, and else as `config`; return whether that is a
        change. Raises UsageError, and nothing changes."""
        changes: dict[str, Any] = {_field(name, value): value for name, value in settings.items()}
        return self.become(replace(config, **changes))


FIELDS = tuple(each.name for each in fields(Live) if each.name != "policy")
NAMES = tuple(name.removesuffix("_s") for name in FIELDS)


def _field(name: str, value: Setting) -> str:
    if name not in NAMES:
        raise UsageError(f"{name!r} can't be changed while the router runs: {', '.join(NAMES)} can")
    if name == BALANCER:
        if value is not None and not isinstance(value, str):
            raise UsageError(f"{name}: {value} is no balancer's name")
        return name
    good = isinstance(value, int | float) and isfinite(value) and value >= 0
    if not good or (name in NUMBERS and value != int(value or 0)):
        raise UsageError(f"{name}: {value} is no {'whole number' if name in NUMBERS else 'time in seconds'}")
    return name if name in NUMBERS else f"{name}_s"
