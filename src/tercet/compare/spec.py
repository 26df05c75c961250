"""What to compare: modes, their topologies on equal devices, the traffic, and the order of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tercet.core.errors import UsageError
from tercet.core.stage import Mode
from tercet.core.topology import EngineSpec, RouterSpec, Topology, parse_short_form, require_stages
from tercet.traffic.spec import TrafficSpec

DEFAULT_RANKS = 2
"""Ranks of every mode's topology when nobody names one."""


@dataclass(frozen=True, slots=True)
class CompareSpec:
    """One comparison. `traffic` has the first rate; `rates` are all of them.

    `topologies` holds those that were asked for. `scale` is for the record: `traffic.workload` is scaled already.
    """

    modes: tuple[Mode, ...]
    traffic: TrafficSpec
    rates: tuple[float, ...]
    scale: float = 1.0
    runs: int = 1
    model: str = "smollm2-135m"
    engine: EngineSpec = field(default_factory=EngineSpec)
    router: RouterSpec = field(default_factory=lambda: RouterSpec(port=0))
    devices: tuple[str, ...] = ()
    topologies: Mapping[Mode, str] = field(default_factory=dict)
    allow_unequal: bool = False

    def __post_init__(self) -> None:
        """Refuse what can't be compared. Raises UsageError."""
        if not self.modes:
            raise UsageError("--modes is empty: name some, for instance replicated,pd,ppd")
        if len(set(self.modes)) < len(self.modes):
            raise UsageError(f"--modes {','.join(self.modes)} names a mode twice")
        if not self.rates or len(set(self.rates)) < len(self.rates):
            raise UsageError("--qps needs one or more different rates, for instance 0.5,1")
        if self.runs < 1:
            raise UsageError(f"--runs {self.runs} is out of range: give 1 or more; 3 or more make the run the unit")
        if self.traffic.longest > self.engine.max_model_len:
            raise UsageError(
                f"--max-model-len {self.engine.max_model_len} is too short: conversations grow to "
                f"{self.traffic.longest} tokens"
            )
        if strangers := [mode for mode in self.topologies if mode not in self.modes]:
            raise UsageError(f"--topologies names {', '.join(strangers)}, which --modes does not")

    @property
    def model_label(self) -> str:
        """Return what results call the model."""
        return self.model if self.engine.random_weights is None else f"random weights of {self.engine.random_weights}"

    def traffic_at(self, qps: float) -> TrafficSpec:
        """Return the traffic at one rate."""
        return replace(self.traffic, qps=qps)


@dataclass(frozen=True, slots=True)
class Block:
    """One run of one mode at one rate. `salt` is equal in every mode of a run and rate: the same conversations."""

    run: int
    mode: str
    qps: float
    order: int
    salt: str


def plan_blocks(spec: CompareSpec, nonce: str) -> list[Block]:
    """Return the blocks in order of running: every run holds all modes, its first mode one further than the run before.

    Rotation spreads drift of the machine over the modes; a mode's rates follow each other, to start fewer processes.
    `nonce` sets this comparison's prompts apart from those of any other.
    """
    blocks: list[Block] = []
    for run in range(spec.runs):
        shift = run % len(spec.modes)
        for mode in (*spec.modes[shift:], *spec.modes[:shift]):
            for i, qps in enumerate(spec.rates):
                blocks.append(Block(run, mode, qps, len(blocks), f"{nonce}-r{run}-q{i}"))
    return blocks


def topology_for(spec: CompareSpec, mode: Mode) -> Topology:
    """Return the topology that serves `mode`: the one asked for, else one with as many ranks as the others.

    Modes on equal workers get equal topologies but for the mode, so that one deployment can serve both.
    """
    short = spec.topologies.get(mode) or _default_form(spec, mode)
    workers = parse_short_form(short)
    require_stages(mode, workers)
    return Topology(f"compare-{short.lower()}", spec.model, mode, workers, spec.devices, spec.engine, spec.router)


def _default_form(spec: CompareSpec, mode: Mode) -> str:
    whole = mode in (Mode.AGGREGATED, Mode.REPLICATED)
    for other, short in spec.topologies.items():
        if (other in (Mode.AGGREGATED, Mode.REPLICATED)) == whole:
            return short
    given = [len(parse_short_form(short)) for short in spec.topologies.values()]
    ranks = given[0] if given else DEFAULT_RANKS
    if whole:
        return f"{ranks}A"
    if ranks < 2:
        raise UsageError(
            f"mode {mode} needs two workers at least, the others have {ranks}: name --topologies {mode}=1P1D"
        )
    return f"{ranks // 2}P{ranks - ranks // 2}D"


def used_devices(topology: Topology) -> tuple[str, ...]:
    """Return the distinct devices that a topology's ranks compute on, once they are assigned."""
    return tuple(sorted({device for worker in topology.workers for device in worker.devices}))


def check_devices(topologies: Sequence[Topology], *, allow_unequal: bool) -> None:
    """Raise UsageError when the topologies (devices assigned) don't use the same devices, unless that is allowed."""
    used = {topology.mode: used_devices(topology) for topology in topologies}
    if allow_unequal or len(set(used.values())) < 2:
        return
    listing = "; ".join(
        f"{topology.mode} ({topology.short_form}) uses {', '.join(used[topology.mode])}" for topology in topologies
    )
    raise UsageError(
        f"the modes would run on unequal devices: {listing}. Name equal --topologies and --devices, "
        "or pass --allow-unequal for figures per device"
    )
