"""What every part of the router shares."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import count

from tercet.dialects.protocol import Dialect
from tercet.http.client import Client
from tercet.router.checks import Door
from tercet.router.config import RouterConfig
from tercet.router.gate import Gates
from tercet.router.handoffs import Handoffs
from tercet.router.live import Live
from tercet.router.metrics import RouterMetrics
from tercet.router.record import Recent
from tercet.router.request_log import RequestLog
from tercet.router.retry import RetryPauses
from tercet.router.sender import Sender
from tercet.router.tracing import Tracing
from tercet.routing.breaker import Breakers
from tercet.routing.fleet import FleetState
from tercet.routing.policy import Policy


@dataclass(frozen=True, slots=True)
class Parts:
    """One router's parts. `names` gives each route taken a name of its own: clients may repeat theirs.
    `visits` counts the requests under way by the URLs of the workers that still have to do with them; of those in
    `pinned`, which joined later, the number of ranks was given. `ports` are bootstrap ports by URL, into which the
    dialect looks."""

    config: RouterConfig
    live: Live
    dialect: Dialect
    fleet: FleetState
    client: Client
    sender: Sender
    handoffs: Handoffs
    metrics: RouterMetrics
    door: Door
    breakers: Breakers
    gates: Gates
    pauses: RetryPauses
    ports: dict[str, int]
    log: RequestLog | None = None
    tracing: Tracing | None = None
    recent: Recent = field(default_factory=Recent)
    names: count[int] = field(default_factory=count)
    visits: Counter[str] = field(default_factory=Counter)
    pinned: set[str] = field(default_factory=set)

    @property
    def policy(self) -> Policy:
        """How requests are routed, as of now."""
        return self.live.policy

    def follow_live(self) -> None:
        """Have everyone who does not look at `live` each time take over what changed in it."""
        live = self.live
        self.client.connect_timeout_s = live.connect_timeout_s
        self.breakers.set(live.breaker_failures, live.breaker_pause_s, live.breaker_max_pause_s)
        self.gates.follow_live()
