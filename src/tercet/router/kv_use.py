"""How full the workers' KV caches are, by their own metrics: asked for only while somebody looks."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from time import monotonic

from tercet.core.ids import join_rank
from tercet.http.client import ClientError
from tercet.router.parts import Parts

LOOK_S = 1.0
STALE_S = 5.0
TIMEOUT_S = 2.0
MAX_METRICS_BYTES = 4 << 20


class KvUse:
    """The share of each rank's KV blocks that are in use, 0 to 1, as last heard.

    Nobody waits for a worker here: `look` asks in the background, `of` says what is known.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._heard: dict[str, tuple[float, float]] = {}
        self._next_look = 0.0
        self._looking: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Ask all workers, unless that was done within the last second."""
        busy = self._looking is not None and not self._looking.done()
        if busy or self._parts.dialect.kv_use is None or monotonic() < self._next_look:
            return
        self._next_look = monotonic() + LOOK_S
        self._looking = asyncio.get_running_loop().create_task(self._look())

    def of(self, address: str) -> float | None:
        """Return the share in use of a rank; None when its worker does not say, or has not for a while."""
        share, at = self._heard.get(address, (0.0, float("-inf")))
        return share if monotonic() - at < STALE_S else None

    async def close(self) -> None:
        """Stop asking."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})

    async def _look(self) -> None:
        fleet = self._parts.fleet
        self._heard = {address: heard for address, heard in self._heard.items() if address in fleet.ranks}
        urls = {rank.url for address, rank in fleet.ranks.items() if fleet.ready(address)}
        await asyncio.gather(*(self._ask(url) for url in urls))

    async def _ask(self, url: str) -> None:
        parts = self._parts
        with suppress(ClientError):
            response = await parts.client.request(
                "GET",
                url + "/metrics",
                headers=parts.door.worker_headers("kv-use", {}),
                first_byte_timeout_s=TIMEOUT_S,
                idle_timeout_s=TIMEOUT_S,
            )
            body = await response.read(max_bytes=MAX_METRICS_BYTES)
            if response.status == 200 and (known := parts.fleet.workers.get(url)) is not None:
                now = monotonic()
                for rank, share in shares(body.decode(errors="replace"), *(parts.dialect.kv_use or ("", ""))).items():
                    self._heard[join_rank(url, rank if known.ranks > 1 else None)] = share, now


def shares(metrics: str, name: str, label: str) -> dict[int, float]:
    """Read metric `name` from Prometheus' text; ranks are told apart by `label`, without it there is rank 0. What is
    said of a rank several times (by each of its GPUs) counts by its largest."""
    found: dict[int, float] = {}
    rank_of = re.compile(rf'\b{re.escape(label)}="(\d+)"')
    for labels, value in re.findall(rf"^{re.escape(name)}(?:\{{(.*)\}})? (\S+)", metrics, re.MULTILINE):
        rank = int(match[1]) if (match := rank_of.search(labels)) else 0
        with suppress(ValueError):
            found[rank] = max(found.get(rank, 0.0), min(1.0, float(value)))
    return found
