"""What differs between the topology that runs and the one that its file describes now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from tercet.core.errors import UsageError
from tercet.core.topology import EngineSpec, RouterSpec, Topology, WorkerSpec
from tercet.launch.commands import LIVE


@dataclass(frozen=True, slots=True)
class Change:
    """Workers that join, and the names of those that leave. Mode and deadlines are in the topology."""

    added: tuple[WorkerSpec, ...]
    removed: tuple[str, ...]


def change_of(running: Topology, wanted: Topology) -> Change:
    """Compare two topologies as their files say them, without what the launcher chose. Raises UsageError that names
    everything that can't change while it runs."""
    if complaints := list(_fixed(running, wanted)):
        raise UsageError("; ".join(complaints) + ": stop it and start it anew for that")
    old, new = ({worker.name: worker for worker in topology.workers} for topology in (running, wanted))
    return Change(
        tuple(worker for name, worker in new.items() if name not in old),
        tuple(name for name in old if name not in new),
    )


def merged(running: Topology, wanted: Topology) -> Topology:
    """Return `wanted` with the workers, name and port that are here as they are, and for the others those devices first
    that the fewest ranks use."""
    used = Counter(device for worker in running.workers for device in worker.devices)
    here = {worker.name: worker for worker in running.workers}
    return replace(
        wanted,
        name=running.name,
        workers=tuple(here.get(worker.name, worker) for worker in wanted.workers),
        devices=tuple(sorted(wanted.devices or running.devices, key=lambda device: used[device])),
        router=replace(wanted.router, port=running.router.port),
    )


def _fixed(running: Topology, wanted: Topology) -> Iterator[str]:
    if running.model != wanted.model:
        yield f"model can't change from {running.model} to {wanted.model}"
    for what, spec, free in (("engine", EngineSpec, ()), ("router", RouterSpec, LIVE)):
        old, new = getattr(running, what), getattr(wanted, what)
        changed = [field.name for field in fields(spec) if getattr(old, field.name) != getattr(new, field.name)]
        if stays := [name.removesuffix("_s") for name in changed if name not in free]:
            yield f"{what}: {', '.join(stays)} can't change"
    before = {worker.name: worker for worker in running.workers}
    for worker in wanted.workers:
        if worker.name in before and worker != before[worker.name]:
            names = [
                f.name for f in fields(WorkerSpec) if getattr(worker, f.name) != getattr(before[worker.name], f.name)
            ]
            yield f"{worker.name}: {', '.join(names)} can't change (a worker of another name can be so)"
