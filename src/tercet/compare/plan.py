"""The order of runs: blocks, in each of them every architecture on the same conversations, in random order."""

from __future__ import annotations

import random
from collections.abc import Hashable
from dataclasses import dataclass, replace

from tercet.compare.architecture import Architecture
from tercet.compare.spec import WARM, CompareSpec
from tercet.core.stage import Mode
from tercet.traffic.spec import LoadKind, TrafficSpec


@dataclass(frozen=True, slots=True)
class Step:
    """One run. `salt` is equal for all architectures of a block and load, and for no other run."""

    architecture: Architecture
    traffic: TrafficSpec
    block: int
    order: int
    salt: str

    @property
    def key(self) -> tuple[str, str, str, float, int]:
        """What tells it from every other step."""
        return (self.architecture.label, self.traffic.name, str(self.traffic.load_kind), self.traffic.load, self.block)


def plan(spec: CompareSpec, nonce: str) -> list[Step]:
    """Return every step in order of running.

    Within a block those that share processes (see `place`) run load by load, in an order of their own at each; the
    groups follow one another, shuffled too. `nonce` sets the prompts apart from those of any other comparison.
    """
    steps: list[Step] = []
    for block in range(spec.blocks):
        rng = random.Random(f"{spec.seed} {block}")
        groups = _groups(spec)
        rng.shuffle(groups)
        for group in groups:
            for traffic in spec.cells():
                rng.shuffle(group)
                salt = f"{nonce}-b{block}-{traffic.name}-{_load_text(traffic)}"
                part = _part(traffic, block)
                for architecture in group:
                    steps.append(Step(architecture, part, block, len(steps), salt))
    return steps


def _part(traffic: TrafficSpec, block: int) -> TrafficSpec:
    """Return a block's traffic: of a data set that holds more than one block sends, another part."""
    data, count = traffic.dataset, traffic.num_conversations
    if data is None or not 0 < count < len(data.scripts):
        return traffic
    return replace(traffic, dataset=data.part(count, block))


def place(architecture: Architecture) -> Hashable:
    """Return what names the processes that serve it: architectures that differ in mode (and label) alone share them."""
    if architecture.topology is None:
        return architecture.url
    return replace(architecture.topology, mode=Mode.AGGREGATED, name="")


def _groups(spec: CompareSpec) -> list[list[Architecture]]:
    if spec.keep == WARM:
        return [list(spec.architectures)]
    groups: dict[Hashable, list[Architecture]] = {}
    for architecture in spec.architectures:
        groups.setdefault(place(architecture), []).append(architecture)
    return list(groups.values())


def _load_text(traffic: TrafficSpec) -> str:
    return f"{'c' if traffic.load_kind is LoadKind.CONCURRENCY else 'q'}{traffic.load:g}"
