"""Which pods a topology becomes: one a worker, with all its ranks; alike workers form a group, numbered from 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tercet.core.errors import UsageError
from tercet.core.stage import ROLE_NAMES, role_letter
from tercet.core.topology import Topology, WorkerSpec, check_sight, with_sight
from tercet.engine.models.catalog import SeeingModel
from tercet.engine.models.hub import is_hub_id
from tercet.engine.models.random_model import shape_names
from tercet.engine.models.store import known_model
from tercet.launch.devices import default_devices
from tercet.launch.engines.registry import engine_commands
from tercet.launch.kubernetes.options import DeployOptions
from tercet.launch.placement import Placement

WORKER_PORT = 8000
SIDE_PORT = 5600
"""The first of the ports beside; a pod has an address of its own, so all pods take the same."""

EMBEDDINGS = Path("/embeddings")
KEYS_FILE = "/etc/tercet/keys/keys"
OWN_ENGINES = ("tercet", "virtual")
KEY_VARIABLES = {"vllm": "VLLM_API_KEY"}
"""Where other engines' servers look for the one API key that they let in."""


def key_variable(topology: Topology) -> str | None:
    """Return the variable of another engine's workers that holds the key by which the router speaks to them; None where
    they are open, as everything is without API keys."""
    return KEY_VARIABLES.get(topology.engine.engine) if topology.router.api_key_file else None


@dataclass(frozen=True, slots=True)
class Group:
    """Alike workers: the pods `NAME-0`, `NAME-1`, ... of one StatefulSet. `cores` is 0 on GPUs."""

    name: str
    workers: tuple[WorkerSpec, ...]
    ranks: int
    cores: int
    gpus_per_rank: int = 1

    @property
    def gpus(self) -> int:
        """All GPUs of one pod; 0 where ranks compute on cores."""
        return self.ranks * self.gpus_per_rank if self.on_gpus else 0

    @property
    def on_gpus(self) -> bool:
        """True when a rank computes on a GPU."""
        return self.cores == 0


@dataclass(frozen=True, slots=True)
class Placed:
    """The groups, the topology as the pods see it, and where its router finds them. `source` is what was asked for."""

    source: Topology
    groups: tuple[Group, ...]
    placement: Placement


def place(topology: Topology, options: DeployOptions) -> Placed:
    """Decide pods, devices, ports and DNS names. Raises UsageError for what can't run in a cluster."""
    for seen in (topology, *(topology.of(worker) for worker in topology.workers if worker.engine)):
        check(seen)
    topology = _with_stages(topology)
    groups = _groups(topology, options)
    workers: list[WorkerSpec] = []
    hosts: dict[str, str] = {}
    for group in groups:
        for i in range(len(group.workers)):
            pod = f"{group.name}-{i}"
            devices = ("cpu",) * group.ranks
            if group.on_gpus:
                devices = default_devices(group.ranks, cores=(), gpus=group.gpus, tensor_parallel=group.gpus_per_rank)
            own = tuple(pair for pair in group.workers[i].engine if pair[0] != "engine_python")
            workers.append(WorkerSpec(pod, group.workers[i].stages, group.ranks, devices, WORKER_PORT, own))
            hosts[pod] = f"{pod}.{group.name}.{options.namespace}.svc"
    router = topology.router
    inside = replace(
        topology,
        workers=tuple(workers),
        devices=(),
        engine=replace(topology.engine, engine_python=None),
        router=replace(
            router,
            host="0.0.0.0",
            port=router.port or WORKER_PORT,
            api_key_file=KEYS_FILE if router.api_key_file else None,
        ),
    )
    commands = engine_commands(topology.engine.engine)
    counts = {worker.name: commands.side_ports(inside, worker) for worker in workers}
    side_ports = {name: tuple(range(SIDE_PORT, SIDE_PORT + count)) for name, count in counts.items() if count}
    placement = Placement(
        inside, options.namespace, host="0.0.0.0", run_path=EMBEDDINGS.parent, side_ports=side_ports, hosts=hosts
    )
    return Placed(topology, groups, placement)


