"""What a plan is asked: hardware, model, stack, traffic, and what counts as good."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tercet.core.stage import Mode
from tercet.latency.oracle import ChosenOracle
from tercet.latency.stack import StackConstants
from tercet.plan.architecture import Architecture
from tercet.results.slo import Slo
from tercet.routing.policy import PPD_THRESHOLD, Policy
from tercet.sim.fleet import EngineCaps, FleetSpec, fleet_of
from tercet.traffic.arrivals import Arrivals
from tercet.traffic.spec import LoadKind, TrafficSpec

TIE_MARGIN = 0.1
"""Figures nearer than this are a tie: predictions come within 10% (docs/planning.md says of what)."""
GOOD_SHARE = 0.9
"""A load is borne while so many of its answers are within the limits."""


@dataclass(frozen=True, slots=True)
class Question:
    """`devices` holds the oracle of a rank by how many GPUs it has; `traffic` is at the load that is asked about.

    `load` 0 asks how much can be borne. `slo` None asks for low E2E latency instead of goodput. `modes` leaves only
    these ways, all when empty. `price` is one GPU's hour, in any currency.
    """

    devices: Mapping[int, ChosenOracle]
    gpus: int
    stack: StackConstants
    caps: EngineCaps
    traffic: TrafficSpec
    kind: LoadKind
    load: float
    slo: Slo | None = None
    modes: tuple[Mode, ...] = ()
    price: float | None = None
    tie_margin: float = TIE_MARGIN
    link_bytes_s: float | None = None

    @property
    def pictures(self) -> bool:
        """True when requests bring pictures."""
        return self.traffic.most_pictures > 0

    @property
    def shares(self) -> bool:
        """True when requests may find a prefix in a cache."""
        return self.traffic.turns > 1 or self.traffic.shares_prefixes

    def fleet(self, architecture: Architecture) -> FleetSpec:
        """Return what is simulated for an architecture."""
        threshold = architecture.ppd_threshold
        return fleet_of(
            architecture.form,
            self.devices[architecture.tp],
            mode=architecture.mode,
            stack=self.stack,
            caps=self.caps,
            policy=Policy(ppd_threshold=PPD_THRESHOLD if threshold is None else threshold, hybrid=architecture.hybrid),
            gpus=architecture.tp,
            link_bytes_s=self.link_bytes_s,
        )

    def traffic_at(self, load: float, requests: int, seed: int) -> TrafficSpec:
        """Return the traffic at another load, by the `seed`-th seed after its own.

        A trace has one order: another seed replays another part of it, faster or slower, so that it comes at the load.
        """
        spec = replace(self.traffic, num_requests=requests, duration_s=None, seed=self.traffic.seed + seed)
        if spec.arrivals is Arrivals.TRACE and self.kind is LoadKind.QPS and spec.dataset is not None:
            part = spec.dataset.part(requests, seed)
            return replace(spec, qps=load, speed=load / part.rate(), dataset=part)
        return spec.at(self.kind, load)
