"""Who is next when more is asked than can be served: a bounded queue, by priority, then fair between tenants."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

from tercet.core.stage import Mode
from tercet.routing.fleet import FleetState

T = TypeVar("T")

MAX_PRIORITY = 9
PACE_KEEPS = 0.9


class FairQueue(Generic[T]):
    """Waiting items. The highest priority goes first; within it tenants take turns, each in the order of arrival.

    When it is full the lowest priority gives way, and within it the tenant that has most waiting: who fills the queue
    must not keep others out of it. `size` is how many wait.
    """

    __slots__ = ("_classes", "bound", "size")

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.size = 0
        self._classes: dict[int, OrderedDict[str, deque[T]]] = {}

    def __len__(self) -> int:
        return self.size

    def push(self, tenant: str, priority: int, item: T) -> T | None:
        """Take an item in. Return the one that has to go for it, which may be itself; None while there is room."""
        self._classes.setdefault(priority, OrderedDict()).setdefault(tenant, deque()).append(item)
        self.size += 1
        if self.size <= self.bound:
            return None
        lowest = min(self._classes)
        tenants = self._classes[lowest]
        longest = max(map(len, tenants.values()))
        # Among equals whoever came last: without a reason nobody who waits is sent away.
        came_last = priority == lowest and len(tenants[tenant]) == longest
        crowded = (name for name, items in reversed(tenants.items()) if len(items) == longest)
        victim_of = tenant if came_last else next(crowded)
        victim = tenants[victim_of].pop()
        self._shrunk(lowest, victim_of)
        return victim

    def pop(self) -> T | None:
        """Return the next item; None when nobody waits."""
        if not self._classes:
            return None
        priority = max(self._classes)
        tenants = self._classes[priority]
        tenant = next(iter(tenants))
        item = tenants[tenant].popleft()
        tenants.move_to_end(tenant)
        self._shrunk(priority, tenant)
        return item

    def discard(self, tenant: str, priority: int, item: T) -> None:
        """Take an item out that no longer wants its turn."""
        tenants = self._classes.get(priority)
        items = None if tenants is None else tenants.get(tenant)
        if items is not None and item in items:
            items.remove(item)
            self._shrunk(priority, tenant)

    def _shrunk(self, priority: int, tenant: str) -> None:
        self.size -= 1
        tenants = self._classes[priority]
        if not tenants[tenant]:
            del tenants[tenant]
        if not tenants:
            del self._classes[priority]


class Pace:
    """How often a place becomes free: a running mean of the time between two, for saying when to come back."""

    __slots__ = ("_last", "_mean_s")

    def __init__(self) -> None:
        self._last: float | None = None
        self._mean_s = 0.0

    def freed(self, now: float) -> None:
        """A place became free."""
        if self._last is not None:
            gap = now - self._last
            self._mean_s = gap if not self._mean_s else PACE_KEEPS * self._mean_s + (1 - PACE_KEEPS) * gap
        self._last = now

    def wait_s(self, waiting: int) -> float:
        """Return about how long so many take, between 1 and 60 seconds."""
        return min(60.0, max(1.0, waiting * self._mean_s))


def asked_priority(header: str | None, *, allowed: bool) -> int:
    """Return a request's priority, -9 to 9; 0 when it asks for none, or for more than it is allowed to."""
    try:
        asked = int(header or 0)
    except ValueError:
        return 0
    return max(-MAX_PRIORITY, min(asked, MAX_PRIORITY if allowed else 0))


def places(fleet: FleetState, mode: Mode, model: str, each: int, *, hybrid: bool = False) -> int:
    """Return how many requests for `model` may be under way, `each` per rank that answers; 0 when none is ready."""
    letters = "A" if mode in (Mode.AGGREGATED, Mode.REPLICATED) else "DA" if hybrid or mode.encodes_apart else "D"
    return each * sum(len(fleet.candidates(letter, model)) for letter in letters)
