from __future__ import annotations

import json
from typing import Any

import pytest

from tercet.core.fast_json import loads, loads_answer, spliced, spliced_pieces

LONG = "word " * 20_000
CHANGES: dict[str, bytes | None] = {"max_tokens": b"1", "stream_options": None, "new": b'{"a":[1]}'}


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"max_tokens": 5},
        {"prompt": LONG},
        {"prompt": LONG, "max_tokens": 5, "stream_options": {"include_usage": True}},
        {"model": "m", "max_tokens": 5, "prompt": LONG, "stream": True},
        {"first": LONG, "second": LONG, "ünïcode\n": "ü"},
        {"stream_options": LONG},
        {str(i): i for i in range(1000)},
    ],
)
@pytest.mark.parametrize("separators", [(",", ":"), (" ,\n", " : ")])
@pytest.mark.parametrize("changes", [CHANGES, {}, {"stream_options": None}])
def test_pieces_say_what_the_whole_says_and_copy_nothing_long(
    data: dict[str, Any], separators: tuple[str, str], changes: dict[str, bytes | None]
) -> None:
    raw = json.dumps(data, separators=separators).encode()
    expected = {**data, **{name: None if value is None else json.loads(value) for name, value in changes.items()}}
    expected = {name: value for name, value in expected.items() if changes.get(name, b"") is not None}
    pieces, whole = spliced_pieces(raw, changes), spliced(raw, changes)
    assert pieces is not None and whole is not None
    assert loads(b"".join(pieces)) == loads(whole) == expected
    assert len(pieces) <= 2 * sum(value == LONG for value in expected.values()) + 1
    assert sum(len(piece) for piece in pieces if isinstance(piece, bytes)) < 20_000


def test_what_only_the_standard_library_takes_is_left_to_the_caller() -> None:
    for raw in (b'{"a": NaN', b"[1]"):
        assert spliced(raw, CHANGES) is None
        assert spliced_pieces(raw, CHANGES) is None


def test_json_is_utf_8() -> None:
    assert loads('\ufeff{"a": "ü"}'.encode()) == {"a": "ü"}
    assert loads(b'"\xed\xa0\x80"') == "\ud800"
    for coding in ("utf-16", "utf-16-le", "utf-32"):
        with pytest.raises(ValueError):
            loads('{"a": "ü"}'.encode(coding))


def test_an_answer_that_is_nested_too_deeply_is_no_answer() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        loads_answer(b"[" * 100_000)
