"""One workload under one load: the blocks that count there, their figures, and what stands against a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tercet.compare.metrics import Metric, metrics, values
from tercet.results.document import ArchitectureRecord, TrafficRecord
from tercet.results.record import RunRecord
from tercet.results.student import MIN_VALUES
from tercet.results.verdict import FEWER_ANSWERS

Block = Mapping[str, RunRecord]
"""Architecture to its run: all of them sent the same conversations."""


@dataclass(frozen=True, slots=True)
class Cell:
    """The runs of one workload under one load. `blocks` are those that count, by their number.

    A block counts when every architecture completed it with a valid run; `left_out` says why others don't. `short` are
    the architectures that can't win, as they answered fewer requests. `silent` answered none at all and are not among
    the `labels`: there is no request that they answered too, and the others are judged without them. `devices` is None
    where all have equally many.
    """

    workload: str
    load_kind: str
    load: float
    labels: tuple[str, ...]
    blocks: Mapping[int, Block]
    left_out: tuple[str, ...]
    short: tuple[str, ...]
    devices: Mapping[str, int] | None
    metrics: tuple[Metric, ...]
    silent: tuple[str, ...] = ()

    def figures(self, metric: Metric) -> dict[int, dict[str, float]]:
        """Return block -> architecture -> the metric, for the blocks in which every architecture has it."""
        found = {number: values(metric, block, self.devices or {}) for number, block in self.blocks.items()}
        return {number: figures for number, figures in found.items() if len(figures) == len(self.labels)}

    def answered(self, label: str) -> list[float]:
        """Return the share of its requests that an architecture answered, block by block."""
        runs = [block[label] for block in self.blocks.values()]
        return [len(run.finished) / max(1, len(run.requests)) for run in runs]

    def basis(self, count: int) -> str:
        """Name `count` blocks as the units of statistics, and what was left out: blocks, and who answered nothing."""
        out = f", {len(self.left_out)} left out" if self.left_out else ""
        out += f"; {' and '.join(self.silent)} answered nothing" if self.silent else ""
        return f"{count} block{'' if count == 1 else 's'}{out}"

    def obstacle(self, count: int) -> str:
        """Return why `count` blocks with a figure say nothing; empty when they do."""
        if count >= MIN_VALUES:
            return ""
        need = f"needs at least {MIN_VALUES} blocks, there {'is' if count == 1 else 'are'} {count}"
        if self.left_out:
            return f"{need}: {self.left_out[0]}"
        return need if count == len(self.blocks) else f"{need} with a request that every architecture answered"


def cells(
    runs: Sequence[RunRecord], traffics: Sequence[TrafficRecord], architectures: Sequence[ArchitectureRecord]
) -> list[Cell]:
    """Return every cell in which two or more architectures ran, by workload and ascending load."""
    devices = {record.label: record.devices for record in architectures}
    found = []
    for traffic in traffics:
        mine = [run for run in runs if run.workload == traffic.workload]
        for kind, load in sorted({(run.load_kind, run.load) for run in mine}):
            here = [run for run in mine if (run.load_kind, run.load) == (kind, load)]
            labels = tuple(label for label in devices if any(run.architecture == label for run in here))
            if len(labels) < 2:
                continue
            blocks, left_out = _paired(here, labels)
            silent = _silent(blocks, labels)
            if silent:
                labels = tuple(label for label in labels if label not in silent)
                blocks = {n: {label: block[label] for label in labels} for n, block in blocks.items()}
            counts = {label: max(1, devices[label]) for label in labels}
            unequal = len(set(counts.values())) > 1
            found.append(
                Cell(
                    traffic.workload,
                    kind,
                    load,
                    labels,
                    blocks,
                    left_out,
                    _short_of_answers(list(blocks.values()), labels),
                    counts if unequal else None,
                    metrics(traffic.turns, per_device=unequal, slo=traffic.slo),
                    silent,
                )
            )
    return found


def _paired(runs: Sequence[RunRecord], labels: Sequence[str]) -> tuple[dict[int, Block], tuple[str, ...]]:
    blocks: dict[int, Block] = {}
    left_out = []
    for number in sorted({run.block for run in runs}):
        block = {run.architecture: run for run in runs if run.block == number}
        missing = [label for label in labels if label not in block or not block[label].complete]
        invalid = [run for run in block.values() if run.invalid]
        if missing:
            left_out.append(f"block {number + 1} was not completed by {missing[0]}")
        elif invalid:
            left_out.append(
                f"block {number + 1} of {invalid[0].architecture} is invalid: {invalid[0].invalid_reasons[0]}"
            )
        else:
            blocks[number] = block
    return blocks, tuple(left_out)


def _silent(blocks: Mapping[int, Block], labels: Sequence[str]) -> tuple[str, ...]:
    """Return who answered nothing, as long as two are left that can be compared."""
    found = tuple(
        label
        for label in labels
        if blocks and not any(request.ok for block in blocks.values() for request in block[label].requests)
    )
    return found if len(labels) - len(found) > 1 else ()


def _short_of_answers(blocks: Sequence[Block], labels: Sequence[str]) -> tuple[str, ...]:
    share = {}
    for label in labels:
        requests = [request for block in blocks for request in block[label].requests]
        share[label] = sum(request.ok for request in requests) / max(1, len(requests))
    best = max(share.values())
    return tuple(label for label in labels if share[label] < best - FEWER_ANSWERS)
