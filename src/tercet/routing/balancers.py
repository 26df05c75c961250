"""Balancers: which of several fit ranks. Pure functions; ties go to the rank that waited longest for a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b

from tercet.core.errors import UsageError
from tercet.core.route import Rank
from tercet.routing.affinity import affinity
from tercet.routing.conversations import Continuation
from tercet.routing.facts import RequestFacts
from tercet.routing.fleet import FleetState

Balancer = Callable[[Sequence[Rank], RequestFacts, FleetState, Continuation | None, int], Rank]
"""(ranks, not empty; facts; fleet; the conversation continued, if known; seed) -> one of the ranks."""


def round_robin(
    ranks: Sequence[Rank], facts: RequestFacts, fleet: FleetState, known: Continuation | None, seed: int
) -> Rank:
    """The rank whose last request is the longest ago."""
    return min(ranks, key=lambda rank: fleet.load(rank).last_routed)


def random(
    ranks: Sequence[Rank], facts: RequestFacts, fleet: FleetState, known: Continuation | None, seed: int
) -> Rank:
    """Any rank; a function of (seed, number of requests routed so far)."""
    return ranks[_draw(seed, fleet.routed, ranks[0].letter) % len(ranks)]


def least_loaded(
    ranks: Sequence[Rank], facts: RequestFacts, fleet: FleetState, known: Continuation | None, seed: int
) -> Rank:
    """The rank with the least work in flight."""
    least = fleet.by_load(ranks).least()
    assert least is not None
    return ranks[least[1]]


def power_of_two(
    ranks: Sequence[Rank], facts: RequestFacts, fleet: FleetState, known: Continuation | None, seed: int
) -> Rank:
    """The less loaded of two ranks drawn at random."""
    if len(ranks) == 1:
        return ranks[0]
    letter = ranks[0].letter
    first = _draw(seed, fleet.routed, letter) % len(ranks)
    second = (first + 1 + _draw(seed, fleet.routed, letter + "2") % (len(ranks) - 1)) % len(ranks)
    return min(ranks[first], ranks[second], key=lambda rank: fleet.load(rank).order)


def consistent_hash(
    ranks: Sequence[Rank], facts: RequestFacts, fleet: FleetState, known: Continuation | None, seed: int
) -> Rank:
    """The same rank for the same session, or beginning of a conversation; few move when ranks come and go
    (rendezvous hashing)."""
    key = facts.session.encode("utf-8", "surrogatepass") if facts.session else facts.affinity
    key = blake2b(key, digest_size=16).digest()
    return max(ranks, key=lambda rank: blake2b(rank.address.encode(), key=key, digest_size=8).digest())


def prefix_aware(
    ranks: Sequence[Rank], facts: RequestFacts, fleet: FleetState, known: Continuation | None, seed: int
) -> Rank:
    """The rank that would begin to answer soonest: the fewest tokens to compute first, its own work and what it
    lacks of the prompt. What it holds counts for less the busier it is than the others: each answer under way slows
    all of its steps, and one prefix that everybody asks for must not draw everybody to one rank."""
    by_load = fleet.by_load(ranks)
    holders = fleet.holders(facts, ranks[0].letter, known)
    best = by_load.least(holders)
    if holders:
        mean = by_load.mean_requests()
        for place in by_load.places(holders):
            rank = ranks[place]
            holding, load = holders[rank.address], fleet.load(rank)
            lacking = holding.uncached + holding.held * (1.0 - affinity(load.requests, mean))
            order = (load.work + lacking - facts.prompt_tokens, load.last_routed)
            if best is None or (order, place) < best:
                best = order, place
    assert best is not None
    return ranks[best[1]]


BALANCERS: dict[str, Balancer] = {
    "round_robin": round_robin,
    "random": random,
    "least_loaded": least_loaded,
    "power_of_two": power_of_two,
    "consistent_hash": consistent_hash,
    "prefix_aware": prefix_aware,
}


def balancer_named(name: str) -> Balancer:
    """Return the balancer called `name`. Raises UsageError that lists the known ones."""
    try:
        return BALANCERS[name]
    except KeyError:
        raise UsageError(f"unknown balancer {name!r}: choose one of {', '.join(BALANCERS)}") from None


def _draw(seed: int, count: int, salt: str) -> int:
    # Salted by the role: else P's and D's draws for one request would be the same.
    data = f"{seed}/{count}/{salt}".encode()
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")
