"""The command lines of the parts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from tercet.core.errors import UsageError
from tercet.core.stage import ROLE_NAMES, Mode, Stage, role_letter
from tercet.core.topology import RouterSpec, Topology, WorkerSpec, default_mode
from tercet.dialects.registry import dialect_named
from tercet.launch.engines.flags import flags_of
from tercet.launch.engines.protocol import WorkerProcess
from tercet.launch.engines.registry import engine_commands
from tercet.launch.model import sees
from tercet.launch.placement import Placement
from tercet.router.tracing import require_otel


class Commands(Protocol):
    """Builds the parts' command lines; tests put stand-ins here."""

    def sees(self, topology: Topology, cache_dir: Path | None) -> bool:
        """True when the topology's model takes pictures. Raises UsageError."""
        ...

    def side_ports(self, topology: Topology, worker: WorkerSpec) -> int:
        """Return how many consecutive ports the worker needs beside the one it serves on."""
        ...

    def worker(self, placement: Placement, worker: WorkerSpec) -> WorkerProcess:
        """Return how to start the worker."""
        ...

    def router(self, placement: Placement) -> Sequence[str]:
        """Return the router's command line."""
        ...


class TercetCommands:
    """Workers as their engine is started, and `python -m tercet router ...`."""

    def sees(self, topology: Topology, cache_dir: Path | None) -> bool:
        """True when the model's configuration says so. Raises UsageError."""
        return sees(topology, cache_dir)

    def side_ports(self, topology: Topology, worker: WorkerSpec) -> int:
        """Return how many consecutive ports the worker needs beside the one it serves on."""
        return engine_commands(topology.engine.engine).side_ports(topology, worker)

    def worker(self, placement: Placement, worker: WorkerSpec) -> WorkerProcess:
        """Return how to start the worker. Raises UsageError for settings that can't work, before anything runs."""
        return engine_commands(placement.topology.engine.engine).worker(placement.of(worker), worker)

    def router(self, placement: Placement) -> Sequence[str]:
        """Return the router's command line. Raises MissingExtraError."""
        if placement.topology.router.otlp_endpoint is not None:
            require_otel()
        return [sys.executable, "-m", "tercet", "router", *router_arguments(placement)]


_PASSED_FIELDS = (
    *("connect_timeout_s", "first_byte_timeout_s", "encode_timeout_s", "answer_timeout_s", "idle_timeout_s"),
    *("max_retries", "breaker_failures", "max_queue", "queue_timeout_s", "priority_header"),
    *("log_format", "log_requests", "otlp_endpoint", "processes", "hybrid"),
)


def check_workers(assigned: Topology) -> None:
    """Raise UsageError for settings of workers, on their devices, that their engine can't follow. Fetches nothing."""
    placement = Placement(assigned, assigned.name)
    for worker in assigned.workers:
        engine_commands(assigned.engine.engine).check(placement.of(worker), worker)


def _own_choices(router: RouterSpec) -> Iterator[tuple[str, object]]:
    """Yield (flag, value) of the settings on failure, logs and traces that are not the router's own already."""
    for field in _PASSED_FIELDS:
        if (value := getattr(router, field)) != getattr(RouterSpec(), field):
            yield field.removesuffix("_s").replace("_", "-"), value


BATCHES_AHEAD = 2
"""Whole batches' worth of requests that a rank is sent: one that it computes, and one to choose the next from."""


def max_concurrent(topology: Topology) -> int:
    """Return how many requests may be under way for each rank that answers."""
    devices = [device for worker in topology.workers for device in worker.devices]
    on_gpu = any(device.startswith("cuda") for device in devices)
    return topology.router.max_concurrent or BATCHES_AHEAD * topology.engine.limits(on_gpu=on_gpu).sequences


ROUTER_GRACE_S = 3.0
"""What the router gives requests in flight when it is asked to end; less than the launcher's patience with it."""

_ROUTER_FLAGS = {"A": "--worker", "E": "--encode", "P": "--prefill", "D": "--decode"}


