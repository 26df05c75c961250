"""How much an architecture could bear at best, by arithmetic: for leaving out what can't win, and where to look."""

from __future__ import annotations

from collections.abc import Callable

from tercet.plan.architecture import Architecture
from tercet.plan.means import Means, means_of, straight_share
from tercet.plan.question import Question
from tercet.sim.encoding import MAX_BATCH

TINY = 1e-9


def upper_bound(question: Question, architecture: Architecture) -> float:
    """Return requests a second that it can't exceed: no waiting, no interference, batches as large as fit and as the
    limit of TPOT allows. 0 when one request alone already misses a limit."""
    means = means_of(question.traffic)
    oracle = question.devices[architecture.tp].oracle
    scale, slo = question.stack.scale, question.slo
    image_tokens = question.devices[architecture.tp].image_tokens * means.images
    alone = scale * oracle.prefill(1, means.new + image_tokens, means.prefix)
    encode = _encode_ms(question, architecture, means)
    if slo is not None and slo.ttft_ms is not None:
        host = question.stack.image_host_ms if means.images else 0.0
        if alone + host + question.stack.per_request_ms > slo.ttft_ms:
            return 0.0
    batch = _batch(question, architecture, means.context + image_tokens)
    if not batch:
        return 0.0
    prefill = _prefill_ms(question, architecture, means, image_tokens)
    decode = means.output * scale * oracle.decode(batch, means.context + image_tokens) / batch
    sights = 0.0 if architecture.encode else encode
    whole = architecture.whole / (prefill + decode + sights + TINY)
    prompt = prefill + sights + TINY
    threshold = architecture.ppd_threshold
    through_p = 1.0 - (straight_share(question.traffic, threshold) if threshold is not None else 0.0)
    pairs = min(
        architecture.prefill / (through_p * prompt),
        architecture.decode / (decode + TINY),
        (architecture.prefill + architecture.decode) / (prompt + decode),  # whoever computes which prompt
    )
    return 1e3 * min(whole + pairs, _encoders(architecture, encode))


def _encoders(architecture: Architecture, encode_ms: float) -> float:
    return architecture.encode / (encode_ms + TINY) if architecture.encode else float("inf")


def _prefill_ms(question: Question, architecture: Architecture, means: Means, image_tokens: float) -> float:
    """Return what a prompt costs in the best batch: short ones share steps, and the reading of the weights."""
    oracle, tokens = question.devices[architecture.tp].oracle, means.new + image_tokens
    most = int(min(question.caps.max_num_seqs, question.caps.max_num_batched_tokens / max(tokens, 1.0)))
    return question.stack.scale * _each(lambda batch: oracle.prefill(batch, tokens, means.prefix), most)


def _each(step_ms: Callable[[int], float], most: int) -> float:
    """Return the least that each of a batch costs, of batches up to `most`."""
    batches = {max(most, 1), *(1 << i for i in range(max(most, 1).bit_length()))}
    return min(step_ms(batch) / batch for batch in batches)


def _encode_ms(question: Question, architecture: Architecture, means: Means) -> float:
    if not means.images:
        return 0.0
    device = question.stack.scale * _each(question.devices[architecture.tp].oracle.encode, MAX_BATCH)
    host = question.stack.image_host_ms / max(question.stack.image_host_workers, 1)
    return means.images * max(device, host)


def _batch(question: Question, architecture: Architecture, context: float) -> int:
    """Return the largest batch that fits and decodes within the limit."""
    oracle, slo = question.devices[architecture.tp].oracle, question.slo
    fits = int(min(question.caps.max_num_seqs, oracle.kv_capacity() / max(context, 1.0)))
    limit = None if slo is None or slo.tpot_ms is None else slo.tpot_ms
    if limit is None:
        return max(fits, 0)
    low, high = 0, max(fits, 0)
    while low < high:
        middle = (low + high + 1) // 2
        if question.stack.scale * oracle.decode(middle, context) <= limit:
            low = middle
        else:
            high = middle - 1
    return low
