"""Runs one deployment until a signal says stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from tercet.core.errors import TercetError
from tercet.launch.local import LocalDeployment
from tercet.launch.progress import OnProgress

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StartInterruptedError(TercetError):
    """A signal came before the deployment was ready."""

    exit_code = 130


async def run_until_signal(
    deployment: LocalDeployment, on_progress: OnProgress, on_ready: Callable[[], None] | None = None
) -> None:
    """Start, tell, serve until SIGINT, SIGTERM or SIGHUP, stop; a second signal stops without patience.

    Raises what `start` raises, LaunchError when the router ended for good, StartInterruptedError. Nothing is left then.
    """
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()

    def ask() -> None:
        if asked.is_set():
            deployment.kill()
        asked.set()

    # Who started us with a signal ignored (nohup does so with SIGHUP) wants it ignored; but for Ctrl-C, which shells
    # switch off for everything they start in the background, where `kill -INT` should still work.
    numbers = [n for n in SIGNALS if n is signal.SIGINT or signal.getsignal(n) is not signal.SIG_IGN]
    for number in numbers:
        loop.add_signal_handler(number, ask)
    asking = asyncio.create_task(asked.wait())
    try:
        if not await _first(asyncio.create_task(deployment.start(on_progress)), asking):
            raise StartInterruptedError("stopped before it was ready")
        if on_ready is not None:
            on_ready()
        await _first(asyncio.create_task(deployment.wait()), asking)
    finally:
        await deployment.stop()
        asking.cancel()
        for number in numbers:
            loop.remove_signal_handler(number)


async def _first(work: asyncio.Task[None], asking: asyncio.Task[bool]) -> bool:
    """Wait for either; return whether the work ended (raising what it raised), and cancel it when it did not."""
    await asyncio.wait([work, asking], return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        work.result()
        return True
    work.cancel()
    await asyncio.wait([work])
    return False
