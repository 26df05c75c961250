from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.core.fast_json import LONG_BYTES, loads
from tercet.dialects.handoff import prefill_body, prefill_json, split_ticket, with_ticket
from tercet.dialects.request import ClientRequest, dump
from tests.unit.dialects.samples import TICKET

ANSWER = {"id": "x", "choices": [{"text": 'é " {', "finish_reason": "length"}]}
KEY = "kv_transfer_params"


@pytest.mark.parametrize(
    "data",
    [
        {**ANSWER, KEY: TICKET},
        {KEY: TICKET, **ANSWER},
        {"id": "x", KEY: TICKET, "usage": {"prompt_tokens": 1}, "last": "}"},
        {**ANSWER, "choices": [{"text": json.dumps({KEY: {"a": 1}})}], KEY: TICKET},
    ],
)
@pytest.mark.parametrize(
    "style", [{"indent": 3}, {"separators": (",", ":")}, {"separators": (" ,", " : ")}, {"ensure_ascii": False}]
)
def test_the_ticket_is_taken_out_wherever_it_stands(data: dict[str, Any], style: dict[str, Any]) -> None:
    answer, ticket = split_ticket(json.dumps(data, **style).encode())
    assert ticket is not None and ticket.params == TICKET == json.loads(ticket.raw)
    assert answer == {key: value for key, value in data.items() if key != KEY}


@pytest.mark.parametrize("params", [{"{": 1}, {"a": "{"}, {"a": '\\"{', "b": {"c": 2}}, {"a": "}", "b": [{}]}])
@pytest.mark.parametrize("rest", [{}, {"a": {"}": 1}}, {"a": "}"}, {"a": "}}", "b": {"{": "}"}}])
def test_braces_in_texts_end_no_ticket(params: dict[str, Any], rest: dict[str, Any]) -> None:
    answer, ticket = split_ticket(json.dumps({"id": "x", KEY: params, **rest}).encode())
    assert ticket is not None and json.loads(ticket.raw) == params and answer == {"id": "x", **rest}


@pytest.mark.parametrize(
    "data",
    [
        ANSWER,
        {**ANSWER, KEY: None},
        {**ANSWER, KEY: {}},
        {**ANSWER, KEY: "x"},
        {**ANSWER, "choices": [{KEY: {"nested": 1}}]},
        {**ANSWER, "text": json.dumps({KEY: {"a": 1}})},
    ],
)
def test_no_ticket(data: dict[str, Any]) -> None:
    answer, ticket = split_ticket(json.dumps(data).encode())
    assert ticket is None
    assert answer == {key: value for key, value in data.items() if key != KEY}


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b'{"kv_transfer_params":', b'{"kv_transfer_params":{}', b"\xff"])
def test_what_is_no_answer(body: bytes) -> None:
    with pytest.raises(ValueError):
        split_ticket(body)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text(max_size=5), values, max_size=4),
    st.dictionaries(st.text(max_size=5), values, min_size=1, max_size=4),
    st.integers(0, 4),
    st.sampled_from([None, 2]),
)
def test_ticket_and_body_come_back_as_they_went(
    body: dict[str, Any], params: dict[str, Any], place: int, indent: int | None
) -> None:
    items = list(body.items())
    data = dict([*items[:place], (KEY, params), *items[place:]])
    answer, ticket = split_ticket(json.dumps(data, indent=indent).encode())
    assert ticket is not None and (answer, ticket.params) == (body, params)
    request = json.dumps(body, indent=indent).encode() + b" \n"
    assert json.loads(with_ticket(request, ticket)) == {**body, KEY: params}


LIMITS = ("max_tokens", "max_completion_tokens", "min_tokens", "n", "best_of", "stream", "stream_options")
LIMIT = st.none() | st.integers(-1, 99) | st.booleans() | st.text(max_size=2) | st.floats(allow_nan=True)


@given(
    st.dictionaries(st.text(max_size=5), values, max_size=4),
    st.dictionaries(
        st.sampled_from(LIMITS),
        LIMIT,
        max_size=7,
    ),
    st.sampled_from([None, 2]),
    st.sampled_from([{}, {"prompt": "é" * LONG_BYTES}]),
)
def test_a_prefill_is_spliced_to_what_it_would_be_written_as(
    body: dict[str, Any], limits: dict[str, Any], indent: int | None, long: dict[str, Any]
) -> None:
    raw = json.dumps({**long, **body, **limits}, indent=indent).encode()
    request = ClientRequest("/v1/completions", json.loads(raw), raw)
    assert loads(prefill_json(request)) == loads(dump(prefill_body(json.loads(raw))))


def test_a_prefill_copies_the_prompt_as_it_stands() -> None:
    raw = b'{"prompt" : "\\u00e9\\ud800" , "max_tokens":7}'
    sent = prefill_json(ClientRequest("/v1/completions", json.loads(raw), raw))
    assert sent.startswith(b'{"prompt":"\\u00e9\\ud800","max_tokens":1,') and json.loads(sent)["n"] == 1
