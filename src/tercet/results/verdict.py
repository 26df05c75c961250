"""What was concluded: per traffic, load and metric, who leads and by how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BEATEN = "beaten"
TIE = "tie"
UNDECIDED = "undecided"
DROPPED = "dropped"

FEWER_ANSWERS = 0.01
"""What answers this much less of the requests than the best one can't win: dropping work makes the rest fast."""


@dataclass(frozen=True, slots=True)
class Margin:
    """How far `architecture` is behind the best: the paired ratio to it less 1, with its 95% interval.

    Positive is worse, whatever the metric. `outcome`: "beaten" (beyond chance and beyond the tie margin), "tie" (no
    more than the tie margin apart), "undecided" (the runs scatter too much to say), "dropped" (it answered fewer
    requests, beyond chance). `p` is the two-sided p-value against the best, for primary metrics as Holm adjusts it.
    """

    architecture: str
    relative: float
    low: float
    high: float
    p: float
    outcome: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """One metric at one load. `leaders` holds one architecture, several, or none (`reason` says why).

    `metric` is a name that stays, such as "ttft"; `label` is what a person reads. `primary`: a winner may be named. Of
    another metric a single leader is only ahead, since its p-values are not adjusted. `values` are means over the
    blocks; `basis` names those ("5 blocks").
    """

    workload: str
    load_kind: str
    load: float
    metric: str
    label: str
    unit: str
    lower_is_better: bool
    primary: bool
    values: Mapping[str, float]
    leaders: tuple[str, ...]
    margins: tuple[Margin, ...]
    basis: str
    reason: str = ""

    @property
    def ahead(self) -> str | None:
        """The one architecture that leads, None when several do or nothing can be said."""
        return self.leaders[0] if len(self.leaders) == 1 else None

    @property
    def winner(self) -> str | None:
        """The one architecture that leads on a primary metric."""
        return self.ahead if self.primary else None

    @property
    def tied(self) -> bool:
        """True when several lead and each is within the tie margin of the best; otherwise it is undecided."""
        close = {margin.architecture for margin in self.margins if margin.outcome == TIE}
        return len(self.leaders) > 1 and sum(leader in close for leader in self.leaders) == len(self.leaders) - 1


@dataclass(frozen=True, slots=True)
class AnswerCheck:
    """Whether the architectures gave the same tokens: of `compared` requests answered by all of them, `equal` agreed.

    `lengths_wrong` counts answers that were not as long as asked. `capital` maps each architecture to its answer about
    the capital of France, where that was asked. `must_agree` is true in fp32, where any difference is a fault.
    """

    compared: int
    equal: int
    lengths_wrong: int
    must_agree: bool
    capital: Mapping[str, str]
    first_difference: str | None = None

    @property
    def passed(self) -> bool:
        """False when something is wrong beyond doubt: lengths, the capital, or unequal tokens in fp32."""
        capital = all("paris" in answer.lower() for answer in self.capital.values())
        return capital and self.lengths_wrong == 0 and (self.equal == self.compared or not self.must_agree)
