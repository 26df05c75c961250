"""Modes: the rules that send requests through a topology.

Each is the sentence "choose D first, then ask whether P is needed, by the tokens D does not hold yet" with another
answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from tercet.core.route import Rank, Route
from tercet.core.stage import Mode
from tercet.routing.balancers import BALANCERS, Balancer
from tercet.routing.conversations import Continuation
from tercet.routing.facts import RequestFacts
from tercet.routing.fleet import FleetState
from tercet.routing.refusal import Refusal

PPD_THRESHOLD = 512
"""Uncached tokens from which on a later turn goes through P."""

DEFAULT_BALANCERS: dict[Mode, str] = {
    Mode.AGGREGATED: "least_loaded",
    Mode.REPLICATED: "prefix_aware",
    Mode.PD: "prefix_aware",
    Mode.PPD: "prefix_aware",
}


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator chose. `balancer` None means the mode's own; `seed` drives the random balancers.

    `decode_fallback` lets D prefill when no P is ready; else such a request is refused. `decode_alone` is false where
    D can't prefill at all: then every request goes through P.
    """

    balancer: str | None = None
    ppd_threshold: int = PPD_THRESHOLD
    decode_fallback: bool = False
    seed: int = 0
    decode_alone: bool = True

    def balancer_for(self, mode: Mode) -> Balancer:
        """Return the balancer that serves `mode`."""
        return BALANCERS[self.balancer or DEFAULT_BALANCERS[mode]]


@dataclass(frozen=True, slots=True)
class _Question:
    """One decision's inputs."""

    mode: Mode
    facts: RequestFacts
    fleet: FleetState
    policy: Policy
    avoid: Collection[str]
    known: Continuation | None

    def candidates(self, letter: str) -> list[Rank]:
        return [r for r in self.fleet.candidates(letter, self.facts.model) if r.address not in self.avoid]

    def choose(self, ranks: Sequence[Rank]) -> Rank:
        balancer = self.policy.balancer_for(self.mode)
        return balancer(ranks, self.facts, self.fleet, self.known, self.policy.seed)

    def holder(self, ranks: Sequence[Rank]) -> Rank | None:
        """Return the rank that served the conversation's last turn, if it is among `ranks`."""
        if self.known is None:
            return None
        address = self.known.conversation.address
        return next((rank for rank in ranks if rank.address == address), None)

    def direct(self, rank: Rank, *, fallback: bool = False) -> Route:
        """Return the route on which `rank` does everything."""
        holding = self.fleet.holding(self.facts, rank, self.known)
        return Route(
            self.mode, rank, None, holding.held, holding.uncached, known=self.known is not None, fallback=fallback
        )

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


def route(
    mode: Mode, facts: RequestFacts, fleet: FleetState, policy: Policy, avoid: Collection[str] = ()
) -> Route | Refusal:
    """Return the route of a request under `mode`, or why there is none. `avoid` are addresses that failed this
    request before."""
    known_models = fleet.known_models
    if facts.model and known_models and facts.model not in known_models:
        return Refusal(
            404,
            f"model {facts.model!r} is not served here; there is {', '.join(map(repr, known_models))}",
            "model_not_found",
        )
    return MODES[mode](_Question(mode, facts, fleet, policy, avoid, fleet.conversations.find(facts)))


def aggregated(question: _Question) -> Route | Refusal:
    """Each request on any A rank, no affinity."""
    ranks = question.candidates("A")
    return question.direct(question.choose(ranks)) if ranks else _none_ready("worker with prefill and decode (A)")


def replicated(question: _Question) -> Route | Refusal:
    """A conversation sticks to the A rank that holds its prefix; a new one is balanced."""
    ranks = question.candidates("A")
    if not ranks:
        return _none_ready("worker with prefill and decode (A)")
    return question.direct(question.holder(ranks) or question.choose(ranks))


def pd(question: _Question) -> Route | Refusal:
    """Every turn prefills on P and hands its KV to D."""
    ranks = question.candidates("D")
    if not ranks:
        return _none_ready("decode worker (D)")
    return _through_p(question, ranks, None)


def ppd(question: _Question) -> Route | Refusal:
    """Turn 1 as `pd`; later turns straight to the D that holds the prefix, unless the new input is long or the
    prefix is gone."""
    ranks = question.candidates("D")
    if not ranks:
        return _none_ready("decode worker (D)")
    decode = question.holder(ranks)
    if decode is None and question.facts.later_turn:
        # Nobody remembers the conversation, but somebody's cache may hold it all the same.
        decode = prefix_holder(question, ranks)
    if decode is not None and question.policy.decode_alone:
        holding = question.fleet.holding(question.facts, decode, question.known)
        if holding.held and holding.uncached < question.policy.ppd_threshold:
            return question.direct(decode)
    return _through_p(question, ranks, decode)


def prefix_holder(question: _Question, ranks: Sequence[Rank]) -> Rank | None:
    """Return the rank that holds most of the prompt, if any holds at least half of it."""
    best = min(ranks, key=lambda rank: question.fleet.holding(question.facts, rank, None).uncached)
    holding = question.fleet.holding(question.facts, best, None)
    return best if holding.held > holding.uncached else None


def _through_p(question: _Question, ranks: Sequence[Rank], preferred: Rank | None) -> Route | Refusal:
    if not question.facts.single and question.policy.decode_alone:
        # A ticket carries one prompt: D takes several whole.
        return question.direct(preferred or question.choose(ranks))
    prefills = question.candidates("P")
    fleet, left = question.fleet, list(ranks)
    while prefills and left:
        decode = preferred or question.choose(left)
        reachable = [p for p in prefills if fleet.paired(p.address, decode.address)]
        if reachable:
            # P is chosen by its own cache: who holds the conversation is D's affair.
            return question.split(replace(question, known=None).choose(reachable), decode)
        left.remove(decode)
        preferred = None
    if question.policy.decode_fallback and question.policy.decode_alone:
        return question.direct(preferred or question.choose(ranks), fallback=True)
    return _none_ready("prefill worker (P)" if not prefills else "pair of prefill and decode worker (P and D)")


def _none_ready(what: str) -> Refusal:
    return Refusal(503, f"no {what} is ready; try again, or see /status", "no_worker_ready")


MODES: dict[Mode, Callable[[_Question], Route | Refusal]] = {
    Mode.AGGREGATED: aggregated,
    Mode.REPLICATED: replicated,
    Mode.PD: pd,
    Mode.PPD: ppd,
}
