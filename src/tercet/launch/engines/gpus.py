"""What engines that compute on GPUs only ask of a topology."""

from __future__ import annotations

from tercet.core.errors import UsageError
from tercet.core.topology import Topology, WorkerSpec


def check_gpus(topology: Topology, worker: WorkerSpec, engine: str) -> None:
    """Raise UsageError for settings of the built-in engine, and for a worker on anything but GPUs of its own."""
    if topology.engine.random_weights is not None:
        raise UsageError(f"--random-weights is for the built-in engine: name a --model for {engine}")
    if topology.engine.gpu is not None:
        raise UsageError(f"--gpu is what --engine virtual imitates: choose {engine}'s with --devices cuda:0")
    for device in worker.devices:
        if not device.startswith("cuda"):
            raise UsageError(f"{worker.name}: {engine} computes on GPUs, not on {device}: name --devices cuda:0,cuda:1")
    check_tensor_parallel(topology, worker)


def check_tensor_parallel(topology: Topology, worker: WorkerSpec) -> None:
    """Raise UsageError for a rank that has not as many GPUs as its tensor parallelism asks for."""
    wanted = topology.engine.tensor_parallel
    for device in worker.devices:
        if (found := len(gpus_of(device))) != wanted:
            shown = "+".join(map(str, range(wanted)))
            raise UsageError(
                f"{worker.name}: {device} is {found} GPU{'s' * (found != 1)}, and tensor_parallel is {wanted}: "
                f"name for instance cuda:{shown}"
            )


def gpus_of(device: str) -> list[str]:
    """Return the numbers of a rank's GPUs: of `cuda:0+1` 0 and 1."""
    return (device.partition(":")[2] or "0").split("+")


def visible_gpus(worker: WorkerSpec) -> str:
    """Return the worker's GPUs as CUDA_VISIBLE_DEVICES has them: `0,1`."""
    return ",".join(gpu for device in worker.devices for gpu in gpus_of(device))
