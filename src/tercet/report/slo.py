"""What goodput asks of a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tercet.core.errors import UsageError
from tercet.report.figures import milliseconds
from tercet.results.record import RequestRecord

NAMES = ("ttft", "tpot", "e2e")


@dataclass(frozen=True, slots=True)
class Slo:
    """Limits in milliseconds; None asks nothing. `source` says where they come from."""

    ttft_ms: float | None
    tpot_ms: float | None
    e2e_ms: float | None
    source: str


def slo_from_flags(flags: Sequence[str]) -> Slo | None:
    """Read `ttft:500`, `tpot:30`, `e2e:4000` (milliseconds); None of nothing. Raises UsageError."""
    limits: dict[str, float] = {}
    for flag in flags:
        name, _, text = flag.partition(":")
        try:
            limit = float(text)
        except ValueError:
            limit = 0.0
        if name not in NAMES or not 0 < limit < float("inf"):
            raise UsageError(f"--slo {flag!r}: write ttft, tpot or e2e and milliseconds above 0, such as ttft:500")
        limits[name] = limit
    if not limits:
        return None
    return Slo(limits.get("ttft"), limits.get("tpot"), limits.get("e2e"), "as asked")


def slo_text(slo: Slo) -> str:
    """Write what is asked, and where that comes from."""
    limits = (("TTFT", slo.ttft_ms), ("TPOT", slo.tpot_ms), ("E2E", slo.e2e_ms))
    asked = ", ".join(f"{name} within {milliseconds(limit)} ms" for name, limit in limits if limit is not None)
    return f"{asked or 'a whole answer'} ({slo.source})"


def meets(request: RequestRecord, slo: Slo) -> bool:
    """Return whether a request was answered whole and within the SLO; a single token has no TPOT to miss."""
    if not request.ok:
        return False
    asked = ((slo.ttft_ms, request.ttft_ms), (slo.tpot_ms, request.tpot_ms), (slo.e2e_ms, request.e2e_ms))
    return all(limit is None or took is None or took <= limit for limit, took in asked)
