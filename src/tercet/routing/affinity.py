"""How much a held prefix counts for a rank that others crowd already."""

from __future__ import annotations

from collections.abc import Sequence

from tercet.core.route import Rank
from tercet.routing.fleet import FleetState

SPREAD = 0.4
"""By so much of the mean a rank may be busier for its prefix's sake: less than 1.5 times the mean is meant to hold."""
FEW = 4
"""So many requests more than the mean overload nobody, however low the mean."""


def mean_requests(fleet: FleetState, ranks: Sequence[Rank]) -> float:
    """Return the requests under way on each of the ranks, on average."""
    return fleet.by_load(ranks).mean_requests()


def affinity(requests: int, mean: float) -> float:
    """Return the weight of a rank's prefix: 1 up to the mean load, falling to 0 where it would be overloaded."""
    excess = requests - mean
    return 1.0 if excess <= 0 else max(0.0, 1.0 - excess / max(FEW, SPREAD * mean))


def crowded(fleet: FleetState, rank: Rank, ranks: Sequence[Rank]) -> bool:
    """True when `rank` has so much more to do than `ranks` on average that no prefix is worth waiting for it."""
    return affinity(fleet.load(rank).requests, mean_requests(fleet, ranks)) == 0.0
