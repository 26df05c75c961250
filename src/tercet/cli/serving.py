"""What `tercet simulate` takes each worker of a topology to be made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tercet.cli.device_options import Device, device_from, link_bytes_s
from tercet.core.errors import UsageError
from tercet.core.topology import EngineSpec, Topology
from tercet.latency.known_models import find_model
from tercet.latency.registry import ENGINES
from tercet.results.document import PREDICTED
from tercet.sim.fleet import EngineCaps, FleetSpec, RankSpec, fleet_from_topology

BYTES_A_VALUE = 2
"""Embeddings are kept in bf16."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the flags said of devices and engines; None leaves it to the topology, worker by worker."""

    gpu: str | None
    gpu_spec: str | None
    engine_like: str | None
    tp: int | None
    oracle: str
    memory_share: float
    stack: str | None
    link_gb_s: float | None
    caps: Mapping[str, int | None]


@dataclass(frozen=True, slots=True)
class Serving:
    """The fleet that is simulated, and by worker's name what its ranks are."""

    fleet: FleetSpec
    devices: Mapping[str, Device]
    ranks: Mapping[str, RankSpec]

    @property
    def summaries(self) -> list[str]:
        """Where step times come from, each source once."""
        return list(dict.fromkeys(device.chosen.source.summary for device in self.devices.values()))

    @property
    def assumed(self) -> list[str]:
        """What was assumed, each thing once."""
        return list(dict.fromkeys(text for device in self.devices.values() for text in device.assumed))

    def rank_text(self, worker: str) -> str:
        """Return for instance `4 x h100`."""
        return f"{self.ranks[worker].gpus} x {self.devices[worker].gpu}"

    def rank_told(self, worker: str) -> dict[str, Any]:
        """Return what results say of a worker's ranks."""
        device, rank = self.devices[worker], self.ranks[worker]
        return {
            "engine": f"{device.engine}, {PREDICTED}",
            "gpu": device.gpu,
            "gpus_a_rank": rank.gpus,
            "oracle": device.chosen.source.summary,
            **asdict(rank.caps),
        }


def serving_of(source: str, topology: Topology, hardware: Hardware, picture: tuple[int, int] | None = None) -> Serving:
    """Return what is simulated of a topology, read from `source`. A flag wins over all of the file, a worker's own
    settings too. Raises UsageError."""
    changes = {name: value for name, value in hardware.caps.items() if value is not None}
    if bad := [name for name, value in changes.items() if value < (name != "kv_blocks")]:
        raise UsageError(f"--{bad[0].replace('_', '-')} {changes[bad[0]]} is out of range")
    short = not Path(source).is_file()
    made: dict[EngineSpec, tuple[Device, RankSpec]] = {}
    for worker in topology.workers:
        seen = topology.of(worker)
        if seen.engine not in made:
            device = _device(seen, hardware, picture)
            caps = replace(EngineCaps() if short else _caps_of(seen, device.model), **changes)
            made[seen.engine] = device, RankSpec(device.chosen, hardware.tp or seen.engine.tensor_parallel, caps)
    found = {worker.name: made[topology.of(worker).engine] for worker in topology.workers}
    ranks = {name: rank for name, (_, rank) in found.items()}
    first, _ = found[topology.workers[0].name]
    fleet = replace(
        fleet_from_topology(topology, ranks, stack=first.stack), link_bytes_s=link_bytes_s(hardware.link_gb_s)
    )
    return Serving(fleet, {name: device for name, (device, _) in found.items()}, ranks)


def _device(topology: Topology, hardware: Hardware, picture: tuple[int, int] | None) -> Device:
    """Return the device of a rank whose engine is the topology's. Raises UsageError."""
    engine = topology.engine
    device = device_from(
        gpu=hardware.gpu or (None if hardware.gpu_spec else engine.gpu),
        gpu_spec=hardware.gpu_spec,
        model=topology.model,
        engine=hardware.engine_like or (engine.engine if engine.engine in ENGINES else "vllm"),
        tp=hardware.tp or engine.tensor_parallel,
        oracle=hardware.oracle,
        memory_share=hardware.memory_share,
        stack=hardware.stack,
        picture=picture,
    )
    if engine.gpu_slowdown != 1:
        slower = device.chosen.oracle.slowed(engine.gpu_slowdown)
        device = replace(device, chosen=replace(device.chosen, oracle=slower))
    return device


def _caps_of(topology: Topology, model: str) -> EngineCaps:
    engine = topology.engine
    try:
        row_bytes = find_model(model).shape.hidden * BYTES_A_VALUE
    except UsageError:  # a measured machine needs no known model
        row_bytes = 4096 * BYTES_A_VALUE
    limits = engine.limits(on_gpu=True)
    return EngineCaps(
        limits.sequences,
        limits.tokens,
        engine.max_model_len,
        engine.block_size,
        engine.kv_blocks,
        engine.embedding_cache_bytes // row_bytes,
    )