def routed(placement: Placement) -> tuple[Mode, list[tuple[str, str]]]:
    """Return the router's mode, and its workers: the letter of each one's role, and its URL with what is said of it.
    Raises UsageError for a mode that the engine can't run."""
    topology = placement.topology
    engine = engine_commands(topology.engine.engine)
    dialect = dialect_named(engine.dialect)
    workers = topology.workers
    mode = topology.mode
    if not dialect.encodes:
        # Its encode workers are spoken to by those that prefill.
        workers = tuple(worker for worker in workers if role_letter(worker.stages) != "E")
        mode = {Mode.EPD: default_mode(workers), Mode.EPPD: Mode.PPD}.get(mode, mode) if workers else mode
    if mode is Mode.PPD and not dialect.decode_alone:
        raise UsageError(f"mode {topology.mode} needs decode workers that compute prompts: {dialect.name}'s can't")
    named = []
    for worker in workers:
        said = ([f"ranks={worker.ranks}"] if worker.ranks > 1 else []) + list(engine.said(placement, worker))
        letter = role_letter(worker.stages)
        if Stage.ENCODE in worker.stages and letter != "E":
            said.append("encode")
        named.append((letter, placement.worker_url(worker) + ("#" + ",".join(said) if said else "")))
    return mode, named


LIVE = (
    "connect_timeout_s",
    "first_byte_timeout_s",
    "encode_timeout_s",
    "answer_timeout_s",
    "idle_timeout_s",
    "queue_timeout_s",
    "max_retries",
    "breaker_failures",
    "max_concurrent",
    "max_queue",
    "ppd_threshold",
    "balancer",
)
"""Of the router's settings, those that it may be told while it runs."""


def workers_file(placement: Placement, refused: str = "") -> str:
    """Return the file by which a running router is told of workers, mode and settings, and what could not be done."""
    mode, workers = routed(placement)
    router = replace(placement.topology.router, max_concurrent=max_concurrent(placement.topology))
    return json.dumps(
        {
            "mode": mode,
            "workers": [{"url": named, "role": ROLE_NAMES[letter]} for letter, named in workers],
            "settings": {name.removesuffix("_s"): getattr(router, name) for name in LIVE},
            **({"refused": refused} if refused else {}),
        },
        indent=1,
    )


def router_arguments(placement: Placement, grace_s: float = ROUTER_GRACE_S) -> list[str]:
    """Return the arguments of `tercet router`. Raises UsageError for a mode that the engine can't run."""
    topology, router = placement.topology, placement.topology.router
    engine = engine_commands(topology.engine.engine)
    mode, workers = routed(placement)
    _require_vllm(topology)
    flags: dict[str, object] = {
        "--mode": mode,
        "--dialect": engine.dialect,
        "--health-timeout": engine.health_timeout_s,
        "--host": router.host,
        "--port": router.port,
        "--balancer": router.balancer,
        "--ppd-threshold": router.ppd_threshold,
        "--rank-match": router.rank_match,
        "--kv-connector": topology.engine.kv_connector if topology.engine.engine == "vllm" else None,
        "--tokenise-once": router.tokenise_once,
        "--prefill-fallback": router.prefill_fallback,
        "--encode-fallback": router.encode_fallback,
        "--max-images": topology.engine.max_images,
        "--max-concurrent": max_concurrent(topology),
        **{f"--{flag}": value for flag, value in _own_choices(router)},
        "--api-key-file": router.api_key_file,
        "--tls-cert": router.tls_cert,
        "--tls-key": router.tls_key,
        "--tls-client-ca": router.tls_client_ca,
        "--shutdown-grace": grace_s,
    }
    arguments = flags_of(flags)
    for letter, named in workers:
        arguments += [_ROUTER_FLAGS[letter], named]
    return arguments


def _require_vllm(topology: Topology) -> None:
    """Raise UsageError for a setting that is about vLLM's workers, and not for others."""
    engine = topology.engine
    given = {
        "kv_connector": engine.kv_connector != "nixl",
        "events": engine.events,
        "cache_reset": engine.cache_reset,
        "tokenise_once": topology.router.tokenise_once,
    }
    if engine.engine != "vllm" and any(given.values()):
        listed = ", ".join(name for name, there in given.items() if there)
        raise UsageError(f"{listed}: for the workers of vllm only, and the engine is {engine.engine}")
