"""What the operator chose about routing."""

from __future__ import annotations

from dataclasses import dataclass

from tercet.core.stage import Mode
from tercet.routing.balancers import BALANCERS, Balancer

PPD_THRESHOLD = 512
"""Uncached tokens from which on a later turn goes through P."""

DEFAULT_BALANCERS: dict[Mode, str] = {
    Mode.AGGREGATED: "least_loaded",
    Mode.REPLICATED: "prefix_aware",
    Mode.PD: "prefix_aware",
    Mode.PPD: "prefix_aware",
    Mode.EPD: "prefix_aware",
    Mode.EPPD: "prefix_aware",
}


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator chose. `balancer` None means the mode's own; `seed` drives the random balancers.

    `decode_fallback` lets D prefill when no P is ready; else such a request is refused. `decode_alone` is false where
    D can't prefill at all: then every request goes through P. `encode_locally` lets the rank that prefills encode when
    no E is ready, where its worker has the stage.
    """

    balancer: str | None = None
    ppd_threshold: int = PPD_THRESHOLD
    decode_fallback: bool = False
    seed: int = 0
    decode_alone: bool = True
    encode_locally: bool = False

    def balancer_for(self, mode: Mode) -> Balancer:
        """Return the balancer that serves `mode`."""
        return BALANCERS[self.balancer or DEFAULT_BALANCERS[mode]]
