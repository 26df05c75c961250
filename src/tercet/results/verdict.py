"""What was concluded: per rate and metric, who leads and by how much."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Margin:
    """How far `mode` is behind the best: the mean paired difference over the best's mean, with its 95% interval.

    Positive is worse, whatever the metric. `beaten`: the whole interval is, and the margin is large enough to matter.
    """

    mode: str
    relative: float
    low: float
    high: float
    beaten: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """One metric at one rate. `leaders` holds one mode (it wins), several (they tie), or none (`reason` says why).

    `values` are means over the paired units, `basis` names those ("5 runs", "12 paired conversations").
    """

    qps: float
    metric: str
    unit: str
    lower_is_better: bool
    values: dict[str, float]
    leaders: tuple[str, ...]
    margins: tuple[Margin, ...]
    basis: str
    reason: str = ""

    @property
    def winner(self) -> str | None:
        """The one mode that leads, None for a tie or no verdict."""
        return self.leaders[0] if len(self.leaders) == 1 else None


@dataclass(frozen=True, slots=True)
class AnswerCheck:
    """Whether the modes gave the same tokens: of `compared` requests answered whole by every mode, `equal` agreed.

    `lengths_wrong` counts answers that were not as long as asked. `capital` maps each mode to its answer about the
    capital of France, where that was asked. `must_agree` is true in fp32, where any difference is a fault.
    """

    compared: int
    equal: int
    lengths_wrong: int
    must_agree: bool
    capital: dict[str, str]
    first_difference: str | None = None

    @property
    def passed(self) -> bool:
        """False when something is wrong beyond doubt: lengths, the capital, or unequal tokens in fp32."""
        capital = all("paris" in answer.lower() for answer in self.capital.values())
        return capital and self.lengths_wrong == 0 and (self.equal == self.compared or not self.must_agree)
