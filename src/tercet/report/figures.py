"""How figures are written."""

from __future__ import annotations

from tercet.results.summary import Spread


def milliseconds(value: float) -> str:
    """Write milliseconds with three significant digits, whole ones above 100: `1.23`, `45.6`, `789`, `12345`."""
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def spread_text(spread: Spread | None) -> str:
    """Write `mean / p50 / p99` in milliseconds; a dash for nothing."""
    if spread is None:
        return "-"
    return " / ".join(milliseconds(value) for value in (spread.mean, spread.p50, spread.p99))


def percent(share: float) -> str:
    """Write a share as a percentage; 100 % only when it is whole."""
    text = f"{share * 100:.1f}"
    return "100%" if share == 1 else f"{'99.9' if text == '100.0' else text}%"


def load_text(load_kind: str, load: float) -> str:
    """Write a load: `2 requests/s` or `8 at once`."""
    return f"{load:g} requests/s" if load_kind == "qps" else f"{load:g} at once"
