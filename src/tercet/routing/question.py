"""One routing decision's inputs, and the routes that it can end in."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tercet.core.record import record
from tercet.core.route import Rank, Route
from tercet.core.stage import Mode
from tercet.routing.affinity import crowded
from tercet.routing.conversations import Continuation
from tercet.routing.facts import RequestFacts
from tercet.routing.fleet import FleetState
from tercet.routing.policy import Policy
from tercet.routing.refusal import Refusal


@record(frozen=True, slots=True)
class Question:
    """One decision's inputs."""

    mode: Mode
    facts: RequestFacts
    fleet: FleetState
    policy: Policy
    avoid: Collection[str]
    known: Continuation | None

    @property
    def ticketed(self) -> bool:
        """True when a ticket carries the request from P to D; else D takes it whole, where it can."""
        return self.facts.single and not self.several

    @property
    def several(self) -> bool:
        """True when more answers are wanted than the one that P hands on for."""
        return self.facts.several and self.policy.one_choice

    def candidates(self, letter: str) -> Sequence[Rank]:
        """Return the ranks of a role that are ready, serve the model, and have not failed this request."""
        found = self.fleet.candidates(letter, self.facts.model)
        return [rank for rank in found if rank.address not in self.avoid] if self.avoid else found

    def choose(self, ranks: Sequence[Rank]) -> Rank:
        """Return the balancer's choice."""
        policy = self.policy
        return policy.balancer_for(self.mode)(ranks, self.facts, self.fleet, self.known, policy.seed)

    def choose_anew(self, ranks: Sequence[Rank]) -> Rank:
        """Return the balancer's choice, as if nobody had served the conversation before."""
        balancer = self.policy.balancer_for(self.mode)
        return balancer(ranks, self.facts, self.fleet, None, self.policy.seed)

    def holder(self, ranks: Sequence[Rank]) -> Rank | None:
        """Return the rank that served the conversation's last turn, if it is among `ranks` and not crowded."""
        if self.known is None:
            return None
        places = self.fleet.by_load(ranks).places((self.known.conversation.address,))
        return ranks[places[0]] if places and not crowded(self.fleet, ranks[places[0]], ranks) else None

    def direct(self, rank: Rank, *, fallback: bool = False) -> Route:
        """Return the route on which `rank` does everything."""
        known = self.known
        holding = self.fleet.holding(self.facts, rank, known)
        return Route(self.mode, rank, None, holding.held, holding.uncached, 0, known is not None, fallback)

    def split(self, prefill: Rank, decode: Rank) -> Route:
        """Return the route on which `prefill` hands the prompt's KV to `decode`."""
        on_prefill = self.fleet.holding(self.facts, prefill, None)
        on_decode = self.fleet.holding(self.facts, decode, self.known)
        return Route(
            self.mode,
            decode,
            prefill,
            on_decode.held,
            on_decode.uncached,
            on_prefill.uncached,
            known=self.known is not None,
        )


def none_ready(what: str) -> Refusal:
    """Return the refusal of a request for which no such rank is ready."""
    return Refusal(503, f"no {what} is ready; try again, or see /status", "no_worker_ready")