def check(topology: Topology) -> None:
    """Raise UsageError for what a pod can't have: files of this machine, and memory shared with another pod."""
    engine = topology.engine
    if engine.random_weights is not None and engine.random_weights not in shape_names():
        raise UsageError(
            f"engine.random_weights: {engine.random_weights!r} is a file of this machine, which pods don't see: take "
            f"one of {', '.join(shape_names())}, or a model"
        )
    if engine.random_weights is None and not is_hub_id(topology.model):
        known = known_model(topology.model) is not None
        if known and engine.engine not in OWN_ENGINES:
            raise UsageError(
                f"model: {topology.model!r} is a name of Tercet's own, unknown to {engine.engine}: name a Hugging Face "
                "id (organisation/model)"
            )
        if not known:
            raise UsageError(
                f"model: {topology.model!r} is neither a Hugging Face id (organisation/model) nor known by name; a "
                "folder of this machine pods don't see"
            )
    if topology.router.tls_cert is not None:
        raise UsageError("router.tls_cert is a file of this machine: in a cluster let the Ingress or Gateway speak TLS")
    if engine.transport == "shm":
        raise UsageError("engine.transport: shm joins workers of one machine, pods share no memory: take auto or tcp")
    if engine.allow_local_media:
        raise UsageError("engine.allow_local_media: in a cluster it would open the pods' files to every client")


def _with_stages(topology: Topology) -> Topology:
    """Return the topology whose workers encode where the model is known to see; of a hub's model the file must say."""
    if topology.engine.random_weights is not None or is_hub_id(topology.model):
        return topology
    if isinstance(known_model(topology.model), SeeingModel):
        return replace(topology, workers=with_sight(topology.workers))
    check_sight(topology.workers, topology.model)
    return topology


def _groups(topology: Topology, options: DeployOptions) -> tuple[Group, ...]:
    alike: dict[tuple[object, ...], list[WorkerSpec]] = {}
    for worker in topology.workers:
        stages = tuple(sorted(str(stage) for stage in worker.stages))
        role = ROLE_NAMES[role_letter(worker.stages)]
        cores = _cores(topology, worker, options)
        alike.setdefault((role, stages, worker.ranks, cores, worker.engine), []).append(worker)
    roles = [str(key[0]) for key in alike]
    groups = []
    for number, (role, workers) in enumerate(zip(roles, alike.values(), strict=True)):
        # Pods are called NAME-0: a second group called NAME-2 would take the name of a pod.
        name = role if roles.count(role) == 1 else f"{role}-{chr(ord('a') + roles[:number].count(role))}"
        cores = _cores(topology, workers[0], options)
        gpus = topology.of(workers[0]).engine.tensor_parallel
        groups.append(Group(name, tuple(workers), workers[0].ranks, cores, gpus))
    return tuple(groups)


def _cores(topology: Topology, worker: WorkerSpec, options: DeployOptions) -> int:
    """Return the cores of each rank, 0 for a GPU. Raises UsageError for a worker on both, or with unequal ranks."""
    named: Sequence[str] = worker.devices or topology.devices
    kinds = {device.partition(":")[0] for device in named}
    if len(kinds) > 1:
        raise UsageError(f"{worker.name}: its ranks compute on {', '.join(named)}; in a pod all are cores, or all GPUs")
    engine = topology.engine.engine
    kind = "cpu" if engine == "virtual" else next(iter(kinds), options.device)
    if kind == "cuda":
        return 0
    if engine not in OWN_ENGINES:
        raise UsageError(f"{worker.name}: the pods of {engine} compute on GPUs: name --device cuda, or no devices")
    counts = {_count(device) for device in named if ":" in device} if engine == "tercet" else set()
    if len(counts) > 1:
        raise UsageError(f"{worker.name}: its ranks have unequal numbers of cores; in a pod they are alike")
    return next(iter(counts), options.cpus_per_rank)


def _count(device: str) -> int:
    total = 0
    for part in device.partition(":")[2].split("+"):
        low, _, high = part.partition("-")
        total += int(high or low) - int(low) + 1
    return total
