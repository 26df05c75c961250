"""The outcome in plain sentences: does disaggregation pay, does append-prefill, and where did the prefix come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set

from tercet.core.stage import Mode
from tercet.report.figures import milliseconds, percent
from tercet.report.place import Place
from tercet.results.curve import RatioCurve
from tercet.results.document import Results
from tercet.results.record import RunRecord
from tercet.results.summary import Summary
from tercet.results.verdict import DROPPED, AnswerCheck, Verdict

DISAGGREGATED = frozenset({"pd", "ppd", "epd", "eppd"})
"""Modes whose first turns prefill on one worker and decode on another."""

FEW_PLACES = 3
"""Up to so many loads have sentences of their own; of more, tables and pictures tell."""

BUSY_SHARE = 0.1
"""Other programs' share of all cores above which a reader is warned."""


def conclusions(results: Results) -> list[str]:
    """Return the sentences that end a report, in order of weight."""
    lines = busy_lines(results)
    modes = {record.label: record.mode for record in results.architectures}
    several = len(results.traffics) > 1
    few = len({Place.of(verdict) for verdict in results.verdicts}) <= FEW_PLACES
    for verdict in results.verdicts if few else ():
        at = f"At {Place.of(verdict).title(several)}"
        if verdict.metric == "e2e":
            lines += _does_it_pay(at, verdict, modes)
        elif verdict.metric == "ttft_later":
            lines += _does_append_prefill_pay(at, verdict, modes, results.curves)
    lines += _own_cache_lines(results.summaries, several)
    lines += detour_lines(results.runs)
    if results.answers is not None:
        lines += answer_lines(results.answers)
    lines += failure_lines(results.runs)
    return [*lines, *unequal_lines(results.summaries), *results.notes]


def _does_it_pay(at: str, verdict: Verdict, modes: Mapping[str, str]) -> list[str]:
    split = [label for label in verdict.values if modes.get(label) in DISAGGREGATED]
    whole = [label for label in verdict.values if modes.get(label) not in DISAGGREGATED]
    if not verdict.leaders:
        return [f"{at} there is no verdict on E2E: {verdict.reason}."]
    if not split or not whole:
        return []
    dropped = _dropped(verdict)
    fit_split, fit_whole = ([label for label in labels if label not in dropped] for labels in (split, whole))
    if not fit_split:
        return [f"{at} disaggregation LOSES: {' and '.join(split)} answered fewer requests."]
    if not fit_whole:
        return [f"{at} disaggregation pays: {' and '.join(whole)} answered fewer requests."]
    best_split, best_whole = (min(labels, key=lambda label: verdict.values[label]) for labels in (fit_split, fit_whole))
    here, there = verdict.values[best_split], verdict.values[best_whole]
    figures = f"{best_split} answers in {milliseconds(here)} ms (E2E), {best_whole} in {milliseconds(there)} ms"
    if set(split).isdisjoint(verdict.leaders):
        return [f"{at} disaggregation LOSES: {figures}, {percent(here / there - 1)} longer on the same work."]
    if set(split).issuperset(verdict.leaders):
        return [f"{at} disaggregation pays: {figures}, which is {percent(there / here - 1)} longer."]
    word = "a tie" if verdict.tied else "undecided"
    return [f"{at} it is {word} whether disaggregation pays: {figures} ({verdict.basis})."]


def _does_append_prefill_pay(
    at: str, verdict: Verdict, modes: Mapping[str, str], curves: Sequence[RatioCurve]
) -> list[str]:
    by_mode = {modes.get(label): label for label in verdict.values}
    labels = by_mode.get(Mode.PD), by_mode.get(Mode.PPD)
    if labels[0] is None or labels[1] is None or not verdict.leaders:
        return []
    pd, ppd = (verdict.values[label] for label in labels if label is not None)
    change = f"{milliseconds(ppd)} ms under ppd, {milliseconds(pd)} ms under pd ({(ppd / pd - 1) * 100:+.0f}%)"
    sure = _sure(verdict, set(labels), curves)
    return [f"{at} the first token of later turns takes {change}, {sure} ({verdict.basis})."]


def _sure(verdict: Verdict, pair: Set[str | None], curves: Sequence[RatioCurve]) -> str:
    """Say how sure the difference of a pair is: by its own ratio, since a verdict compares each with the best alone."""
    if fewer := sorted(_dropped(verdict) & pair):
        return f"and {' and '.join(fewer)} answered fewer requests"
    for curve in curves:
        if (curve.workload, curve.load_kind, curve.metric) != (verdict.workload, verdict.load_kind, verdict.metric):
            continue
        if {curve.first, curve.second} == pair:
            for point in curve.points:
                if point.load == verdict.load:
                    return "beyond the noise" if point.low > 1 or point.high < 1 else "within the noise"
    leading = len(pair & set(verdict.leaders))
    return {0: "both behind the best", 1: "beyond the noise", 2: "within the noise"}[leading]


