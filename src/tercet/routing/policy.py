"""What the operator chose about routing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tercet.core.errors import UsageError
from tercet.core.route import Rank
from tercet.core.stage import Mode
from tercet.routing.balancers import BALANCERS, Balancer

PPD_THRESHOLD = 512
"""Uncached tokens from which on a later turn goes through P."""

RANK_MATCHES = ("exact", "any")
"""Which of D's ranks may take over from a rank of P: the one of the same number, or each of them."""

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
    no E is ready, where its worker has the stage. `rank_match` exact lets P's rank i hand on to D's rank i alone.
    `hybrid` lets A ranks answer beside P and D in the modes that hand on: else they get no requests there.
    `one_choice`: P hands a prompt on for one answer alone.
    """

    balancer: str | None = None
    ppd_threshold: int = PPD_THRESHOLD
    decode_fallback: bool = False
    seed: int = 0
    decode_alone: bool = True
    encode_locally: bool = False
    rank_match: str = "any"
    hybrid: bool = False
    one_choice: bool = False

    def balancer_for(self, mode: Mode) -> Balancer:
        """Return the balancer that serves `mode`."""
        return BALANCERS[self.balancer or DEFAULT_BALANCERS[mode]]

    def matches(self, prefill: Rank, decode: Rank) -> bool:
        """True when `prefill` may hand on to `decode`."""
        return self.rank_match == "any" or prefill.rank == decode.rank


def check_rank_match(rank_match: str | None) -> None:
    """Raise UsageError that lists the known ones. None is the dialect's own."""
    if rank_match not in (None, *RANK_MATCHES):
        raise UsageError(f"unknown rank match {rank_match!r}: choose {' or '.join(RANK_MATCHES)}")


def unequal_ranks(rank_match: str, prefill: Collection[int], decode: Collection[int]) -> str | None:
    """Return why P and D workers of so many ranks each can't be paired, or None when they can."""
    counts = {*prefill, *decode}
    if rank_match != "exact" or not prefill or not decode or len(counts) == 1:
        return None
    return (
        f"rank_match exact pairs P's rank i with D's rank i, but P has {_listed(prefill)} ranks and D "
        f"{_listed(decode)}: give all as many, or take rank_match any"
    )


def _listed(counts: Collection[int]) -> str:
    return " and ".join(str(count) for count in sorted(set(counts)))
