"""Two architectures against each other over the loads: ratios, where one takes over, improvements."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RatioPoint:
    """One load: the paired ratio of `first` to `second` (geometric mean over `blocks`) and its 95% interval."""

    load: float
    ratio: float
    low: float
    high: float
    blocks: int


@dataclass(frozen=True, slots=True)
class Region:
    """Loads from `start` to `end` at which `better` is the better one; None: undecided."""

    start: float
    end: float
    better: str | None


@dataclass(frozen=True, slots=True)
class RatioCurve:
    """`first` against `second` in one metric over the loads of one workload.

    Between measured loads the log-ratio and its interval are interpolated over the load's logarithm; `regions` are
    where that interval excludes 1 and the ratio is beyond the tie margin. In a primary metric the interval is wider
    than a point's own, by Holm's adjustment: at a measured load it decides as the verdict does. `outcome`: "crossover"
    (the better one changes), "none" (it doesn't), "beyond" (it doesn't, and the trend leads to a change beyond the
    loads) or "undecided". `sentence` says it in words.
    """

    workload: str
    load_kind: str
    metric: str
    label: str
    lower_is_better: bool
    first: str
    second: str
    points: tuple[RatioPoint, ...]
    regions: tuple[Region, ...]
    outcome: str
    sentence: str

    def decided(self, load: float) -> bool:
        """Return whether one of them is the better one at a load."""
        return any(region.better is not None and region.start <= load <= region.end for region in self.regions)


@dataclass(frozen=True, slots=True)
class Improvement:
    """By which share of `second`'s value `first` betters it in one workload: 0.7 is a 70% shorter time.

    `mean` is over the loads, with its 95% interval over all paired runs; `minimum` and `maximum` are those of single
    loads. `blocks` is the most that count at a load; with too few there is no interval (None).
    """

    workload: str
    load_kind: str
    metric: str
    label: str
    first: str
    second: str
    mean: float
    low: float | None
    high: float | None
    minimum: float
    maximum: float
    loads: int
    blocks: int


@dataclass(frozen=True, slots=True)
class Interference:
    """What a long prompt does to answers that are being written: their ITL before it and while it prefills.

    `streams` answers were running when a prompt of `prompt_tokens` came, `repeats` times; milliseconds. `during` spans
    from its sending to its first token.
    """

    architecture: str
    streams: int
    prompt_tokens: int
    repeats: int
    quiet_itl_ms_mean: float
    quiet_itl_ms_max: float
    during_itl_ms_mean: float
    during_itl_ms_max: float
    prompt_ttft_ms: float
