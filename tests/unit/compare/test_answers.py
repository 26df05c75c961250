"""Which answers are wrong beyond doubt."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tercet.compare.answers import check_answers
from tercet.results.record import RequestRecord

from ..results.samples import request, run

WHOLE = request("c0", 1, 0.1, 0.01, tokens=5)


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        (WHOLE, 0),
        (replace(WHOLE, output_tokens=4, error="4 tokens came, 5 were asked for", failure="wrong_length"), 1),
        (replace(WHOLE, expected_output_tokens=0), 0),
        (replace(WHOLE, output_tokens=2, error="the stream ended without [DONE]", failure="closed"), 0),
        (replace(WHOLE, output_tokens=0, chunk_s=(), error="503", failure="http_5xx"), 0),
    ],
    ids=["as asked", "shorter", "no length was asked", "broken off", "none"],
)
def test_only_an_answer_that_ended_can_be_of_the_wrong_length(answer: RequestRecord, wrong: int) -> None:
    check = check_answers([run("pd", (answer,))], {}, must_agree=False)
    assert (check.lengths_wrong, check.passed) == (wrong, not wrong)
