"""What a simulation found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tercet.results.record import RequestRecord, StageBusy
from tercet.results.slo import Slo
from tercet.results.summary import TurnSummary
from tercet.sim.histogram import Histogram
from tercet.sim.request import SimRequest


@dataclass(frozen=True, slots=True)
class SimCounters:
    """What happened inside, warm-up included.

    Tokens: `prefix_hits` of `prefix_queries` prompt tokens came from caches. `preemptions` gave blocks back in
    mid-answer. `transferred_bytes` went over links, and waited `transfer_wait_s` for them in all. `mispredictions` are
    requests whose rank held less than the router believed. `steps` were computed, `leapt` of them together with others.
    `direct` requests had one leg, `split` ones two; `retries` followed a lost worker. `encoded` pictures were computed,
    `picture_hits` found at their encoder and `picture_named` where they were needed.
    """

    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    transferred_bytes: int = 0
    transfer_wait_s: float = 0.0
    mispredictions: int = 0
    steps: int = 0
    leapt: int = 0
    direct: int = 0
    split: int = 0
    retries: int = 0
    encoded: int = 0
    picture_hits: int = 0
    picture_named: int = 0

    @property
    def hit_rate(self) -> float:
        """Share of prompt tokens that caches held."""
        return self.prefix_hits / self.prefix_queries if self.prefix_queries else 0.0


@dataclass(slots=True)
class SimFigures:
    """Sums and distributions over requests, in memory that does not grow with them. Latencies in milliseconds."""

    requests: int = 0
    ok: int = 0
    good: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    external_tokens: int = 0
    output_tokens: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    ttft_ms: Histogram = field(default_factory=Histogram)
    tpot_ms: Histogram = field(default_factory=Histogram)
    e2e_ms: Histogram = field(default_factory=Histogram)
    last_s: float = 0.0
    first_s: float = -1.0

    def add(self, request: SimRequest, slo: Slo | None = None) -> None:
        """Count a request that is over; `slo` decides which are `good`."""
        self.requests += 1
        self.last_s = max(self.last_s, request.done_s)
        if self.first_s < 0:
            self.first_s = request.due_s
        self.first_s = min(self.first_s, request.due_s)
        if request.failure is not None:
            self.failures[request.failure] = self.failures.get(request.failure, 0) + 1
            return
        self.ok += 1
        self.prompt_tokens += request.prompt_tokens
        self.cached_tokens += request.cached_tokens
        self.external_tokens += request.external_tokens
        self.output_tokens += request.output_tokens
        ttft = (request.first_s - request.due_s) * 1e3
        e2e = (request.done_s - request.due_s) * 1e3
        self.ttft_ms.add(ttft)
        self.e2e_ms.add(e2e)
        tpot = None
        if request.output_tokens > 1:
            tpot = (e2e - ttft) / (request.output_tokens - 1)
            self.tpot_ms.add(tpot)
        if slo is not None:
            pairs = ((slo.ttft_ms, ttft), (slo.tpot_ms, tpot), (slo.e2e_ms, e2e))
            self.good += all(limit is None or took is None or took <= limit for limit, took in pairs)

    def summary(self, turn: int | None = None) -> TurnSummary:
        """Return them as a results file has them; ITL is not kept."""
        return TurnSummary(
            turn,
            self.requests,
            self.ok,
            self.ttft_ms.spread(),
            self.tpot_ms.spread(),
            None,
            self.e2e_ms.spread(),
            self.prompt_tokens,
            self.cached_tokens,
            self.external_tokens,
            0,
            {},
        )


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """One simulated run, warm-up left out.

    `figures` sum up all requests, `turns` those of each turn. `requests` are the records, by sending time; empty when
    only summaries were wanted. `duration_s` is from the first sending to the last answer's end, in virtual seconds.
    `stages` say how busy each worker was.
    """

    figures: SimFigures
    turns: Mapping[int, SimFigures]
    requests: tuple[RequestRecord, ...]
    counters: SimCounters
    stages: tuple[StageBusy, ...]
    duration_s: float

    @property
    def requests_per_s(self) -> float:
        """Whole answers a second."""
        return self.figures.ok / self.duration_s if self.duration_s else 0.0

    @property
    def output_tokens_per_s(self) -> float:
        """Tokens of whole answers a second."""
        return self.figures.output_tokens / self.duration_s if self.duration_s else 0.0

    @property
    def goodput_per_s(self) -> float:
        """Answers within the SLO a second; 0 when none was given."""
        return self.figures.good / self.duration_s if self.duration_s else 0.0
