"""The requests under way, and the work that each rank has by them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tercet.core.route import Rank, Route
from tercet.routing.facts import RequestFacts
from tercet.routing.load import Load


@dataclass(slots=True)
class Flight:
    """One request on its way: what P and D still have to compute of it, and by rank what is being encoded."""

    route: Route
    facts: RequestFacts
    prefill_tokens: int
    decode_tokens: int
    prefilling: bool
    encoding: dict[str, int]


class InFlight:
    """What is taken from a rank is given back: as a request gets on, and all of it at its end."""

    def __init__(self) -> None:
        self._loads: dict[str, Load] = {}
        self._flights: dict[str, Flight] = {}
        self.routed = 0

    def __len__(self) -> int:
        """Return how many requests are under way."""
        return len(self._flights)

    def add_rank(self, address: str) -> None:
        """A rank joined, with nothing to do."""
        self._loads[address] = Load()

    def remove_rank(self, address: str) -> None:
        """A rank left; what it had to do is nobody's."""
        del self._loads[address]

    def load(self, address: str) -> Load:
        """Return a rank's load."""
        return self._loads[address]

    def orders(self, ranks: Iterable[Rank]) -> list[tuple[int, int]]:
        """Return the `order` of each rank's load."""
        loads = self._loads
        return [loads[rank.address].order for rank in ranks]

    def requests(self, ranks: Iterable[Rank]) -> list[int]:
        """Return the requests of each rank's load."""
        loads = self._loads
        return [loads[rank.address].requests for rank in ranks]

    def find(self, request_id: str) -> Flight | None:
        """Return a request that is under way."""
        return self._flights.get(request_id)

    def begin(self, request_id: str, route: Route, facts: RequestFacts) -> None:
        """A request was routed."""
        self.routed += 1
        split = route.prefill is not None
        work = (route.prefill_uncached, 0) if split else (0, route.uncached)
        flight = self._flights[request_id] = Flight(route, facts, *work, split, {})
        for share in route.encode:
            tokens = sum(facts.pictures[i].tokens for i in share.pictures)
            flight.encoding[share.rank.address] = tokens
            self._take(share.rank, tokens)
        if route.prefill is not None:
            self._take(route.prefill, flight.prefill_tokens)
        self._take(route.decode, flight.decode_tokens)

    def encoded(self, flight: Flight, address: str) -> None:
        """An encode rank did its share."""
        tokens = flight.encoding.pop(address, None)
        if tokens is not None:
            self._give_back(address, 1, tokens)

    def prefilled(self, flight: Flight) -> bool:
        """P did its part. False when it had none, or had done it before."""
        prefill = flight.route.prefill
        if prefill is None or not flight.prefilling:
            return False
        flight.prefilling = False
        self._give_back(prefill.address, 1, flight.prefill_tokens)
        return True

    def answering(self, flight: Flight) -> None:
        """D has the prompt; it is busy with the answer from here on."""
        self._give_back(flight.route.decode.address, 0, flight.decode_tokens)
        flight.decode_tokens = 0

    def end(self, request_id: str) -> None:
        """A request is over, however far it came."""
        flight = self._flights.pop(request_id, None)
        if flight is None:
            return
        self.prefilled(flight)
        for address in list(flight.encoding):
            self.encoded(flight, address)
        self._give_back(flight.route.decode.address, 1, flight.decode_tokens)

    def _take(self, rank: Rank, tokens: int) -> None:
        load = self._loads.get(rank.address)
        if load is not None:
            load.take(tokens, self.routed)

    def _give_back(self, address: str, requests: int, tokens: int) -> None:
        load = self._loads.get(address)
        if load is not None:
            load.give_back(requests, tokens)
