"""A router before stand-ins of real engines, all on real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tercet.core.stage import Mode
from tercet.router.app import Router
from tercet.router.config import RouterConfig
from tests.conformance.engine import Engine
from tests.unit.router.fake_worker import Tickets
from tests.unit.router.harness import Setup, until


@dataclass
class Engines(Setup):
    """A router before `engines`, asked in the same way as one before fake workers."""

    engines: Sequence[Engine] = ()

    def engine(self, letter: str) -> Engine:
        return next(engine for engine in self.engines if engine.role == letter)

    async def ready(self) -> None:
        fleet = self.router.parts.fleet
        await until(lambda: all(fleet.ready(address) for address in fleet.ranks))
        p, d = ([r.address for r in fleet.ranks.values() if r.letter == x] for x in "PD")
        await until(lambda: all(fleet.paired(a, b) for a in p for b in d))

    async def idle(self) -> None:
        """Wait until nothing is under way; no engine may have a complaint then."""
        await until(lambda: not any(engine.running for engine in self.engines))
        await until(lambda: self.router.parts.fleet.in_flight == 0)
        assert [fault for engine in self.engines for fault in engine.faults] == []


@asynccontextmanager
async def routing(
    dialect: str,
    engines: Sequence[Engine],
    mode: str,
    *,
    wait: bool = True,
    started: bool = False,
    fragments: dict[str, str] | None = None,
    **config: Any,
) -> AsyncIterator[Engines]:
    """Start the engines and a router before them; `fragments` are those of the URLs, by role."""
    for engine in () if started else engines:
        await engine.server.start()
    urls = {x: tuple(e.url + (fragments or {}).get(x, "") for e in engines if e.role == x) for x in "APDE"}
    router = Router(
        RouterConfig(
            mode=Mode(mode),
            port=0,
            dialect=dialect,
            workers=urls["A"],
            encode=urls["E"],
            prefill=urls["P"],
            decode=urls["D"],
            **{"health_interval_s": 0.1, "connect_timeout_s": 0.5, "max_retries": 0, "probe_timeout_s": 5.0, **config},
        )
    )
    setup = Engines(router, [], Tickets(), engines=engines)
    await router.start()
    try:
        if wait:
            await setup.ready()
        yield setup
    finally:
        await setup.client.close()
        await router.close(0.5)
        for engine in engines:
            await engine.stop()


__all__ = ["Engines", "routing", "until"]
