"""What goodput asks of a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tercet.core.errors import UsageError
from tercet.results.record import RequestRecord

NAMES = ("ttft", "tpot", "e2e")


@dataclass(frozen=True, slots=True)
class Slo:
    """Limits in milliseconds; None asks nothing."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None

    def met_by(self, request: RequestRecord) -> bool:
        """Return whether a request was answered whole and within the limits; a single token has no TPOT to miss."""
        if not request.ok:
            return False
        asked = ((self.ttft_ms, request.ttft_ms), (self.tpot_ms, request.tpot_ms), (self.e2e_ms, request.e2e_ms))
        return all(limit is None or took is None or took <= limit for limit, took in asked)

    def __str__(self) -> str:
        """Write it as `slo_from_flags` reads it, with blanks between."""
        limits = zip(NAMES, (self.ttft_ms, self.tpot_ms, self.e2e_ms), strict=True)
        return " ".join(f"{name}:{limit:g}" for name, limit in limits if limit is not None)


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
        if f"{name}_ms" in limits:
            raise UsageError(f"--slo gives {name} two limits: give each one alone")
        limits[f"{name}_ms"] = limit
    return Slo(**limits) if limits else None
