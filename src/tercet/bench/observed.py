"""What finished runs tell of the machine: first tokens that waited for nothing, and stretches of decoding."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tercet.latency.samples import FirstToken, Sample, Stretch
from tercet.results.document import Results
from tercet.results.record import RequestRecord, RunRecord

Array = npt.NDArray[np.float64]
DEFAULT_BUDGET = {"tercet": 512, "virtual": 512, "vllm": 8192}
"""Tokens a step computes at most, where the file doesn't say."""
MIN_STEPS = 4
"""Fewer decode steps than this tell more of the client than of the engine."""
_LABEL = re.compile(r"[A-Z][0-9]+")


@dataclass(frozen=True, slots=True)
class _Timeline:
    """Requests of one run as columns: seconds, tokens, and the workers that prefilled and decoded. `busy` are the
    times, one after the other, at which a worker had something to do. `moved` are the tokens whose KV was handed
    over."""

    requests: tuple[RequestRecord, ...]
    sent: Array
    first: Array
    last: Array
    new: Array
    prefix: Array
    context: Array
    moved: Array
    prefilled: npt.NDArray[np.str_]
    decoded: npt.NDArray[np.str_]
    busy: Mapping[str, Sequence[tuple[float, float]]]


def observed(results: Results) -> list[Sample]:
    """Return the samples of all valid runs."""
    found: list[Sample] = []
    for run in results.runs:
        if run.invalid:
            continue
        engine = next((each.engine for each in results.architectures if each.label == run.architecture), {})
        kind = str(engine.get("engine", "vllm"))
        budget = int(engine.get("max_num_batched_tokens") or DEFAULT_BUDGET.get(kind, 8192))
        found += observed_run(run, budget)
    return found


def observed_run(run: RunRecord, budget: int) -> list[Sample]:
    """Return the samples of one run, whose engines compute `budget` tokens a step at most.

    A later turn that was handed over is left out: how much of it its prefill worker held is not known.
    """
    requests = run.finished
    if not requests:
        return []
    line = _timeline(requests)
    found: list[Sample] = []
    for i in range(len(requests)):
        if (sample := _first_token(line, i, budget)) is not None:
            found.append(sample)
        if (stretch := _stretch(line, i)) is not None:
            found.append(stretch)
    return found


def split_route(route: str | None) -> tuple[str, str, bool]:
    """Return who prefilled, who decoded, and whether another encoded pictures: `E0>P0>D1` gives P0, D1, True.

    Without a route everything was one worker's.
    """
    legs = [_LABEL.findall(leg) for leg in (route or "").split(">")]
    labels = [leg[0] for leg in legs if leg and not leg[0].startswith("E")]
    if not labels:
        return "", "", False
    return labels[0], labels[-1], any(leg and leg[0].startswith("E") for leg in legs)


def _timeline(requests: Sequence[RequestRecord]) -> _Timeline:
    routes = [split_route(request.route) for request in requests]
    cached = _column(request.cached_tokens or 0 for request in requests)
    prompt = _column(request.prompt_tokens for request in requests)
    sent = _column(request.sent_s for request in requests)
    first = _column(request.chunk_s[0] for request in requests)
    last = _column(request.chunk_s[-1] for request in requests)
    spans: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    moved = _column(
        0
        if prefilled == decoded
        else request.prompt_tokens
        if request.external_tokens is None
        else request.external_tokens
        for request, (prefilled, decoded, _) in zip(requests, routes, strict=True)
    )
    for (prefilled, decoded, _), asked, begun, ended in zip(routes, sent, first, last, strict=True):
        spans[prefilled].append((asked, begun))
        spans[decoded].append((begun, ended))
    return _Timeline(
        requests=tuple(requests),
        sent=sent,
        first=first,
        last=last,
        new=np.maximum(prompt - cached, 1),
        prefix=np.minimum(cached, np.maximum(prompt - 1, 0)),
        context=prompt + _column(request.output_tokens / 2 for request in requests),
        moved=moved,
        prefilled=np.array([prefilled for prefilled, _, _ in routes]),
        decoded=np.array([decoded for _, decoded, _ in routes]),
        busy={worker: _joined(each) for worker, each in spans.items()},
    )


def _joined(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the same times without overlaps, in order."""
    found: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def _others(line: _Timeline, worker: str, start: float, end: float) -> float:
    """Return how many workers but this one had something to do between two moments, in the mean."""
    total = sum(
        max(min(until, end) - max(since, start), 0.0)
        for other, spans in line.busy.items()
        if other != worker
        for since, until in spans
    )
    return total / (end - start)


def _column(values: Iterable[float]) -> Array:
    return np.array(list(values), float)


def _first_token(line: _Timeline, i: int, budget: int) -> FirstToken | None:
    request, start, end = line.requests[i], line.sent[i], line.first[i]
    handoff = bool(line.prefilled[i] != line.decoded[i])
    if end <= start or (handoff and request.turn > 1):
        return None
    waiting = (line.prefilled == line.prefilled[i]) & (line.sent < end) & (line.first > start)
    if waiting.sum() > 1:
        return None
    decodes, context = _alongside(line, i, str(line.prefilled[i]), start, end)
    busy = _alongside(line, i, str(line.decoded[i]), start, end)[0] if handoff else 0.0
    tokens = int(line.new[i])
    _, _, remote = split_route(request.route)
    return FirstToken(
        observed_ms=(end - start) * 1e3,
        tokens=tokens,
        prefix=int(line.prefix[i]),
        steps=-(-tokens // budget),
        decodes=decodes,
        context=context,
        busy=min(decodes, 1.0),
        handoff=handoff,
        moved=float(line.moved[i]),
        handoff_busy=min(busy, 1.0),
        images=request.images,
        remote_images=remote and request.images > 0,
        others=_others(line, str(line.prefilled[i]), start, end),
    )


def _stretch(line: _Timeline, i: int) -> Stretch | None:
    steps, start, end = line.requests[i].output_tokens - 1, line.first[i], line.last[i]
    if steps < MIN_STEPS or end <= start:
        return None
    worker = str(line.decoded[i])
    others, context = _alongside(line, i, worker, start, end)
    batch = 1 + others
    mean = (line.context[i] + others * context) / batch
    prompts = (line.prefilled == worker) & (line.first > start) & (line.first <= end)
    prompts[i] = False
    new = line.new[prompts]
    pairs = float(np.sum(new * (line.prefix[prompts] + new / 2)))
    came = (line.decoded == worker) & (line.prefilled != worker) & (line.first > start) & (line.first <= end)
    came[i] = False
    return Stretch(
        (end - start) * 1e3,
        steps,
        float(batch),
        float(mean),
        float(new.sum()),
        pairs,
        float(came.sum()),
        float(line.moved[came].sum()),
        _others(line, worker, start, end),
    )


def _alongside(line: _Timeline, i: int, worker: str, start: float, end: float) -> tuple[float, float]:
    """Return how many others decoded on `worker` between two moments, in the mean, and their mean context."""
    overlap = np.minimum(line.last, end) - np.maximum(line.first, start)
    overlap = np.where(line.decoded == worker, np.maximum(overlap, 0.0), 0.0)
    overlap[i] = 0.0
    total = float(overlap.sum())
    if not total:
        return 0.0, 0.0
    return total / (end - start), float((overlap * line.context).sum() / total)
