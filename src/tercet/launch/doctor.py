"""What can be said of a topology before traffic: whether its parts fit each other and this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Literal

from tercet import __version__
from tercet.core.build import EngineBuild, misfit
from tercet.core.errors import TercetError, UsageError
from tercet.core.stage import role_letter
from tercet.core.ticket import TICKET_VERSION
from tercet.core.topology import Topology, WorkerSpec, check_sight
from tercet.dialects.registry import dialect_named
from tercet.engine.fingerprint import LAYOUT_NAME
from tercet.engine.models.store import resolve
from tercet.launch.commands import check_workers, router_arguments
from tercet.launch.devices import resolve_devices
from tercet.launch.engines.environment import engine_python
from tercet.launch.engines.registry import engine_commands
from tercet.launch.model import shown_model
from tercet.launch.placement import Placement
from tercet.launch.ports import PortReservation
from tercet.routing.policy import unequal_ranks
from tercet.transfer.registry import AUTO, automatic
from tercet.transfer.registry import check as check_transport
from tercet.worker.config import WorkerConfig

Level = Literal["ok", "warning", "fault"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: `what` it was, and what is so or must change. A `fault` keeps requests from being served."""

    level: Level
    what: str
    said: str


def examine(topology: Topology, cache_dir: Path | None = None) -> Iterator[Finding]:
    """Yield what was found, in the order in which starting would meet it. Starts nothing, fetches nothing."""
    yield from _engine(topology, cache_dir)
    yield from _model(topology, cache_dir)
    yield from _devices(topology)
    yield from _ports(topology)
    yield from _mode(topology)
    yield from _pairs(topology)
    yield from _room(topology)


def _engine(topology: Topology, cache_dir: Path | None) -> Iterator[Finding]:
    kind = topology.engine.engine
    if kind == "virtual":
        yield Finding("ok", "engine", "virtual GPUs, nothing to install")
    elif kind == "tercet":
        missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
        if missing:
            yield Finding("fault", "engine", f"{' and '.join(missing)} missing: pip install 'tercet[engine]'")
        else:
            yield Finding("ok", "engine", f"built-in, tercet {__version__}")
    else:
        for python in sorted({topology.of(worker).engine.engine_python or "" for worker in topology.workers}):
            yield _tried("engine", partial(_with_python, kind, python or None, cache_dir))


def _with_python(kind: str, python: str | None, cache_dir: Path | None) -> str:
    return f"{kind} with {engine_python(kind, python, cache_dir)}"


def _model(topology: Topology, cache_dir: Path | None) -> Iterator[Finding]:
    for name in sorted({shown_model(topology.of(worker)) for worker in topology.workers}):
        if topology.engine.random_weights is not None or name != topology.model:
            yield Finding("ok", "model", f"{name}: made when it starts")
            continue
        try:
            folder = resolve(name, cache_dir, pull=False)
        except UsageError as error:
            # A known model, or one of the hub's, is fetched when the topology starts.
            unknown = str(error).startswith("unknown model")
            yield Finding("fault" if unknown else "warning", "model", str(error))
            continue
        yield Finding("ok", "model", f"{name} in {folder.path}")
        if "vision_config" not in folder.config:
            yield from _fault("stages", partial(check_sight, topology.workers, name))


def _devices(topology: Topology) -> Iterator[Finding]:
    try:
        assigned, warnings = resolve_devices(topology)
    except UsageError as error:
        yield Finding("fault", "devices", str(error))
        return
    yield from (Finding("warning", "devices", warning) for warning in warnings)
    if not warnings:
        yield Finding("ok", "devices", ", ".join(f"{w.name} on {'+'.join(w.devices)}" for w in assigned.workers))
    yield from _fault("settings", partial(check_workers, assigned))


def _ports(topology: Topology) -> Iterator[Finding]:
    router = topology.router
    named = [("router", router.host, router.port, "--port")]
    named += [(worker.name, "127.0.0.1", worker.port, "its `port` in the file") for worker in topology.workers]
    given = [part for part in named if part[2]]
    reservation = PortReservation()
    faults = [
        fault
        for name, host, port, setting in given
        for fault in _fault("ports", partial(reservation.take, host, port, name, setting))
    ]
    reservation.close()
    yield from faults or [
        Finding("ok", "ports", ", ".join(f"{part[0]} {part[2]}" for part in given) or "any free ones")
    ]


