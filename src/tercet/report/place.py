"""Where figures belong: a workload under a load."""

from __future__ import annotations

from dataclasses import dataclass

from tercet.report.figures import load_text
from tercet.results.summary import Summary
from tercet.results.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Place:
    """One workload under one load; figures of one place stand side by side."""

    workload: str
    load_kind: str
    load: float

    @classmethod
    def of(cls, record: Summary | Verdict) -> Place:
        """Return the place of a summary or a verdict."""
        return cls(record.workload, record.load_kind, record.load)

    def title(self, with_workload: bool) -> str:
        """Write the load, after the workload where there are several."""
        load = load_text(self.load_kind, self.load)
        return f"{self.workload}, {load}" if with_workload else load
