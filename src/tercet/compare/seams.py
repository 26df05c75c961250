"""What a comparison is built on, so that tests and other launchers can stand in: a deployment and a load generator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from tercet.bench.load import OnResult
from tercet.bench.sender import Headers
from tercet.core.topology import Topology
from tercet.launch.progress import OnProgress
from tercet.results.record import ClientHealth, RequestRecord
from tercet.traffic.spec import Talk

OnRecord = Callable[[RequestRecord], None]
"""Called as soon as a request is over, whole or not."""


class Deployment(Protocol):
    """A topology as running processes; `tercet.launch.local.LocalDeployment` is one."""

    @property
    def url(self) -> str:
        """The router's URL, once started."""
        ...

    @property
    def worker_urls(self) -> Mapping[str, str]:
        """Each worker's URL by its name, once started."""
        ...

    async def start(self, on_progress: OnProgress | None = None) -> None:
        """Start everything; return when the router is ready. Leaves nothing when it fails or is cancelled."""
        ...

    async def stop(self) -> None:
        """End everything."""
        ...


Deploy = Callable[[Topology], Deployment]
"""Makes a deployment, not yet started."""


class Drive(Protocol):
    """Sends conversations to a server and records what comes back."""

    async def __call__(
        self,
        url: str,
        conversations: Iterable[Talk],
        *,
        model: str,
        cache_salt: str | None,
        on_record: OnRecord,
        headers: Headers = (),
        concurrency: int | None = None,
        ramp_s: float = 0.0,
        until_s: float | None = None,
        on_result: OnResult | None = None,
    ) -> ClientHealth:
        """Return the client's own health once every conversation is over; if cancelled, what was over was told."""
        ...
