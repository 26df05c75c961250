"""Whether every mode gave the same answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tercet.results.record import RequestRecord, RunRecord
from tercet.results.verdict import AnswerCheck


def check_answers(runs: Sequence[RunRecord], capital: Mapping[str, str], *, must_agree: bool) -> AnswerCheck:
    """Compare the answers of all runs by rate, run, conversation and turn.

    A turn's prompt holds the earlier answers: after a first difference (in bf16) the later turns differ too.
    """
    digests: dict[tuple[float, int, str, int], dict[str, str]] = {}
    wrong = 0
    for run in runs:
        for request in run.requests:
            wrong += _wrong_length(request)
            if request.ok and request.output_digest is not None:
                key = (run.qps, run.run, request.conversation, request.turn)
                digests.setdefault(key, {})[run.mode] = request.output_digest
    modes = {run.mode for run in runs}
    whole = {key: by_mode for key, by_mode in sorted(digests.items()) if len(by_mode) == len(modes) > 1}
    unequal = [key for key, by_mode in whole.items() if len(set(by_mode.values())) > 1]
    first = None
    if unequal:
        qps, run_number, conversation, turn = unequal[0]
        first = f"turn {turn} of {conversation} (run {run_number + 1}, {qps:g} requests/s)"
    return AnswerCheck(len(whole), len(whole) - len(unequal), wrong, must_agree, dict(capital), first)


def _wrong_length(request: RequestRecord) -> bool:
    """Return true for an answer that came to its end, where the server counts it, with another length than asked."""
    return request.output_tokens not in (0, request.expected_output_tokens)
