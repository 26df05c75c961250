"""The figures of a serving benchmark, by the definitions of `vllm bench serve` and SGLang's `bench_serving`."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf

from tercet.results.record import RequestRecord, RunRecord
from tercet.results.slo import Slo
from tercet.results.summary import work

PEAK_WINDOW_S = 1.0
"""The peak of output tokens a second is that of the busiest second, wherever it begins."""


@dataclass(frozen=True, slots=True)
class Images:
    """Pictures a request: the fewest, the most, and the mean."""

    low: int
    high: int
    mean: float


@dataclass(frozen=True, slots=True)
class ServingFigures:
    """One load's figures, over all its runs together (rates: what was done over the runs' seconds; peaks: the highest).

    Tokens, rates and latencies are of whole answers; `failures` counts the others by kind. None is unknown.
    `mean_concurrency` is the sum of all E2E latencies over the duration. `mismatched` counts answered requests whose
    prompt the server counted otherwise than it was made.

    Of runs with a steady window counts and latencies are of the requests sent in it; rates and `mean_concurrency` of
    what was done in it, whenever it was sent.
    """

    requests: int
    failures: Mapping[str, int]
    duration_s: float
    input_tokens: int
    vision_tokens: int | None
    output_tokens: int
    retokenized_tokens: int | None
    requests_per_s: float
    input_per_s: float
    output_per_s: float
    peak_output_per_s: float
    mean_concurrency: float
    peak_concurrency: int
    images: Images | None
    goodput_per_s: float | None
    mismatched: int
    ttft_ms: tuple[float, ...]
    scheduled_ttft_ms: tuple[float, ...]
    tpot_ms: tuple[float, ...]
    itl_ms: tuple[float, ...]
    e2e_ms: tuple[float, ...]
    scheduled_e2e_ms: tuple[float, ...]

    @property
    def ok(self) -> int:
        """Whole answers."""
        return self.requests - sum(self.failures.values())

    @property
    def text_tokens(self) -> int:
        """Input tokens that are not pictures'."""
        return self.input_tokens - (self.vision_tokens or 0)


def serving_figures(runs: Sequence[RunRecord], slo: Slo | None = None) -> ServingFigures:
    """Return the figures of one load's runs, of their steady windows where they have some. `runs` must not be empty."""
    requests = [request for run in runs for request in run.measured]
    ok = [request for request in requests if request.ok]
    done = [work(run) for run in runs]
    ended = [request for each in done for request in each.ended]
    seconds = sum(each.seconds for each in done)

    def rate(amount: float) -> float:
        return amount / seconds if seconds > 0 else 0.0

    tokens_in, tokens_out = (sum(r.prompt_tokens for r in ok), sum(r.output_tokens for r in ok))
    shown = [request.images for request in requests]
    return ServingFigures(
        requests=len(requests),
        failures=Counter(request.failure or "invalid_answer" for request in requests if not request.ok),
        duration_s=seconds,
        input_tokens=tokens_in,
        vision_tokens=_known(r.vision_tokens for r in ok if r.images) if any(shown) else 0,
        output_tokens=tokens_out,
        retokenized_tokens=_known(request.retokenized_tokens for request in ok),
        requests_per_s=rate(len(ended)),
        input_per_s=rate(sum(request.prompt_tokens for request in ended)),
        output_per_s=rate(sum(each.output_tokens for each in done)),
        peak_output_per_s=max(peak_output(run.finished) for run in runs),
        mean_concurrency=rate(sum(_under_way_s(run) for run in runs)),
        peak_concurrency=max(peak_concurrency(run.requests) for run in runs),
        images=Images(min(shown), max(shown), sum(shown) / len(shown)) if any(shown) else None,
        goodput_per_s=None if slo is None else rate(sum(slo.met_by(request) for request in ended)),
        mismatched=sum(r.expected_prompt_tokens not in (None, r.prompt_tokens) for r in ok),
        ttft_ms=tuple(request.ttft_ms for request in ok),
        scheduled_ttft_ms=tuple(request.scheduled_ttft_ms for request in ok),
        tpot_ms=tuple(tpot for request in ok if (tpot := request.tpot_ms) is not None),
        itl_ms=tuple(gap for request in ok for gap in request.itl_ms),
        e2e_ms=tuple(request.e2e_ms for request in ok),
        scheduled_e2e_ms=tuple(request.scheduled_e2e_ms for request in ok),
    )


def peak_concurrency(requests: Iterable[RequestRecord]) -> int:
    """Return the most requests that were under way at one instant: from their intervals, not binned.

    One that ends at the instant another starts makes room for it.
    """
    changes = sorted(
        change
        for request in requests
        if request.failure != "not_sent"
        for change in ((request.sent_s, 1), (request.done_s, -1))
    )
    return max(accumulate(step for _, step in changes), default=0)


def peak_output(requests: Iterable[RequestRecord]) -> float:
    """Return the output tokens of the busiest second. Pieces of unknown size share their answer's tokens evenly."""
    pieces: list[tuple[float, float]] = []
    for request in requests:
        even = request.output_tokens / len(request.chunk_s)
        sizes: Sequence[float] = request.chunk_tokens or (even,) * len(request.chunk_s)
        pieces += zip(request.chunk_s, sizes, strict=True)
    pieces.sort()
    window: deque[tuple[float, float]] = deque()
    held = peak = 0.0
    for piece in pieces:
        window.append(piece)
        held += piece[1]
        while window[0][0] <= piece[0] - PEAK_WINDOW_S:
            held -= window.popleft()[1]
        peak = max(peak, held)
    return peak / PEAK_WINDOW_S


def _under_way_s(run: RunRecord) -> float:
    """Return the seconds that whole answers took in all, of which those in the steady window where there is one."""
    start_s, end_s = run.window_s or (-inf, inf)
    return sum(max(0.0, min(r.chunk_s[-1], end_s) - max(r.sent_s, start_s)) for r in run.finished)


def _known(values: Iterable[int | None]) -> int | None:
    found = list(values)
    return None if not found or None in found else sum(value for value in found if value is not None)
