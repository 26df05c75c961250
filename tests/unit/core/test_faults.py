from __future__ import annotations

from tercet.core.faults import whence


def inner() -> None:
    int("what a client sent")


def test_types_and_places_are_told_of_the_whole_chain_and_no_words() -> None:
    try:
        try:
            inner()
        except ValueError as error:
            raise KeyError("what a client sent") from error
    except KeyError as error:
        said = whence(error)
    lines = said.splitlines()
    assert lines[0] == "builtins.KeyError" and "after builtins.ValueError" in lines
    assert lines[-1].endswith("in inner") and __file__ in lines[-1]
    assert "client" not in said


def test_a_hidden_cause_stays_hidden_and_a_circle_ends() -> None:
    try:
        try:
            inner()
        except ValueError:
            raise KeyError from None
    except KeyError as error:
        assert "ValueError" not in whence(error)
    one, other = ValueError(), KeyError()
    one.__cause__, other.__cause__ = other, one
    assert whence(one).splitlines() == ["builtins.ValueError", "after builtins.KeyError"]
