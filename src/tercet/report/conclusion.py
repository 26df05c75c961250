"""The outcome in plain sentences: does disaggregation pay, does append-prefill, and where did the prefix come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tercet.core.stage import Mode
from tercet.report.figures import milliseconds, percent, turns_text
from tercet.results.document import Results
from tercet.results.record import RunRecord
from tercet.results.summary import ModeSummary
from tercet.results.verdict import AnswerCheck, Verdict

DISAGGREGATED = frozenset({Mode.PD, Mode.PPD})
"""Modes whose first turns prefill on one worker and decode on another."""

BUSY_SHARE = 0.1
"""Other programs' share of all cores above which a reader is warned."""


def conclusions(results: Results) -> list[str]:
    """Return the sentences that end a report, in order of weight."""
    lines = busy_lines(results)
    for qps in sorted({verdict.qps for verdict in results.verdicts}):
        here = {verdict.metric: verdict for verdict in results.verdicts if verdict.qps == qps}
        lines += _does_it_pay(qps, here["E2E"])
        later = here.get(f"TTFT {turns_text(results.traffic.turns)}")
        if later is not None:
            lines += _does_append_prefill_pay(qps, later)
    lines += [line for summary in results.summaries for line in _own_cache(summary)]
    lines += detour_lines(results.runs)
    if results.answers is not None:
        lines += answer_lines(results.answers)
    lines += failure_lines(results.runs)
    return [*lines, *unequal_lines(results.summaries), *results.notes]


def _does_it_pay(qps: float, verdict: Verdict) -> list[str]:
    split = [mode for mode in verdict.values if mode in DISAGGREGATED]
    whole = [mode for mode in verdict.values if mode not in DISAGGREGATED]
    at = f"At {qps:g} requests/s"
    if not verdict.leaders:
        return [f"{at} there is no verdict on E2E: {verdict.reason}."]
    if not split or not whole:
        return []
    best_split, best_whole = (min(modes, key=lambda mode: verdict.values[mode]) for modes in (split, whole))
    here, there = verdict.values[best_split], verdict.values[best_whole]
    figures = f"{best_split} answers in {milliseconds(here)} ms (E2E), {best_whole} in {milliseconds(there)} ms"
    if DISAGGREGATED.isdisjoint(verdict.leaders):
        return [f"{at} disaggregation LOSES: {figures}, {percent(here / there - 1)} longer on the same work."]
    if DISAGGREGATED.issuperset(verdict.leaders):
        return [f"{at} disaggregation pays: {figures}, which is {percent(there / here - 1)} longer."]
    return [f"{at} it is a tie whether disaggregation pays: {figures}, within the noise ({verdict.basis})."]


def _does_append_prefill_pay(qps: float, verdict: Verdict) -> list[str]:
    pd, ppd = verdict.values.get(Mode.PD), verdict.values.get(Mode.PPD)
    if pd is None or ppd is None or not verdict.leaders or not pd:
        return []
    change = f"{milliseconds(ppd)} ms under ppd, {milliseconds(pd)} ms under pd ({(ppd / pd - 1) * 100:+.0f}%)"
    leading = {Mode.PD, Mode.PPD}.intersection(verdict.leaders)
    sure = {0: "both behind the best", 1: "beyond the noise", 2: "within the noise"}[len(leading)]
    return [f"At {qps:g} requests/s the first token of later turns takes {change}, {sure} ({verdict.basis})."]


def _own_cache(summary: ModeSummary) -> list[str]:
    later = [turn for turn in summary.turns if turn.turn is not None and turn.turn > 1]
    known = [turn for turn in later if turn.cached_tokens is not None]
    prompt = sum(turn.prompt_tokens for turn in known)
    if not prompt:
        return []
    cached = sum(turn.cached_tokens or 0 for turn in known)
    moved = sum(turn.external_tokens or 0 for turn in known)
    owner = "D's own prefix cache" if summary.mode in DISAGGREGATED else "the worker's own prefix cache"
    line = f"Under {summary.mode} at {summary.qps:g} requests/s {owner} held {percent(cached / prompt)} of the prompt"
    rest = f", {percent(moved / prompt)} came by transfer" if summary.mode in DISAGGREGATED else ""
    lines = [f"{line} on later turns ({cached} of {prompt} tokens{rest})."]
    recomputed = sum(turn.recomputed for turn in summary.turns)
    if recomputed:
        lines.append(f"Under {summary.mode} {recomputed} answers had to be recomputed: their ticket could not be used.")
    return lines


def detour_lines(runs: Sequence[RunRecord]) -> list[str]:
    """Say how many later turns of ppd went through a prefill worker after all."""
    later = [request for run in runs if run.mode == Mode.PPD for request in run.requests if request.turn > 1]
    detours = sum(">" in (request.route or "") for request in later)
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
    wrong = {mode: answer for mode, answer in check.capital.items() if "paris" not in answer.lower()}
    lines += [f"WRONG: asked for the capital of France, {mode} answered {answer!r}." for mode, answer in wrong.items()]
    if check.capital and not wrong:
        lines.append(f"Asked for the capital of France, {', '.join(check.capital)} answered Paris.")
    if not check.compared:
        return lines
    agree = f"{check.equal} of {check.compared} answers have the same tokens in every mode"
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
            worst[run.mode] = max(worst.get(run.mode, 0.0), run.foreign_cores)
    if max(worst.values(), default=0.0) < BUSY_SHARE * cores:
        return []
    shares = ", ".join(f"{share:.1f} under {mode}" for mode, share in worst.items())
    return [
        f"WARNING: other programs took up to {shares} of this machine's {cores} cores. That slows the modes unequally: "
        "trust no verdict before a repetition on a quiet machine."
    ]


def failure_lines(runs: Sequence[RunRecord]) -> list[str]:
    """Say how many requests failed in each mode, and the most frequent reason."""
    lines = []
    for mode in dict.fromkeys(run.mode for run in runs):
        requests = [request for run in runs if run.mode == mode for request in run.requests]
        reasons = Counter(request.error or "an empty answer" for request in requests if not request.ok)
        if reasons:
            failed, (reason, _) = reasons.total(), reasons.most_common(1)[0]
            lines.append(f"Under {mode} {failed} of {len(requests)} requests failed, most often with: {reason}")
    return lines


def unequal_lines(summaries: Sequence[ModeSummary]) -> list[str]:
    """Warn when modes had unequal devices."""
    devices = {summary.mode: summary.devices for summary in summaries}
    if len(set(devices.values())) < 2:
        return []
    counts = ", ".join(f"{mode} {count}" for mode, count in devices.items())
    return [
        f"The modes had unequal devices ({counts}): throughput is compared per device; latencies are not comparable so."
    ]
