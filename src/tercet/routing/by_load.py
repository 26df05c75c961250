"""Ranks by their load: the least loaded of hundreds without a look at each."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from tercet.core.route import Rank
from tercet.routing.load import Load

Place = tuple[tuple[float, int], int]
"""(an order such as `Load.order`, index among the ranks): the smallest comes first."""
MANY = 16
"""So many ranks are looked at as fast as a heap is kept."""
FEW = 8
"""So many entries are taken off a heap and put back as fast as all are looked at."""
SLACK = 4
"""A heap may hold so many outdated entries for each that is not."""


class ByLoad(Protocol):
    """Some ranks, of which loads are asked."""

    def least(self, besides: Collection[str] = ()) -> Place | None:
        """Return which rank has the least load, the first where several do; none of the addresses `besides`."""
        ...

    def places(self, addresses: Collection[str]) -> list[int]:
        """Return the indices of those ranks that are among `addresses`."""
        ...

    def mean_requests(self) -> float:
        """Return the requests under way on each of the ranks, on average."""
        ...


class LoadScan:
    """Looks at each rank."""

    __slots__ = ("_loads", "_ranks")

    def __init__(self, ranks: Sequence[Rank], loads: Mapping[str, Load]) -> None:
        self._ranks, self._loads = ranks, loads

    def least(self, besides: Collection[str] = ()) -> Place | None:
        """See ByLoad."""
        loads = self._loads
        if not besides:
            orders = [loads[rank.address].order for rank in self._ranks]
            order = min(orders)
            return order, orders.index(order)
        left = [(loads[rank.address].order, i) for i, rank in enumerate(self._ranks) if rank.address not in besides]
        return min(left, default=None)

    def places(self, addresses: Collection[str]) -> list[int]:
        """See ByLoad."""
        return [i for i, rank in enumerate(self._ranks) if rank.address in addresses]

    def mean_requests(self) -> float:
        """See ByLoad."""
        loads = self._loads
        return sum([loads[rank.address].requests for rank in self._ranks]) / len(self._ranks)


class LoadHeap:
    """Looks at those whose load has changed since it was asked last: `Load.seen_by` tells it."""

    __slots__ = ("_changed", "_heap", "_loads", "_places", "_requests", "_scan", "_total", "ranks")

    def __init__(self, ranks: Sequence[Rank], loads: Mapping[str, Load]) -> None:
        self.ranks = ranks
        self._scan = LoadScan(ranks, loads)
        self._places = {rank.address: i for i, rank in enumerate(ranks)}
        self._loads = [loads[rank.address] for rank in ranks]
        self._changed: set[int] = set()
        for i, load in enumerate(self._loads):
            load.seen_by = (*load.seen_by, (self._changed, i))
        self._requests = [load.requests for load in self._loads]
        self._total = sum(self._requests)
        # May hold outdated orders: they are passed over when they come up.
        self._heap = [(load.order, i) for i, load in enumerate(self._loads)]
        heapq.heapify(self._heap)

    def least(self, besides: Collection[str] = ()) -> Place | None:
        """See ByLoad."""
        if len(besides) > FEW:
            return self._scan.least(besides)
        self._look()
        heap, loads = self._heap, self._loads
        passed: list[tuple[tuple[int, int], int]] = []
        found: Place | None = None
        while heap:
            order, i = heap[0]
            if loads[i].order is not order:
                heapq.heappop(heap)
            elif besides and self.ranks[i].address in besides:
                passed.append(heapq.heappop(heap))
            else:
                found = order, i
                break
        for place in passed:
            heapq.heappush(heap, place)
        return found

    def places(self, addresses: Collection[str]) -> list[int]:
        """See ByLoad."""
        if len(addresses) > len(self._places):
            return self._scan.places(addresses)
        return sorted(self._places[address] for address in addresses if address in self._places)

    def mean_requests(self) -> float:
        """See ByLoad."""
        self._look()
        return self._total / len(self._loads)

    def _look(self) -> None:
        heap, loads, requests = self._heap, self._loads, self._requests
        for i in self._changed:
            load = loads[i]
            heapq.heappush(heap, (load.order, i))
            self._total += load.requests - requests[i]
            requests[i] = load.requests
        self._changed.clear()
        if len(heap) > SLACK * len(loads):
            heap[:] = [(load.order, i) for i, load in enumerate(loads)]
            heapq.heapify(heap)
