"""The requests under way, and the work that each rank has by them."""

from __future__ import annotations

from dataclasses import dataclass

from tercet.core.route import Route
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
    """What is taken from a rank is given back: as a request gets on, and all of it at its end. `loads` are by address,
    to be looked at."""

    def __init__(self) -> None:
        self.loads: dict[str, Load] = {}
        self._flights: dict[str, Flight] = {}
        self.routed = 0

    def __len__(self) -> int:
        """Return how many requests are under way."""
        return len(self._flights)

    def add_rank(self, address: str) -> None:
        """A rank joined, with nothing to do."""
        self.loads[address] = Load()

    def remove_rank(self, address: str) -> None:
        """A rank left; what it had to do is nobody's."""
        del self.loads[address]

    def find(self, request_id: str) -> Flight | None:
        """Return a request that is under way."""
        return self._flights.get(request_id)

    def begin(self, request_id: str, route: Route, facts: RequestFacts) -> None:
        """A request was routed."""
        self.routed += 1
        prefill, encoding = route.prefill, {}
        for share in route.encode:
            tokens = sum(facts.pictures[i].tokens for i in share.pictures)
            encoding[share.rank.address] = tokens
            self._take(share.rank.address, tokens)
        if prefill is None:
            self._flights[request_id] = Flight(route, facts, 0, route.uncached, False, encoding)
            self._take(route.decode.address, route.uncached)
        else:
            self._flights[request_id] = Flight(route, facts, route.prefill_uncached, 0, True, encoding)
            self._take(prefill.address, route.prefill_uncached)
            self._take(route.decode.address, 0)

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
        if flight.decode_tokens:
            self._give_back(flight.route.decode.address, 0, flight.decode_tokens)
            flight.decode_tokens = 0

    def end(self, request_id: str) -> None:
        """A request is over, however far it came."""
        flight = self._flights.pop(request_id, None)
        if flight is None:
            return
        if flight.prefilling:
            self.prefilled(flight)
        for address in list(flight.encoding) if flight.encoding else ():
            self.encoded(flight, address)
        self._give_back(flight.route.decode.address, 1, flight.decode_tokens)

    def _take(self, address: str, tokens: int) -> None:
        load = self.loads.get(address)
        if load is not None:
            load.take(tokens, self.routed)

    def _give_back(self, address: str, requests: int, tokens: int) -> None:
        load = self.loads.get(address)
        if load is not None:
            load.give_back(requests, tokens)
