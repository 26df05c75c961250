"""Many simulations at once: in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tercet.core.errors import MissingExtraError, TercetError, UsageError
from tercet.results.slo import Slo
from tercet.sim.fleet import FleetSpec
from tercet.sim.result import SimulationResult
from tercet.sim.simulate import Progress, WorkerLoss, simulate
from tercet.traffic.spec import TrafficSpec


@dataclass(frozen=True, slots=True)
class Case:
    """One simulation of a sweep: what `simulate` is told, as far as it can go to another process."""

    fleet: FleetSpec
    traffic: TrafficSpec
    salt: str = "sim"
    warmup: int = 0
    records: bool = True
    token_times: bool = False
    slo: Slo | None = None
    losses: tuple[WorkerLoss, ...] = ()

    def run(self, progress: Progress | None = None) -> SimulationResult:
        """Simulate it. Raises UsageError."""
        return simulate(
            self.fleet,
            self.traffic,
            salt=self.salt,
            warmup=self.warmup,
            records=self.records,
            token_times=self.token_times,
            slo=self.slo,
            losses=self.losses,
            progress=progress,
        )


def sweep(
    cases: Sequence[Case], *, jobs: int = 1, ray: str = "", progress: Progress | None = None
) -> Iterator[tuple[int, SimulationResult]]:
    """Simulate all cases, and yield (index, result) as they end: in order where one process does it.

    `jobs` processes share them; `ray` is the address of a cluster that does it instead (`auto`, `ray://HOST:10001`), or
    `local` to start one here. `progress` is told of the case under way, where this very process does it. The results do
    not depend on where they were made. Raises UsageError; MissingExtraError where Ray is wanted and not installed.
    """
    if ray:
        return _on_ray(cases, ray)
    if jobs < 1:
        raise UsageError(f"--jobs {jobs} is out of range: give 1 or more")
    if jobs > 1 and len(cases) > 1:
        return _in_processes(cases, min(jobs, len(cases)))
    return ((index, case.run(progress)) for index, case in enumerate(cases))


def _in_processes(cases: Sequence[Case], jobs: int) -> Iterator[tuple[int, SimulationResult]]:
    # Spawned, not forked: whoever sweeps may have threads. Leaving the block, however that happens, ends them.
    with multiprocessing.get_context("spawn").Pool(jobs, initializer=_heed_no_interrupt) as pool:
        yield from pool.imap_unordered(_numbered, list(enumerate(cases)))


def _numbered(item: tuple[int, Case]) -> tuple[int, SimulationResult]:
    index, case = item
    return index, case.run()


def _heed_no_interrupt() -> None:
    """Leave Ctrl-C to the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _on_ray(cases: Sequence[Case], address: str) -> Iterator[tuple[int, SimulationResult]]:
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "a sweep on a Ray cluster") from error
    try:
        ray.init(
            address=None if address == "local" else address,
            ignore_reinit_error=True,
            log_to_driver=False,
            include_dashboard=False if address == "local" else None,
            logging_level="warning",
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise TercetError(f"no Ray cluster answers at {address!r}: {error}") from error
    try:
        task = ray.remote(_numbered)
        waiting = [task.remote((index, case)) for index, case in enumerate(cases)]
        while waiting:
            done, waiting = ray.wait(waiting)
            for each in done:
                yield _got(ray.get, each)
    finally:
        ray.shutdown()


def _got(get: Callable[[object], tuple[int, SimulationResult]], reference: object) -> tuple[int, SimulationResult]:
    """Return what a task found; a TercetError in it is raised as such, not wrapped."""
    try:
        return get(reference)
    except Exception as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, TercetError):
            raise cause from None
        raise
