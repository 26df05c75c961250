"""Where one request's time went, hop by hop, from what servers call their phases."""

from __future__ import annotations

from tercet.results.record import RequestRecord

QUEUE, ENCODE, PREFILL, HANDOFF, OTHER, DECODE = "queue", "encode", "prefill", "handoff", "other", "decode"
HOPS = (QUEUE, ENCODE, PREFILL, HANDOFF, OTHER, DECODE)
"""In the order a request meets them; `other` is what no server accounts for before the first token."""

_ENCODING = ("e-", "image-")
_PREFILLING = "p-"
_NAMES = {"queue": QUEUE, "encode": ENCODE, "prefill": PREFILL, "transfer": HANDOFF, "handoff": HANDOFF}


def hops_of(request: RequestRecord) -> dict[str, float]:
    """Return milliseconds by hop of an answered request; empty when its servers told nothing.

    Decoding is from the first token to the last. Everything else is before the first token: what the encode worker
    (`e-`), the prefill worker (`p-`) and the decode worker say of themselves, and `other` for the rest of TTFT. A leg
    as a whole (`prefill-leg`) holds phases that are counted already.
    """
    found = dict.fromkeys(HOPS, 0.0)
    for name, value in request.phases_ms.items():
        hop = ENCODE if name.startswith(_ENCODING) else _NAMES.get(name.removeprefix(_PREFILLING))
        if hop is not None:
            found[hop] += value
    if not any(found.values()):
        return {}
    found[OTHER] = max(0.0, request.ttft_ms - sum(found.values()))
    found[DECODE] = request.e2e_ms - request.ttft_ms
    return found
