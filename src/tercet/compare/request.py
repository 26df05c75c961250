"""What a command line asks to be compared: every architecture made ready to start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tercet.compare.architecture import DEFAULT_GPU, Architecture, check_devices
from tercet.compare.fleet import named
from tercet.core.errors import UsageError
from tercet.core.topology import TEXT_MODEL, VISION_MODEL, Topology
from tercet.launch.devices import resolve_devices
from tercet.launch.source import with_settings
from tercet.worker.config import WorkerConfig

LENGTH_STEP = 256
"""Engines are made long enough for the conversations, in steps of so many tokens."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Flags that hold for every topology started here, by the field they set; those that are None don't.

    `longest` is how long conversations grow, `url_devices` how many devices are behind each server's label. With
    `pictures` the bundled model is the one that sees.
    """

    fields: Mapping[str, Any]
    longest: int
    url_devices: Mapping[str, int] = field(default_factory=dict)
    allow_unequal: bool = False
    pictures: bool = False


def ready(architectures: Sequence[Architecture], settings: Settings) -> tuple[Architecture, ...]:
    """Return the architectures with the settings applied and devices assigned on this machine.

    Raises UsageError for settings that can't be, devices that aren't here, and unequal devices.
    """
    if strangers := [label for label in settings.url_devices if label not in _servers(architectures)]:
        raise UsageError(f"--url-devices names {', '.join(strangers)}, which is no server (--arch LABEL=URL)")
    made = tuple(_ready(each, settings) for each in architectures)
    check_devices(made, allow_unequal=settings.allow_unequal)
    return made


def _ready(architecture: Architecture, settings: Settings) -> Architecture:
    topology = architecture.topology
    if topology is None:
        return replace(architecture, url_devices=settings.url_devices.get(architecture.label))
    fields = dict(settings.fields)
    if fields.get("max_model_len") is None:
        fields["max_model_len"] = max(topology.engine.max_model_len, _round_up(settings.longest + 1))
    if settings.pictures and fields.get("model") is None and topology.model == TEXT_MODEL:
        fields["model"] = VISION_MODEL
    topology = with_settings(named(topology, architecture.label), fields)
    engine = topology.engine
    if engine.engine == "virtual" and engine.gpu is None:
        engine = replace(engine, gpu=DEFAULT_GPU)
    if engine.engine == "vllm":
        engine = replace(engine, cache_reset=True)  # every run begins with empty caches
    # Refuses what no worker accepts before anything starts.
    if engine.engine in ("tercet", "virtual"):
        WorkerConfig(
            engine=engine.engine,
            gpu=engine.gpu,
            gpu_slowdown=engine.gpu_slowdown,
            dtype=engine.dtype,
            transport=engine.transport,
        )
    # Any free port: sets of processes may run side by side, and beside what is served already.
    topology = replace(
        topology,
        engine=engine,
        router=replace(topology.router, host="127.0.0.1", port=0),
        workers=tuple(replace(worker, port=0) for worker in topology.workers),
    )
    return replace(architecture, topology=_assigned(topology))


def _assigned(topology: Topology) -> Topology:
    """Return the topology with its devices, and with the limits that engines take on these: results tell them."""
    assigned = resolve_devices(topology)[0]
    devices = [device for worker in assigned.workers for device in worker.devices]
    limits = assigned.engine.limits(on_gpu=any(device.startswith("cuda") for device in devices))
    return replace(
        assigned,
        engine=replace(assigned.engine, max_num_seqs=limits.sequences, max_num_batched_tokens=limits.tokens),
    )


def _servers(architectures: Sequence[Architecture]) -> set[str]:
    return {each.label for each in architectures if each.url is not None}


def _round_up(tokens: int) -> int:
    return -(-tokens // LENGTH_STEP) * LENGTH_STEP
