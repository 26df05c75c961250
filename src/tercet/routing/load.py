"""How much work a rank has."""

from __future__ import annotations

from dataclasses import dataclass, field

REQUEST_TOKENS = 32
"""What an answer under way weighs against tokens still to prefill: it slows every step a little for as long as it
lasts."""


@dataclass(slots=True)
class Load:
    """Work in flight on one rank. `tokens` are prompt tokens still to be computed; `last_routed` orders the ranks by
    their last request; `routed` counts all of them. `order` is (requests and tokens in one number, last_routed), kept
    ready: it changes a few times in a request, and is read for every rank."""

    requests: int = 0
    tokens: int = 0
    last_routed: int = 0
    routed: int = 0
    order: tuple[int, int] = (0, 0)
    seen_by: tuple[tuple[set[int], int], ...] = field(default=(), compare=False, repr=False)
    """Sets, and what is put into each of them when `order` changes."""

    @property
    def work(self) -> int:
        """Requests and tokens in one number."""
        return self.order[0]

    def take(self, tokens: int, routed: int) -> None:
        """A request with so many tokens to compute was routed here, the `routed`-th of all."""
        self.requests += 1
        self.tokens += tokens
        self.routed += 1
        self.last_routed = routed
        self._changed()

    def give_back(self, requests: int, tokens: int) -> None:
        """So much is done. Never below zero: a worker may have left and come back under the same address meanwhile."""
        self.requests = self.requests - requests if self.requests > requests else 0
        self.tokens = self.tokens - tokens if self.tokens > tokens else 0
        self._changed()

    def give_back_down_to(self, requests: int, tokens: int, least_requests: int, least_tokens: int) -> None:
        """So much is done. Never below what others have there."""
        self.requests = max(least_requests, self.requests - requests)
        self.tokens = max(least_tokens, self.tokens - tokens)
        self._changed()

    def add(self, requests: int, tokens: int, routed: int) -> None:
        """Others have so much more there, or less."""
        self.requests += requests
        self.tokens += tokens
        self.routed += routed
        self._changed()

    def _changed(self) -> None:
        self.order = (self.tokens + REQUEST_TOKENS * self.requests, self.last_routed)
        for changed, place in self.seen_by:
            changed.add(place)
