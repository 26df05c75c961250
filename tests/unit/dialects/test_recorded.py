"""Every recorded exchange once more: the same legs, field by field, and the same answer for the client."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from tercet.dialects.protocol import Failure, Leg, Legs, Reply, Step
from tercet.dialects.usage import Usage, failed, find_usage, read_usage
from tests.unit.dialects.recording import FOLDER, Case, answer_of, begun, load, streamed, told, written

NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
CASES = [pytest.param(case, id=f"{name}: {case['name']}") for name in NAMES for case in load(name)]


@pytest.mark.parametrize("case", CASES)
def test_a_recorded_exchange(case: Case) -> None:
    exchange = begun(case)
    waiting: list[Leg] = list(exchange.start().legs)
    seen: dict[str, Any] | None = None
    for entry in case["legs"]:
        # Of legs that go side by side the answers come in any order.
        leg = next((leg for leg in waiting if written(leg)["url"] == entry["sent"]["url"]), waiting[0])
        assert written(leg) == entry["sent"]
        waiting.remove(leg)
        answer = answer_of(entry["answer"])
        if leg.streams and answer.status == 200:
            assert not failed(answer.body)
            assert find_usage(answer.body) == stream_usage(entry["answer"]["events"])
            seen = streamed(leg, answer)
            continue
        step = exchange.on_answer(leg, answer)
        if isinstance(step, Legs):
            waiting += step.legs
        else:
            seen = client_of(step)
    assert seen == case["client"]
    assert [written(leg) for leg in waiting] == case.get("cancelled", []), "with the first failure all others end"
    assert [written(leg) for leg in exchange.on_exit(accepted=False)] == case["release"]


def client_of(step: Step) -> dict[str, Any]:
    if isinstance(step, Reply):
        said = {"early": step.early, **told(step.status, step.body)}
        assert step.content_type == ("text/event-stream" if "events" in said else "application/json")
        return said
    assert isinstance(step, Failure)
    return {"status": step.error.status, "code": step.error.code, "retry": step.retry, "rank": step.rank.letter}


def stream_usage(events: list[Any]) -> Usage | None:
    return next((found for event in reversed(events) if (found := read_usage(event.get("usage")))), None)


@pytest.mark.parametrize("name", NAMES)
def test_every_dialect_is_recorded_streamed_and_not_chats_and_completions(name: str) -> None:
    kinds = Counter((case["path"].rpartition("/v1/")[2], bool(case["body"].get("stream"))) for case in load(name))
    assert set(kinds) == {(path, stream) for path in ("chat/completions", "completions") for stream in (False, True)}
    assert len({case["name"] for case in load(name)}) == len(load(name))


def usages(said: dict[str, Any]) -> list[dict[str, Any]]:
    answers = [said["json"]] if "json" in said else said.get("events", [])
    return [answer["usage"] for answer in answers if answer.get("usage")]


def of_prompt(usage: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """What a usage says of the prompt: in a stream what is null is left out."""
    details = usage["prompt_tokens_details"] or {}
    return usage["prompt_tokens"], {name: value for name, value in details.items() if value is not None}


def sees(case: Case) -> Any:
    """What the client sees of a case: a stream that is passed on is its last leg's answer."""
    return case["client"] or case["legs"][-1]["answer"]


@pytest.mark.parametrize("case", CASES)
def test_nothing_of_the_handoff_reaches_the_client(case: Case) -> None:
    text = json.dumps(sees(case))
    asked = json.dumps(case["body"])
    for private in ("remote_block_ids", "do_remote", "bootstrap_", 'disaggregated_params": {', 'prompt_token_ids": ['):
        assert private not in text or private in asked


@pytest.mark.parametrize("case", CASES)
def test_usage_says_of_the_prompt_what_who_computed_it_said(case: Case) -> None:
    computed = [entry for entry in case["legs"] if entry["sent"]["url"].startswith("POST http://p:")]
    first = computed[0] if computed else case["legs"][-1]
    said = sees(case)
    theirs = list(map(of_prompt, usages(first["answer"])))
    assert list(map(of_prompt, usages(said))) in ([], theirs)
