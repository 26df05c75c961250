"""How much work a rank has."""

from __future__ import annotations

from dataclasses import dataclass

REQUEST_TOKENS = 32
"""What an answer under way weighs against tokens still to prefill: it slows every step a little for as long as it
lasts."""


@dataclass(slots=True)
class Load:
    """Work in flight on one rank. `tokens` are prompt tokens still to be computed; `last_routed` orders the ranks by
    their last request; `routed` counts all of them."""

    requests: int = 0
    tokens: int = 0
    last_routed: int = 0
    routed: int = 0

    @property
    def work(self) -> int:
        """Requests and tokens in one number."""
        return self.tokens + REQUEST_TOKENS * self.requests
