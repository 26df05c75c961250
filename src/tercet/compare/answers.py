"""Whether every architecture gave the same answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tercet.results.record import RequestRecord, RunRecord
from tercet.results.verdict import AnswerCheck


def check_answers(runs: Sequence[RunRecord], capital: Mapping[str, str], *, must_agree: bool) -> AnswerCheck:
    """Compare the answers of all runs by traffic, block, conversation and turn.

    A turn's prompt holds the earlier answers: after a first difference (in bf16) the later turns differ too.
    """
    digests: dict[tuple[str, float, int, str, int], dict[str, str]] = {}
    wrong = 0
    for run in runs:
        for request in run.requests:
            wrong += _wrong_length(request)
            if request.ok and request.output_digest is not None:
                key = (run.workload, run.load, run.block, request.conversation, request.turn)
                digests.setdefault(key, {})[run.architecture] = request.output_digest
    labels = {run.architecture for run in runs}
    whole = {key: by_label for key, by_label in sorted(digests.items()) if len(by_label) == len(labels) > 1}
    unequal = [key for key, by_label in whole.items() if len(set(by_label.values())) > 1]
    first = None
    if unequal:
        workload, load, block, conversation, turn = unequal[0]
        first = f"turn {turn} of {conversation} ({workload} at {load:g}, block {block + 1})"
    return AnswerCheck(len(whole), len(whole) - len(unequal), wrong, must_agree, dict(capital), first)


def _wrong_length(request: RequestRecord) -> bool:
    """Return true for an answer that came to its end, where the server counts it, with another length than asked.

    Of a server that takes no `ignore_eos` no length is asked (0): an answer may end sooner. One that broke off is a
    failure of its own kind.
    """
    if not request.expected_output_tokens or not (request.ok or request.failure == "wrong_length"):
        return False
    return request.output_tokens not in (0, request.expected_output_tokens)
