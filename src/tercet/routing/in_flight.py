"""The requests under way, and the work that each rank has by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tercet.core.route import Rank, Route
from tercet.routing.by_load import MANY, ByLoad, LoadHeap, LoadScan
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


Part = tuple[int, int, int]
"""What one process adds to a rank's load: requests, tokens, and requests routed so far."""
NOTHING: Part = (0, 0, 0)
ANEW: Part = (-1, -1, -1)
"""Equals no part: what was told of a rank that left and may come back is told again, be it nothing."""
MAX_GONE = 4096


class InFlight:
    """What is taken from a rank is given back: as a request gets on, and all of it at its end. `loads` are by address,
    to be looked at.

    Where several processes share a fleet each tells the others its part of every load, as it is: nothing has to be
    added up in order, and the part of one that died is taken out whole.
    """

    def __init__(self) -> None:
        self.loads: dict[str, Load] = {}
        self._flights: dict[str, Flight] = {}
        self.routed = 0
        self._parts: dict[int, dict[str, Part]] = {}
        self._counts: dict[int, int] = {}
        self._elsewhere: dict[str, Part] = {}  # the sum of others' parts
        self._told: dict[str, Part] = {}
        self._heaps: dict[int, LoadHeap] = {}  # by the identity of the ranks

    def __len__(self) -> int:
        """Return how many requests are under way."""
        return len(self._flights) + sum(self._counts.values()) if self._counts else len(self._flights)

    @property
    def own_count(self) -> int:
        """How many requests are under way in this process."""
        return len(self._flights)

    def add_rank(self, address: str) -> None:
        """A rank joined, with nothing to do but what others have told already."""
        self.loads[address] = Load()
        for part in [parts[address] for parts in self._parts.values() if address in parts]:
            self._add_elsewhere(address, NOTHING, part)

    def remove_rank(self, address: str) -> None:
        """A rank left; what it had to do is nobody's."""
        del self.loads[address]
        self._elsewhere.pop(address, None)
        if self._told.pop(address, NOTHING) != NOTHING:
            self._told[address] = ANEW
        if len(self._told) > len(self.loads) + MAX_GONE:
            self._told = {known: part for known, part in self._told.items() if part != ANEW}
        for parts in self._parts.values():
            parts.pop(address, None)

    def by_load(self, ranks: Sequence[Rank]) -> ByLoad:
        """See FleetState. A tuple, that can't change, is taken to be one that comes again."""
        if len(ranks) < MANY or not isinstance(ranks, tuple):
            return LoadScan(ranks, self.loads)
        heap = self._heaps.get(id(ranks))
        if heap is None:
            heap = self._heaps[id(ranks)] = LoadHeap(ranks, self.loads)
        return heap

    def ranks_changed(self) -> None:
        """Other ranks than before will be asked for."""
        if self._heaps:
            self._heaps.clear()
            for load in self.loads.values():
                load.seen_by = ()

    def changes(self) -> dict[str, Part]:
        """Return this process's part of every load that changed since this was asked last."""
        changed: dict[str, Part] = {}
        for address, load in self.loads.items():
            requests, tokens, routed = self._elsewhere.get(address, NOTHING)
            own = (load.requests - requests, load.tokens - tokens, load.routed - routed)
            if self._told.get(address, NOTHING) != own:
                changed[address] = self._told[address] = own
        return changed

    def told(self, process: int, parts: Mapping[str, Part], count: int) -> None:
        """Another process said its part of some loads, and how many requests it has under way."""
        known = self._parts.setdefault(process, {})
        self._counts[process] = count
        for address, part in parts.items():
            before, known[address] = known.get(address, NOTHING), part
            self._add_elsewhere(address, before, part)

    def parts_of(self, process: int) -> tuple[dict[str, Part], int]:
        """Return what a process has told, all of it."""
        return dict(self._parts.get(process, {})), self._counts.get(process, 0)

    def withdraw(self, process: int) -> None:
        """A process is gone, and its requests with it."""
        self._counts.pop(process, None)
        for address, (requests, tokens, routed) in self._parts.pop(process, {}).items():
            self._add_elsewhere(address, (requests, tokens, routed), (0, 0, routed))  # what was routed, was

    def _add_elsewhere(self, address: str, before: Part, part: Part) -> None:
        load = self.loads.get(address)
        if load is None:
            return  # told of a rank that is not known here yet: see add_rank
        requests, tokens, routed = (new - old for new, old in zip(part, before, strict=True))
        load.add(requests, tokens, routed)
        known = self._elsewhere.get(address, NOTHING)
        self._elsewhere[address] = (known[0] + requests, known[1] + tokens, known[2] + routed)

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
            others = self._elsewhere.get(address) if self._elsewhere else None
            if others is None:
                load.give_back(requests, tokens)
            else:
                load.give_back_down_to(requests, tokens, others[0], others[1])