def _dropped(verdict: Verdict) -> Set[str]:
    """Return those that can't win since they answered fewer requests: the rest may have been fast for that."""
    return {margin.architecture for margin in verdict.margins if margin.outcome == DROPPED}


def _own_cache_lines(summaries: Sequence[Summary], several: bool) -> list[str]:
    """Say what the decoding worker's cache held, over all loads of a workload."""
    lines = []
    for workload, label in dict.fromkeys((summary.workload, summary.architecture) for summary in summaries):
        mine = [s for s in summaries if (s.workload, s.architecture) == (workload, label)]
        where = f"Under {label} in {workload}" if several else f"Under {label}"
        lines += _own_cache(where, mine)
    return lines


def _own_cache(where: str, summaries: Sequence[Summary]) -> list[str]:
    turns = [turn for summary in summaries for turn in summary.turns]
    known = [t for t in turns if t.turn is not None and t.turn > 1 and t.cached_tokens is not None]
    prompt = sum(turn.prompt_tokens for turn in known)
    if not prompt:
        return []
    cached = sum(turn.cached_tokens or 0 for turn in known)
    moved = sum(turn.external_tokens or 0 for turn in known)
    split = summaries[0].mode in DISAGGREGATED
    owner = "D's own prefix cache" if split else "the worker's own prefix cache"
    rest = f", {percent(moved / prompt)} came by transfer" if split else ""
    share = percent(cached / prompt)
    lines = [f"{where} {owner} held {share} of the prompt on later turns ({cached} of {prompt} tokens{rest})."]
    recomputed = sum(turn.recomputed for turn in turns)
    if recomputed:
        lines.append(f"{where} {recomputed} answers had to be recomputed: their ticket could not be used.")
    return lines


def detour_lines(runs: Sequence[RunRecord]) -> list[str]:
    """Say how many later turns of ppd went through a prefill worker after all."""
    routes = [(request.turn, request.route) for run in runs if run.mode == Mode.PPD for request in run.requests]
    later = [route for turn, route in routes if turn > 1 and route is not None]  # a turn that was never sent took none
    detours = sum(">" in route for route in later)
    if not detours:
        return []
    return [
        f"Under ppd {detours} of {len(later)} later turns went through P after all: D no longer held their prefix, or "
        "they brought as many uncached tokens as --ppd-threshold says."
    ]


def answer_lines(check: AnswerCheck) -> list[str]:
    """Say whether the answers were right and equal."""
    lines = []
    if check.lengths_wrong:
        lines.append(f"WRONG: {check.lengths_wrong} answers were not as long as asked.")
    wrong = {label: answer for label, answer in check.capital.items() if "paris" not in answer.lower()}
    lines += [
        f"WRONG: asked for the capital of France, {label} answered {answer!r}." for label, answer in wrong.items()
    ]
    if check.capital and not wrong:
        lines.append(f"Asked for the capital of France, {', '.join(check.capital)} answered Paris.")
    if not check.compared:
        return lines
    agree = f"{check.equal} of {check.compared} answers have the same tokens in every architecture"
    if check.equal == check.compared:
        return [*lines, f"{agree}."]
    where = f" First difference: {check.first_difference}." if check.first_difference else ""
    if check.must_agree:
        return [*lines, f"WRONG: only {agree}, and in fp32 all must.{where}"]
    return [*lines, f"{agree}; in bf16 another batch may round differently.{where}"]


def busy_lines(results: Results) -> list[str]:
    """Warn when other programs took a share of the machine that can decide a verdict."""
    cores = results.machine.cores
    worst: dict[str, float] = {}
    for run in results.runs:
        if run.foreign_cores is not None:
            worst[run.architecture] = max(worst.get(run.architecture, 0.0), run.foreign_cores)
    if max(worst.values(), default=0.0) < BUSY_SHARE * cores:
        return []
    shares = ", ".join(f"{share:.1f} under {label}" for label, share in worst.items())
    return [
        f"WARNING: other programs took up to {shares} of this machine's {cores} cores. That slows "
        "architectures unequally: trust no verdict before a repetition on a quiet machine."
    ]


def failure_lines(runs: Sequence[RunRecord]) -> list[str]:
    """Say how many requests failed in each architecture, and the most frequent reason."""
    lines = []
    for label in dict.fromkeys(run.architecture for run in runs):
        requests = [request for run in runs if run.architecture == label for request in run.requests]
        reasons = Counter(request.error or "an empty answer" for request in requests if not request.ok)
        if reasons:
            failed, (reason, _) = reasons.total(), reasons.most_common(1)[0]
            lines.append(f"Under {label} {failed} of {len(requests)} requests failed, most often with: {reason}")
    return lines


def unequal_lines(summaries: Sequence[Summary]) -> list[str]:
    """Warn when architectures had unequal devices."""
    devices = {summary.architecture: summary.devices for summary in summaries}
    if len(set(devices.values())) < 2:
        return []
    counts = ", ".join(f"{label} {count}" for label, count in devices.items())
    return [
        f"The architectures had unequal devices ({counts}): throughput is compared per "
        "device; latencies are not comparable so."
    ]
