"""Who leads where: neighbouring loads with the same outcome, and how such ranges are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tercet.report.evidence import Group
from tercet.results.verdict import Verdict

TTFT = ("ttft", "ttft_turn1", "ttft_first")
"""What the verdict on the first token may be called, the preferred first."""

GOODPUT = ("goodput",)
THROUGHPUT = ("throughput", "output_tokens_per_s")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one load ended: its leaders, and in which sense they lead: "wins", "ahead", "tie", "undecided" or "none"."""

    leaders: tuple[str, ...]
    word: str


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring loads of one group with one outcome, with their verdicts. `loads` are all measured ones."""

    group: Group
    outcome: Outcome
    verdicts: tuple[Verdict, ...]
    loads: tuple[float, ...]

    @property
    def where(self) -> str:
        """Write the range: `at every load`, `up to 2 requests/s`, `from 4 requests/s`, `at 1 requests/s`..."""
        first, last = self.verdicts[0].load, self.verdicts[-1].load
        unit = "requests/s" if self.group.load_kind == "qps" else "at once"
        if len(self.loads) == 1:
            return f"at {first:g} {unit}" if self.group.load_kind == "qps" else f"with {first:g} {unit}"
        if (first, last) == (self.loads[0], self.loads[-1]):
            return "at every load"
        if first == last:
            return f"at {first:g} {unit}" if self.group.load_kind == "qps" else f"with {first:g} {unit}"
        if first == self.loads[0]:
            return f"up to {last:g} {unit}"
        if last == self.loads[-1]:
            return f"from {first:g} {unit}"
        return f"from {first:g} to {last:g} {unit}"


def outcome(verdict: Verdict) -> Outcome:
    """Return how a verdict ended."""
    if not verdict.leaders:
        return Outcome((), "none")
    if verdict.ahead is not None:
        return Outcome(verdict.leaders, "wins" if verdict.primary else "ahead")
    return Outcome(tuple(sorted(verdict.leaders)), "tie" if verdict.tied else "undecided")


def short_reason(verdict: Verdict) -> str:
    """Return why there is no verdict, without the details that follow its first clause."""
    return verdict.reason.partition(": ")[0]


def pick(verdicts: Sequence[Verdict], names: Sequence[str]) -> list[Verdict]:
    """Return the verdicts of the first of `names` that was judged at all."""
    for name in names:
        if found := [verdict for verdict in verdicts if verdict.metric == name]:
            return found
    return []


def spans(verdicts: Sequence[Verdict]) -> list[Span]:
    """Return the spans of one metric's verdicts, by group, loads rising."""
    found: list[Span] = []
    groups = dict.fromkeys(Group(verdict.workload, verdict.load_kind) for verdict in verdicts)
    for group in groups:
        mine = sorted((v for v in verdicts if Group(v.workload, v.load_kind) == group), key=lambda v: v.load)
        loads = tuple(verdict.load for verdict in mine)
        start = 0
        for i in range(1, len(mine) + 1):
            if i == len(mine) or outcome(mine[i]) != outcome(mine[start]):
                found.append(Span(group, outcome(mine[start]), tuple(mine[start:i]), loads))
                start = i
    return found


def listed(names: Sequence[str]) -> str:
    """Write `a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
