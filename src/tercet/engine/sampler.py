"""From logits to tokens.

A token is a function of (its row of logits, its parameters, its seed, its absolute position) and of nothing else:
randomness is a hash of (seed, position), and rows never influence one another. So an answer is the same whatever
the route, the batch, or a preemption.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from tercet.core.sampling import SampledToken, SamplingParams

_MASK = (1 << 64) - 1
STRIDE = 256  # tokens summed at a time
NUCLEUS_CANDIDATES = 1024  # the most likely tokens that nearly always hold a top-p nucleus; a full sort is far dearer


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One row's wish: the token at absolute `position`; tokens in `banned` may not be chosen, if that leaves any."""

    params: SamplingParams
    position: int
    banned: tuple[int, ...] = ()


def uniform(seed: int, position: int) -> float:
    """Return a number in [0, 1) with 53 random bits: two rounds of SplitMix64's finaliser over seed, then position."""
    return (_mix(_mix(seed & _MASK) + position * 0x9E3779B97F4A7C15) >> 11) * 2.0**-53


def _mix(z: int) -> int:
    z = (z + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def sample(logits: torch.Tensor, requests: Seq[SampleRequest]) -> list[SampledToken]:
    """Choose one token a row of `logits` [rows, vocabulary]; requests[i] belongs to row i."""
    logits = logits.float()
    choosable = _without_banned(logits, requests)
    greedy = all(r.params.greedy for r in requests)
    tokens = choosable.argmax(-1).tolist() if greedy else _choose(choosable, requests)
    if all(r.params.logprobs is None for r in requests):
        return [SampledToken(token) for token in tokens]
    return _with_logprobs(logits, requests, tokens)


def _without_banned(logits: torch.Tensor, requests: Seq[SampleRequest]) -> torch.Tensor:
    if not any(r.banned for r in requests):
        return logits
    logits, vocabulary = logits.clone(), logits.shape[-1]
    for row, request in enumerate(requests):
        # Clients name them, and a tokeniser may know more than the model: neither may end a step that others are in.
        banned = {token for token in request.banned if token < vocabulary}
        if 0 < len(banned) < vocabulary:
            logits[row, list(banned)] = -torch.inf
    return logits


def _choose(logits: torch.Tensor, requests: Seq[SampleRequest]) -> list[int]:
    """Group rows by what has to be computed for them; a row's group depends on its own parameters only."""
    vocabulary = logits.shape[-1]
    groups: dict[int, list[int]] = {}
    for row, request in enumerate(requests):
        groups.setdefault(_candidates(request.params, vocabulary), []).append(row)
    tokens = [0] * len(requests)
    for candidates, rows in groups.items():
        part = logits if len(rows) == len(requests) else logits[rows]
        wishes = [requests[row] for row in rows]
        if candidates == 0:
            chosen = part.argmax(-1).tolist()
        elif candidates == vocabulary:
            chosen = _from_all(part, wishes)
        else:
            chosen = _from_top(part, wishes, candidates)
        for row, token in zip(rows, chosen, strict=True):
            tokens[row] = token
    return tokens


def _candidates(params: SamplingParams, vocabulary: int) -> int:
    """Return how many of the most likely tokens have to be sorted: none for greedy, "all" for plain temperature."""
    if params.greedy:
        return 0
    if 0 < params.top_k < vocabulary:
        return params.top_k
    return min(NUCLEUS_CANDIDATES, vocabulary - 1) if params.top_p < 1.0 else vocabulary


def _scaled(logits: torch.Tensor, requests: Seq[SampleRequest]) -> torch.Tensor:
    temperature = torch.tensor([r.params.temperature for r in requests], device=logits.device, dtype=torch.float32)
    return logits / temperature[:, None]


def _draws(requests: Seq[SampleRequest], device: torch.device) -> torch.Tensor:
    numbers = [uniform(r.params.seed, r.position) for r in requests]
    return torch.tensor(numbers, device=device, dtype=torch.float64)[:, None]


def _threshold(mass: torch.Tensor, requests: Seq[SampleRequest]) -> torch.Tensor:
    """Return per row a uniform share of `mass` [rows, 1], less than all of it even after rounding."""
    return torch.minimum(_draws(requests, mass.device) * mass, torch.nextafter(mass, torch.zeros_like(mass)))


def _pick(cumulative: torch.Tensor, mass: torch.Tensor, requests: Seq[SampleRequest]) -> torch.Tensor:
    """Return per row the first column where `cumulative` [rows, n] exceeds a uniform share of `mass` [rows, 1]."""
    return torch.searchsorted(cumulative, _threshold(mass, requests), right=True)


def _from_all(logits: torch.Tensor, requests: Seq[SampleRequest]) -> list[int]:
    """Find the stride of tokens where the draw falls, then the token in it: cheaper than one sum over all tokens."""
    weights = _scaled(logits, requests).softmax(-1)
    if weights.shape[-1] % STRIDE:
        weights = F.pad(weights, (0, STRIDE - weights.shape[-1] % STRIDE))
    strides = weights.view(len(weights), -1, STRIDE)
    cumulative = strides.sum(-1).cumsum(-1, dtype=torch.float64)
    threshold = _threshold(cumulative[:, -1:], requests)
    stride = torch.searchsorted(cumulative, threshold, right=True)
    rows = torch.arange(len(weights), device=weights.device)
    within = strides[rows, stride[:, 0]].double().cumsum(-1)
    # Rounding may leave the stride's own sum a little short of what the strides' sum says.
    left = threshold - cumulative.gather(1, stride) + within[:, -1:]
    left = torch.minimum(left.clamp_(min=0.0), torch.nextafter(within[:, -1:], torch.zeros_like(left)))
    column = torch.searchsorted(within, left, right=True)
    chosen: list[int] = (stride * STRIDE + column)[:, 0].tolist()
    return chosen


def _from_top(logits: torch.Tensor, requests: Seq[SampleRequest], candidates: int) -> list[int]:
    """Top-k first, then top-p of what is left, renormalised: the order that other engines use."""
    scaled = _scaled(logits, requests)
    values, ids = scaled.topk(candidates, -1)
    top_p = torch.tensor([r.params.top_p for r in requests], device=logits.device, dtype=torch.float64)[:, None]
    full = [row for row, r in enumerate(requests) if not 0 < r.params.top_k < scaled.shape[-1]]
    norm = torch.logsumexp(values, -1, keepdim=True)
    if full:  # no top-k: the nucleus is of the whole distribution
        norm[full] = torch.logsumexp(scaled[full], -1, keepdim=True)
    cumulative = (values - norm).exp().cumsum(-1, dtype=torch.float64)
    short = [row for row in full if float(cumulative[row, -1]) < requests[row].params.top_p]
    before = cumulative - (values - norm).exp()
    kept = ((before < top_p).sum(-1, keepdim=True) - 1).clamp_(min=0)
    columns = _pick(cumulative, cumulative.gather(1, kept), requests)
    chosen: list[int] = ids.gather(1, columns)[:, 0].tolist()
    for row in short:
        chosen[row] = _from_sorted(scaled[row], requests[row])
    return chosen


def _from_sorted(scaled: torch.Tensor, request: SampleRequest) -> int:
    """The nucleus of one row, `scaled` [vocabulary], that is wider than the usual candidates."""
    values, ids = torch.sort(scaled, descending=True, stable=True)
    probabilities = torch.softmax(values, -1).double()
    cumulative = probabilities.cumsum(-1)
    kept = max(int((cumulative - probabilities < request.params.top_p).sum()) - 1, 0)
    column = _pick(cumulative[None], cumulative[kept].view(1, 1), [request])
    return int(ids[column[0, 0]])


def _with_logprobs(logits: torch.Tensor, requests: Seq[SampleRequest], tokens: Seq[int]) -> list[SampledToken]:
    """Attach log probabilities of the unmodified distribution (no temperature, no truncation, no bans)."""
    rows = [row for row, r in enumerate(requests) if r.params.logprobs is not None]
    part = torch.log_softmax(logits[rows], -1)
    chosen = part.gather(1, torch.tensor([[tokens[row]] for row in rows], device=part.device))[:, 0].tolist()
    most = min(max(requests[row].params.logprobs or 0 for row in rows), part.shape[-1])
    values, ids = (t.tolist() for t in part.topk(most, -1))
    result = [SampledToken(token) for token in tokens]
    for i, row in enumerate(rows):
        count = requests[row].params.logprobs or 0
        top = tuple(zip(ids[i][:count], values[i][:count], strict=True))
        result[row] = SampledToken(tokens[row], chosen[i], top)
    return result
