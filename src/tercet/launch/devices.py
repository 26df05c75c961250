"""Which device each rank computes on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tercet.core.errors import UsageError
from tercet.core.topology import Topology
from tercet.launch.engines.gpus import gpus_of

NVIDIA = Path("/proc/driver/nvidia/gpus")
MAX_DEFAULT_CORES = 8
"""Cores a rank gets unasked: beyond these a small model's step gains little, and router and clients need some."""


def parse_devices(text: str) -> tuple[str, ...]:
    """Read `cpu:0,cpu:1` (or one name). Raises UsageError when a name is empty."""
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise UsageError(f"--devices {text!r}: an empty name; write for instance cpu:0,cpu:1")
    return names


def default_devices(ranks: int, *, cores: Sequence[int], gpus: int, tensor_parallel: int = 1) -> tuple[str, ...]:
    """Return devices for `ranks` ranks when nobody named any: the GPUs, so many for each, else shares of the cores."""
    if gpus >= tensor_parallel:
        whole = range(0, gpus - gpus % tensor_parallel, tensor_parallel)
        return tuple(f"cuda:{'+'.join(str(first + i) for i in range(tensor_parallel))}" for first in whole)
    ordered = sorted(cores)
    share = max(1, min(MAX_DEFAULT_CORES, len(ordered) // max(ranks, 1)))
    groups = [ordered[i * share : (i + 1) * share] for i in range(min(ranks, len(ordered) // share))]
    return tuple(f"cpu:{_cores_text(group)}" for group in groups)


def usable_gpus(driver: Path = NVIDIA) -> int:
    """Return how many GPUs this machine has and the installed torch can use, without importing torch."""
    try:
        if version("torch").endswith("+cpu"):
            return 0
    except PackageNotFoundError:
        return 0
    return present_gpus(driver)


def present_gpus(driver: Path = NVIDIA) -> int:
    """Return how many NVIDIA GPUs this machine has, usable by this environment's torch or not."""
    return len(list(driver.iterdir())) if driver.is_dir() else 0


def assign_devices(topology: Topology, fallback: Sequence[str] = ()) -> tuple[Topology, list[str]]:
    """Return the topology with one device for every rank, and warnings.

    Ranks without a device of their own take the topology's (else `fallback`'s) in turn; more ranks than devices share.
    """
    devices = topology.devices or tuple(fallback)
    wanting = sum(worker.ranks for worker in topology.workers if not worker.devices)
    if wanting and not devices:
        raise UsageError("no device to compute on: name one with --devices cpu:0")
    turn = 0
    workers = []
    for worker in topology.workers:
        if not worker.devices:
            names = tuple(devices[(turn + i) % len(devices)] for i in range(worker.ranks))
            turn += worker.ranks
            worker = replace(worker, devices=names)
        workers.append(worker)
    assigned = replace(topology, workers=tuple(workers), devices=devices)
    return assigned, _sharing(assigned)


def resolve_devices(topology: Topology) -> tuple[Topology, list[str]]:
    """Assign devices on this machine. Raises UsageError naming a device it lacks."""
    from tercet.worker.process import parse_device

    cores = sorted(os.sched_getaffinity(0))
    gpus = {"tercet": usable_gpus, "virtual": lambda: 0}.get(topology.engine.engine, present_gpus)()
    tensor_parallel = topology.engine.tensor_parallel
    if 0 < gpus < tensor_parallel:
        raise UsageError(f"tensor_parallel {tensor_parallel} asks for as many GPUs a rank; this machine has {gpus}")
    fallback = default_devices(topology.ranks, cores=cores, gpus=gpus, tensor_parallel=tensor_parallel)
    assigned, warnings = assign_devices(topology, fallback)
    for worker in assigned.workers:
        single = topology.of(worker).engine.tensor_parallel == 1
        for device in worker.devices:
            if single or not device.startswith("cuda:"):
                parse_device(device)
            elif not all(gpu.isdecimal() for gpu in gpus_of(device)):
                raise UsageError(f"unknown device {device!r}: write the GPUs of a rank as cuda:0+1")
    return assigned, warnings


def _sharing(topology: Topology) -> list[str]:
    """Return one warning per device that several ranks compute on."""
    users: dict[str, list[str]] = {}
    for worker in topology.workers:
        for rank, device in enumerate(worker.devices):
            users.setdefault(device, []).append(worker.name if worker.ranks == 1 else f"{worker.name}@{rank}")
    return [
        f"{len(names)} ranks share {device} ({', '.join(names)}): they slow each other down"
        for device, names in users.items()
        if len(names) > 1
    ]


def _cores_text(cores: Sequence[int]) -> str:
    if len(cores) > 1 and cores[-1] - cores[0] == len(cores) - 1:
        return f"{cores[0]}-{cores[-1]}"
    return "+".join(str(core) for core in cores)
