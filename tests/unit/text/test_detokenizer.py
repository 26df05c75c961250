from __future__ import annotations

import time
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer

from tercet.core.errors import UsageError
from tercet.text.decoding import TokenDecoder
from tercet.text.detokenizer import IncrementalDetokenizer
from tercet.text.tokenizer import Tokenizer
from tests.unit.text.synthetic import FAMILIES, build, token_id

EMOJI = st.sampled_from(
    ["👩‍👩‍👧", "🇫🇷", "漢字", "é", "e\u0301", "\ufffd", " ", "  ", "\n", "▁", "<s>", "नमस्ते", "Paris is "]
)
TEXT = st.lists(st.one_of(EMOJI, st.text(max_size=6)), max_size=12).map("".join)
LOSSLESS = [family for family in FAMILIES if family != "plain_words"]


@cache
def library(family: str) -> FastTokenizer:
    return build(family)


@cache
def tokenizer(family: str) -> Tokenizer:
    return Tokenizer(library(family))


def stream(family: str, ids: list[int], cuts: list[int], tail: list[int] | None = None) -> list[str]:
    detokenizer = IncrementalDetokenizer(tokenizer(family), tail or [])
    edges = [0, *sorted(cut % (len(ids) + 1) for cut in cuts), len(ids)]
    pieces = [detokenizer.push(ids[a:b]) for a, b in pairwise(edges)]
    return [*pieces, detokenizer.flush()]


@pytest.mark.parametrize("family", FAMILIES)
@given(text=TEXT, cuts=st.lists(st.integers(0, 200), max_size=8))
@settings(max_examples=60, deadline=None)
def test_pieces_join_to_the_librarys_decode(family: str, text: str, cuts: list[int]) -> None:
    ids = tokenizer(family).encode(text)
    whole = library(family).decode(ids)
    assert "".join(stream(family, ids, cuts)) == whole
    assert tokenizer(family).decode(ids) == whole


@pytest.mark.parametrize("family", LOSSLESS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_ids_one_at_a_time_equal_the_whole(family: str, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer(family).vocab_size + 5), max_size=40))
    assert "".join(stream(family, ids, list(range(len(ids))))) == tokenizer(family).decode(ids)


@given(ids=st.lists(st.integers(0, 499), max_size=40))
@settings(max_examples=100, deadline=None)
def test_byte_level_ill_formed_bytes_decode_as_the_library_does(ids: list[int]) -> None:
    assert tokenizer("byte_level").decode(ids) == library("byte_level").decode(ids)


@pytest.mark.parametrize("family", LOSSLESS)
@given(text=TEXT)
@settings(max_examples=60, deadline=None)
def test_no_replacement_character_that_a_later_token_completes(family: str, text: str) -> None:
    text = text.replace("\ufffd", "")
    ids = tokenizer(family).encode(text)
    assert not any("\ufffd" in piece for piece in stream(family, ids, list(range(len(ids)))))


@pytest.mark.parametrize("family", LOSSLESS)
@given(prompt=TEXT, text=TEXT)
@settings(max_examples=60, deadline=None)
def test_an_answer_continues_its_prompt(family: str, prompt: str, text: str) -> None:
    tail, ids = tokenizer(family).encode(prompt), tokenizer(family).encode(text)
    both, before = tokenizer(family).decode([*tail, *ids]), tokenizer(family).decode(tail)
    assert "".join(stream(family, ids, list(range(len(ids))), tail)) == both[len(before) :]


def test_a_leading_space_belongs_to_an_answer_but_not_to_a_text() -> None:
    ids = tokenizer("llama").encode("Paris")
    assert "".join(stream("llama", ids, [])) == "Paris"
    assert "".join(stream("llama", ids, [], tokenizer("llama").encode("is"))) == " Paris"


@pytest.mark.parametrize("family", ["byte_level", "llama", "unigram"])
def test_a_character_comes_out_with_its_last_byte(family: str) -> None:
    ids = tokenizer(family).encode("a👩b")
    pieces = stream(family, ids, list(range(len(ids))))
    assert [piece for piece in pieces if piece] == ["a", "👩", "b"]


def test_an_unfinished_character_is_flushed_as_one_replacement() -> None:
    ids = tokenizer("byte_level").encode("👩")[:2]
    detokenizer = IncrementalDetokenizer(tokenizer("byte_level"))
    assert detokenizer.push(ids) == ""
    assert detokenizer.flush() == "\ufffd"
    assert detokenizer.flush() == ""


def test_special_tokens_are_skipped_unless_asked_for() -> None:
    known = tokenizer("byte_level")
    ids = known.encode("a<|im_end|>b")
    assert known.decode(ids) == "ab"
    assert known.decode(ids, skip_special_tokens=False) == "a<|im_end|>b"
    shown = IncrementalDetokenizer(known, skip_special_tokens=False)
    assert shown.push(ids) == "a<|im_end|>b"


def test_a_push_costs_the_new_tokens_alone() -> None:
    known = tokenizer("byte_level")
    ids = known.encode("👩 the quick brown fox " * 2500)
    detokenizer = IncrementalDetokenizer(known)
    half = len(ids) // 2
    times: list[float] = []
    for part in (ids[:half], ids[half:]):
        start = time.process_time()
        for token in part:
            detokenizer.push((token,))
        times.append(time.process_time() - start)
    assert times[1] < 3 * times[0] + 0.05
    assert sum(times) / len(ids) < 50e-6


@pytest.mark.parametrize("spec", [{"type": "CTC"}, {"type": "Replace", "pattern": {"Regex": "a"}, "content": ""}])
def test_a_decoder_that_cannot_be_streamed_is_refused(spec: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=str(spec["type"])):
        TokenDecoder(spec)


def test_token_bytes() -> None:
    known = tokenizer("llama")
    byte = token_id(library("llama"), "<0xE2>")
    assert known.token_bytes(byte) == b"\xe2"
    assert known.token_text(byte) == "\ufffd"
    assert known.token_bytes(token_id(library("llama"), "</s>")) == b"</s>"
    assert known.token_bytes(10**6) == b""
    assert b"".join(known.token_bytes(token) for token in known.encode("is Paris")) == b" is Paris"
