"""The fleet as it is now, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tercet.router.gate import Gates
from tercet.router.handoffs import Handoffs
from tercet.router.instruments import PREFIX
from tercet.routing.breaker import Breakers
from tercet.routing.fleet import FleetState


class FleetGauges(Collector):
    """Read when asked: nothing is kept twice."""

    def __init__(self, fleet: FleetState, handoffs: Handoffs, breakers: Breakers, gates: Gates) -> None:
        self._fleet, self._handoffs, self._breakers, self._gates = fleet, handoffs, breakers, gates

    def collect(self) -> Iterator[Metric]:
        """Yield requests, those that wait, conversations, breakers of pairs, and of each rank: ready, requests, tokens,
        prefix blocks, pictures, unaccepted handoffs, breaker."""
        fleet = self._fleet
        yield GaugeMetricFamily(PREFIX + "in_flight", "Requests under way", value=fleet.in_flight)
        yield GaugeMetricFamily(PREFIX + "conversations", "Conversations remembered", value=fleet.conversation_count)
        yield GaugeMetricFamily(PREFIX + "waiting", "Requests that wait for room", value=self._gates.waiting)
        yield self._of_ranks("rank_ready", "1 when an inference succeeded", lambda a: float(fleet.ready(a)))
        yield self._of_ranks("rank_requests", "Requests under way", lambda a: fleet.load(fleet.ranks[a]).requests)
        yield self._of_ranks("rank_tokens", "Prompt tokens to compute", lambda a: fleet.load(fleet.ranks[a]).tokens)
        yield self._of_ranks("rank_prefix_blocks", "Pieces believed cached", fleet.prefix_blocks)
        yield self._of_ranks("rank_pictures", "Pictures believed held", fleet.picture_count)
        yield self._of_ranks("unaccepted_handoffs", "Handoffs not yet accepted", self._handoffs.unaccepted)
        yield self._of_ranks("breaker_state", "0 closed, 1 half-open, 2 open", self._breakers.state)
        pairs = GaugeMetricFamily(
            PREFIX + "pair_breaker_state",
            "Breakers of pairs: 1 half-open, 2 open; closed ones are not here",
            labels=("pair",),
        )
        for key, state in self._breakers.troubled():
            if isinstance(key, tuple) and all(address in fleet.ranks for address in key):
                pairs.add_metric((">".join(fleet.ranks[address].label for address in key),), state)
        yield pairs

    def _of_ranks(self, name: str, text: str, value: Callable[[str], float]) -> Metric:
        family = GaugeMetricFamily(PREFIX + name, text, labels=("rank", "address"))
        for address, rank in self._fleet.ranks.items():
            family.add_metric((rank.label, address), value(address))
        return family
