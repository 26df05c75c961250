"""Questions that a plan's tests ask: an H100 with Llama-3.1-8B unless they say otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tercet.latency.registry import oracle_for
from tercet.latency.stack import stack_named
from tercet.plan.question import Question
from tercet.results.slo import Slo
from tercet.sim.fleet import EngineCaps
from tercet.traffic.spec import LoadKind, TrafficSpec
from tercet.traffic.workload import workload_from_name


def question(
    workload: str = "W1",
    load: float = 4.0,
    *,
    gpus: int = 2,
    tps: tuple[int, ...] = (1,),
    turns: int = 1,
    **fields: Any,
) -> Question:
    """Return a question in an open loop."""
    return Question(
        devices={1: oracle_for("llama-3.1-8b", "h100")},
        gpus=gpus,
        stack=stack_named("vllm"),
        caps=EngineCaps(),
        traffic=TrafficSpec(workload_from_name(workload), load or 1.0, 1, turns),
        kind=LoadKind.QPS,
        load=load,
        slo=fields.pop("slo", Slo(500.0, 20.0)),
        **fields,
    )


class Silent:
    """A progress that counts what it was shown."""

    def __init__(self) -> None:
        self.steps: dict[str, tuple[int, int]] = {}

    @contextmanager
    def task(self, text: str, total: int) -> Iterator[Callable[[], None]]:
        """Count."""

        def advance() -> None:
            self.steps[text] = (self.steps[text][0] + 1, total)

        self.steps[text] = (0, total)
        yield advance