def _mode(topology: Topology) -> Iterator[Finding]:
    try:
        assigned, _ = resolve_devices(topology)
        router_arguments(Placement(assigned, "doctor"))
    except UsageError as error:
        yield Finding("fault", "mode", str(error))
    else:
        yield Finding("ok", "mode", f"{topology.mode} on {topology.short_form}")


def _pairs(topology: Topology) -> Iterator[Finding]:
    ends = {x: [w for w in topology.workers if role_letter(w.stages) == x] for x in "PD"}
    if not ends["P"] or not ends["D"]:
        return
    match = topology.router.rank_match or dialect_named(engine_commands(topology.engine.engine).dialect).rank_match
    counts = {x: [worker.ranks for worker in ends[x]] for x in "PD"}
    if reason := unequal_ranks(match, counts["P"], counts["D"]):
        yield Finding("fault", "ranks", reason)
    else:
        yield Finding("ok", "ranks", f"{sum(counts['P'])} of P, {sum(counts['D'])} of D, rank_match {match}")
    yield from _transport(topology, [*ends["P"], *ends["D"]])
    faults = []
    for p, d in product(ends["P"], ends["D"]):
        if reason := misfit(expected_build(topology, p), expected_build(topology, d)):
            faults.append(Finding("fault", f"{p.name} > {d.name}", reason))
    same = "model, dtype, block size, KV layout and transport are the same on P and D"
    yield from faults or [Finding("ok", "pairs", same)]
    longest = {x: max(topology.of(worker).engine.max_model_len for worker in ends[x]) for x in "PD"}
    for d in ends["D"]:
        mine = topology.of(d).engine.max_model_len
        if mine < longest["P"]:
            yield Finding("warning", d.name, f"max_model_len {mine}, P's is {longest['P']}: longer requests end at D")


def _transport(topology: Topology, workers: list[WorkerSpec]) -> Iterator[Finding]:
    if engine_commands(topology.engine.engine).dialect != "tercet":
        return
    for name in sorted({topology.of(worker).engine.transport for worker in workers}):
        if name == AUTO:
            yield Finding("ok", "transport", f"auto: {automatic('127.0.0.1')[0]} between workers of one machine")
        else:
            yield from _fault("transport", partial(check_transport, name)) or [Finding("ok", "transport", name)]


def _room(topology: Topology) -> Iterator[Finding]:
    for worker in topology.workers:
        engine = topology.of(worker).engine
        tokens = engine.kv_blocks * engine.block_size
        if tokens and tokens < engine.max_model_len and role_letter(worker.stages) != "E":
            yield Finding(
                "warning",
                worker.name,
                f"its {engine.kv_blocks} KV blocks hold {tokens} tokens, max_model_len is {engine.max_model_len}: "
                "longer requests are refused; raise kv_blocks, or leave it to the engine",
            )


def expected_build(topology: Topology, worker: WorkerSpec) -> EngineBuild:
    """Return how the worker's engine would describe itself, as far as the file says."""
    engine = topology.of(worker).engine
    own = engine_commands(engine.engine).dialect == "tercet"
    return EngineBuild(
        engine=engine.engine,
        version=__version__,
        model=shown_model(topology.of(worker)),
        dtype=engine.dtype,
        block_size=engine.block_size,
        layout=LAYOUT_NAME if own else "",
        tensor_parallel=max(worker.ranks if engine.engine == "trtllm" else 1, engine.tensor_parallel),
        ticket_version=TICKET_VERSION,
        transports=WorkerConfig(transport=engine.transport).transports() if own else (engine.transport,),
        fingerprint="",
    )


def _fault(what: str, check: Callable[[], object]) -> list[Finding]:
    try:
        check()
    except UsageError as error:
        return [Finding("fault", what, str(error))]
    return []


def _tried(what: str, say: Callable[[], str]) -> Finding:
    try:
        return Finding("ok", what, say())
    except TercetError as error:
        return Finding("fault", what, str(error))
