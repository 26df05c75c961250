from __future__ import annotations

import json

import pytest

from tercet.core.errors import RequestError
from tercet.dialects.request import ClientRequest, read_body


def test_an_honest_body_is_sent_as_it_came() -> None:
    raw = b'{"model": "m", "prompt" : "a", "unknown_field": [1, {"x": null}]}'
    body, same = read_body(raw)
    assert same is raw and body["unknown_field"] == [1, {"x": None}]


@pytest.mark.parametrize(
    "field",
    [
        "kv_transfer_params",
        "ec_transfer_params",
        "bootstrap_host",
        "bootstrap_room",
        "data_parallel_rank",
        "routed_dp_rank",
        "disagg_prefill_dp_rank",
        "disaggregated_params",
    ],
)
def test_private_fields_are_stripped_however_they_are_written(field: str) -> None:
    for key in (json.dumps(field), '"' + "".join(f"\\u{ord(c):04x}" for c in field) + '"'):
        raw = f'{{"prompt": "a", {key}: {{"remote_host": "10.0.0.1"}}, {key}: 1, "seed": 4}}'.encode()
        body, sent = read_body(raw)
        assert body == {"prompt": "a", "seed": 4} == json.loads(sent)


@pytest.mark.parametrize("raw", [b"", b"{", b"[1]", b"3", b'"a"', b"\xff\xfe{", b'{"a":' * 5000, b"9" * 5000])
def test_what_is_no_object_is_400(raw: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        read_body(raw)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({}, (False, False, None, 1)),
        ({"stream": True, "stream_options": {"include_usage": True}}, (True, True, None, 1)),
        ({"stream_options": 3, "max_tokens": 5, "n": 2}, (False, False, 5, 2)),
        ({"max_tokens": 5, "max_completion_tokens": 1, "n": "x"}, (False, False, 1, 1)),
    ],
)
def test_what_the_client_wants(body: dict[str, object], wanted: tuple[object, ...]) -> None:
    request = ClientRequest("/v1/completions", body, b"")
    assert (request.stream, request.include_usage, request.max_tokens, request.choices) == wanted
