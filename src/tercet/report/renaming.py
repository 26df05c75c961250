"""Results under other names: labels of architectures and names of workloads replaced everywhere they occur."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from tercet.results.curve import Improvement, RatioCurve
from tercet.results.document import Results
from tercet.results.verdict import Verdict

P = TypeVar("P", RatioCurve, Improvement)


@dataclass(frozen=True, slots=True)
class Renaming:
    """New names of `labels` and `workloads`; what is in neither keeps its name."""

    labels: Mapping[str, str]
    workloads: Mapping[str, str]

    def label(self, name: str) -> str:
        """Return an architecture's new label."""
        return self.labels.get(name, name)

    def workload(self, name: str) -> str:
        """Return a workload's new name."""
        return self.workloads.get(name, name)

    def apply(self, results: Results) -> Results:
        """Return the results under the new names."""
        return replace(
            results,
            traffics=tuple(replace(each, workload=self.workload(each.workload)) for each in results.traffics),
            architectures=tuple(replace(each, label=self.label(each.label)) for each in results.architectures),
            runs=tuple(
                replace(each, architecture=self.label(each.architecture), workload=self.workload(each.workload))
                for each in results.runs
            ),
            verdicts=tuple(self._verdict(each) for each in results.verdicts),
            curves=tuple(self._curve(each) for each in results.curves),
            improvements=tuple(self._pair(each) for each in results.improvements),
            interference=tuple(
                replace(each, architecture=self.label(each.architecture)) for each in results.interference
            ),
        )

    def _verdict(self, verdict: Verdict) -> Verdict:
        return replace(
            verdict,
            workload=self.workload(verdict.workload),
            values={self.label(name): value for name, value in verdict.values.items()},
            leaders=tuple(self.label(name) for name in verdict.leaders),
            margins=tuple(replace(each, architecture=self.label(each.architecture)) for each in verdict.margins),
        )

    def _curve(self, curve: RatioCurve) -> RatioCurve:
        regions = tuple(
            replace(each, better=None if each.better is None else self.label(each.better)) for each in curve.regions
        )
        # At once, the longer name first: pd is the end of ppd.
        names = "|".join(re.escape(name) for name in sorted((curve.first, curve.second), key=len, reverse=True))
        sentence = re.sub(f"({names})(?= better)", lambda found: self.label(found[1]), curve.sentence)
        return replace(self._pair(curve), regions=regions, sentence=sentence)

    def _pair(self, each: P) -> P:
        return replace(
            each,
            first=self.label(each.first),
            second=self.label(each.second),
            workload=self.workload(each.workload),
        )
