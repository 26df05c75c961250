"""The verdict in one sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tercet.report.evidence import Evidence
from tercet.report.figures import milliseconds, percent
from tercet.report.metric import TTFT_P50
from tercet.report.spans import GOODPUT, THROUGHPUT, TTFT, Outcome, Span, listed, pick, short_reason, spans
from tercet.results.document import Results
from tercet.results.verdict import Verdict

LONG = 150
"""Characters of one metric's clauses beyond which counts take the place of a list."""

LED = ("wins", "ahead")
OPEN = {"tie": ("a tie", "ties"), "undecided": ("undecided",) * 2, "none": ("not judged",) * 2}
"""Outcomes with one leader, and how one or several settings without are written."""

FEW_SPANS = 4
"""Ranges that a count still lists."""


def headline(results: Results, evidence: Evidence) -> str:
    """Return one sentence on who is first to answer and who does most work; what was seen, where nothing was judged."""
    first = pick(results.verdicts, TTFT)
    if not first:
        return _seen(evidence)
    if not any(verdict.leaders for verdict in first):
        reason = Counter(short_reason(verdict) for verdict in first).most_common(1)[0][0]
        return f"No verdict: {reason}."
    work = pick(results.verdicts, THROUGHPUT)
    throughput = f"; in throughput {_judged(work, details=False)}" if work else ""
    good = pick(results.verdicts, GOODPUT)
    goodput = f"; in goodput {_judged(good, details=False)}" if good else ""
    return f"In time to first token {_judged(first, details=True)}{throughput}{goodput}."


def _judged(verdicts: Sequence[Verdict], *, details: bool) -> str:
    found = spans(verdicts)
    several = len({verdict.workload for verdict in verdicts}) > 1
    whole = _clauses(found, several)
    return whole if len(whole) <= LONG else _counts(found, len(verdicts), details=details)


def _clauses(found: Sequence[Span], several: bool) -> str:
    """Name every range: `replicated wins up to 2 requests/s and ppd wins from 4 requests/s`."""
    clauses = []
    for outcome, mine in _by_outcome(found).items():
        where = [f"in {span.group.workload} {span.where}" if several else span.where for span in mine]
        if len(mine) == len(found) and all(len(span.verdicts) == len(span.loads) for span in mine):
            where = ["in every workload at every load" if several else "at every load"] if len(found) > 1 else where
        clauses.append(f"{_who(outcome)} {listed(where)}")
    return listed(clauses)


def _counts(found: Sequence[Span], total: int, *, details: bool) -> str:
    """Count settings: `replicated wins 14 of 20 settings, ppd wins 2 (W1 at 8 requests/s) and 4 are undecided`."""
    outcomes = _by_outcome(found)
    led = sorted((each for each in outcomes if each.word in LED), key=lambda each: -_size(outcomes[each]))
    clauses: list[tuple[str, int, str]] = []
    for i, outcome in enumerate(led):
        mine = outcomes[outcome]
        listing = ", ".join(f"{span.group.workload} {span.where}" for span in mine)
        more = f" ({listing})" if details and i and len(mine) <= FEW_SPANS else ""
        clauses.append((f"{_who(outcome)} " if outcome.word == "wins" else f"{_who(outcome)} in ", _size(mine), more))
    for word, (one, many) in OPEN.items():
        count = sum(_size(mine) for outcome, mine in outcomes.items() if outcome.word == word)
        if count:
            clauses.append(("", count, f" is {one}" if count == 1 else f" are {many}"))
    of_all = f" of {total} settings"
    return listed([f"{before}{n}{'' if i else of_all}{after}" for i, (before, n, after) in enumerate(clauses)])


def _by_outcome(found: Sequence[Span]) -> dict[Outcome, list[Span]]:
    outcomes: dict[Outcome, list[Span]] = {}
    for span in found:
        outcomes.setdefault(span.outcome, []).append(span)
    return outcomes


def _size(found: Sequence[Span]) -> int:
    return sum(len(span.verdicts) for span in found)


def _who(outcome: Outcome) -> str:
    if outcome.word == "none":
        return "nothing could be judged"
    names = listed(outcome.leaders)
    return {"wins": f"{names} wins", "ahead": f"{names} is ahead", "tie": f"{names} tie"}.get(
        outcome.word, f"{names} are undecided"
    )


def _seen(evidence: Evidence) -> str:
    """Say what one server did: nothing was compared."""
    answered = sum(cell.ok for cell in evidence.cells)
    asked = sum(cell.requests for cell in evidence.cells)
    values = [found.value for cell in evidence.cells if (found := cell.get(TTFT_P50)) is not None]
    if not values:
        return "No request was answered."
    low, high = min(values), max(values)
    span = f"{milliseconds(low)} ms" if low == high else f"{milliseconds(low)} to {milliseconds(high)} ms"
    return (
        f"{listed(evidence.labels)}: {percent(answered / asked)} of {asked} requests answered, median time to first "
        f"token {span}; nothing here was judged against another."
    )
