from __future__ import annotations

from typing import Any

import pytest

from tercet.core.sampling import SampledToken
from tercet.engine.models.store import random_model_folder
from tercet.text.tokenizer import Tokenizer, load_tokenizer
from tercet.worker.choice import Choice, Piece, chat_logprobs, completion_logprobs
from tercet.worker.openai_request import parse_generation


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(random_model_folder("tiny").path)


def make(tokenizer: Tokenizer, **fields: Any) -> Choice:
    body = {"prompt": "p", "max_tokens": 50, "stream": True, **fields}
    return Choice(0, parse_generation(body, chat=False, tokenizer=tokenizer, max_model_len=100), tokenizer)


def feed(choice: Choice, tokens: list[int], finish: str = "length") -> list[Piece]:
    """Push all tokens, the last with the engine's end; return the pieces a stream would send."""
    pieces = []
    for token in tokens[:-1]:
        if choice.push_detailed(SampledToken(token, -1.0, ((token, -1.0),))):
            pieces.append(choice.take())
            if choice.finish_reason is not None:
                return pieces
    choice.end(finish, SampledToken(tokens[-1], -1.0, ()))
    return [*pieces, choice.take()]


def test_pieces_join_to_the_text_and_carry_every_token(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("Grüße, 世界 🎉!")
    pieces = feed(make(tokenizer), tokens)
    assert "".join(p.text for p in pieces) == "Grüße, 世界 🎉!"
    assert [t for p in pieces for t in p.tokens] == tokens
    assert all(p.text for p in pieces) and "\ufffd" not in "".join(p.text for p in pieces)
    assert [p.first for p in pieces] == [True] + [False] * (len(pieces) - 1)
    assert [p.finish_reason for p in pieces][-2:] == [None, "length"]


def test_text_is_decoded_at_the_end_when_nobody_wants_it_earlier(tokenizer: Tokenizer) -> None:
    choice = make(tokenizer, stream=False)
    tokens = tokenizer.encode("later")
    assert not any(choice.push(token) for token in tokens[:-1])
    assert not choice.unshown
    choice.end("length", SampledToken(tokens[-1]))
    assert choice.unshown and choice.take().text == "later" and not choice.unshown


def test_the_end_of_text_token_is_no_text(tokenizer: Tokenizer) -> None:
    eos = min(tokenizer.eos_token_ids)
    for stream in (False, True):
        choice = make(tokenizer, stream=stream, skip_special_tokens=False)
        (*_, last) = feed(choice, [*tokenizer.encode("ab"), eos], "stop")
        assert choice.tokens[-1] == eos and choice.stop_reason is None
        assert last.finish_reason == "stop" and "".join(p for p in last.text) in ("", "ab")


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings(tokenizer: Tokenizer, stream: bool) -> None:
    choice = make(tokenizer, stop=["lo W", "zzz"], stream=stream)
    pieces = feed(choice, tokenizer.encode("Hello World"))
    assert "".join(p.text for p in pieces) == "Hel"
    assert (choice.finish_reason, choice.stop_reason) == ("stop", "lo W")
    assert len(choice.tokens) == len("Hello W")


def test_what_might_begin_a_stop_comes_out_at_the_end(tokenizer: Tokenizer) -> None:
    pieces = feed(make(tokenizer, stop="lox"), tokenizer.encode("Hello"))
    assert "".join(p.text for p in pieces) == "Hello" and pieces[-1].finish_reason == "length"


def test_an_unfinished_character_at_the_end(tokenizer: Tokenizer) -> None:
    pieces = feed(make(tokenizer), tokenizer.encode("é")[:1])
    assert pieces[-1].text == "\ufffd"


def test_stop_strings_wait_for_min_tokens(tokenizer: Tokenizer) -> None:
    choice = make(tokenizer, stop="a", min_tokens=3)
    pieces = feed(choice, tokenizer.encode("aabba!"))
    assert "".join(p.text for p in pieces) == "aabb" and choice.stop_reason == "a"


def test_a_stop_token_names_itself_unless_it_is_the_models_own(tokenizer: Tokenizer) -> None:
    eos = min(tokenizer.eos_token_ids)
    for token, ignore_eos, reason in ((70, False, 70), (eos, False, None), (eos, True, eos)):
        choice = make(tokenizer, stop_token_ids=[70, eos], ignore_eos=ignore_eos)
        feed(choice, [65, token], "stop")
        assert choice.stop_reason == reason


def test_logprobs_go_with_their_text(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("aé!")
    pieces = feed(make(tokenizer, logprobs=1), tokens)
    assert [[s.token for s, _ in p.details] for p in pieces] == [tokens[:1], tokens[1:3], tokens[3:]]
    assert [before for p in pieces for _, before in p.details] == [0, 1, 1, 2]
    chat = chat_logprobs(tokenizer, pieces[1])["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in chat).decode() == "é"


def test_completion_logprobs_name_the_chosen_token_and_stay_json() -> None:
    tokenizer = load_tokenizer(random_model_folder("tiny").path)
    a, b, c = (tokenizer.encode(x)[0] for x in "abc")
    details = [(SampledToken(a, float("-inf"), ((b, -0.1), (c, -2.0))), 3)]
    got = completion_logprobs(tokenizer, Piece("a", [a], details, None, None, True), 10)
    assert got == {
        "tokens": ["a"],
        "token_logprobs": [-9999.0],
        "top_logprobs": [{"a": -9999.0, "b": -0.1, "c": -2.0}],
        "text_offset": [13],
    }
