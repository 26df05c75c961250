from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.core.hashing import CHUNK_HASH_BYTES
from tercet.routing.facts import CHUNK_BYTES, CHUNK_IDS, chat_facts, completion_facts
from tests.unit.routing.fleets import chat, ids, text


def test_a_later_turn_has_an_anchor_where_the_earlier_ended() -> None:
    first = chat("hello")
    second = chat("hello", "hi", "how are you?")
    third = chat("hello", "hi", "how are you?", "well", "good")
    assert first.anchors == () and not first.later_turn
    assert [a.key for a in second.anchors] == [first.own]
    assert [a.key for a in third.anchors] == [second.own, first.own]
    assert second.later_turn
    # New input begins after the answer.
    resume = second.anchors[0].resume
    assert resume == len("user\x1fhello\x1eassistant\x1fhi\x1e")
    assert second.size - resume == len("user\x1fhow are you?\x1e")


def test_another_history_has_another_name() -> None:
    assert chat("hello").own != chat("hallo").own
    assert chat("hello").own != chat("hello", tools=[{"type": "function"}]).own
    assert chat("hello").own != chat("hello", cache_salt="x").own
    assert chat("hello", "a", "b").own != chat("hello", "a" + "b").own


def test_role_and_content_are_kept_apart() -> None:
    one = chat_facts({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}, None, 0.25)
    two = chat_facts({"messages": [{"role": "user", "content": "a\x1euser\x1fb"}]}, None, 0.25)
    assert one.own != two.own


def test_affinity_is_the_same_for_all_turns_and_differs_between_conversations() -> None:
    system = {"role": "system", "content": "You are helpful. " * 100}

    def facts(*messages: dict[str, str]) -> bytes:
        return chat_facts({"messages": [system, *messages]}, None, 0.25).affinity

    user, answer = {"role": "user", "content": "one"}, {"role": "assistant", "content": "yes"}
    assert facts(user) == facts(user, answer, {"role": "user", "content": "two"})
    assert facts(user) != facts({"role": "user", "content": "other"})


def test_chunks_of_a_prefix_are_a_prefix_of_the_chunks() -> None:
    long = "abc " * 500
    short = text(long[:1000])
    assert len(short.chunks) == 1000 // CHUNK_BYTES * CHUNK_HASH_BYTES
    assert text(long).chunks[: len(short.chunks)] == short.chunks
    assert text("x" + long).begin != short.begin == short.chunks[:CHUNK_HASH_BYTES]


def test_token_ids_are_counted_exactly() -> None:
    facts = ids(list(range(200)))
    assert facts.exact and facts.prompt_tokens == 200 and len(facts.chunks) == 200 // CHUNK_IDS * CHUNK_HASH_BYTES
    assert ids(list(range(300))).chunks[: len(facts.chunks)] == facts.chunks


@pytest.mark.parametrize(
    ("body", "prompts", "single"),
    [
        ({"prompt": "a"}, 1, True),
        ({"prompt": ["a"]}, 1, True),
        ({"prompt": ["a", "b"]}, 2, False),
        ({"prompt": [1, 2]}, 1, True),
        ({"prompt": [[1, 2]]}, 1, True),
        ({"prompt": [[1, 2], [3]]}, 2, False),
        ({"prompt": "a", "echo": True}, 1, False),
        ({"prompt": "a", "logprobs": 1}, 1, True),
        ({"prompt": "a", "prompt_logprobs": 0}, 1, False),
        ({"prompt": "a", "prompt_logprobs": None}, 1, True),
        ({"prompt": "a", "return_context_logits": True}, 1, False),
    ],
)
def test_how_many_prompts(body: dict[str, object], prompts: int, single: bool) -> None:
    facts = completion_facts(body, None, 0.25)
    assert (facts.prompts, facts.single) == (prompts, single)
    if isinstance(text := body["prompt"], str):
        chat = chat_facts({**body, "messages": [{"role": "user", "content": text}]}, None, 0.25)
        assert chat.single == (single or bool(body.get("echo"))), "a chat echoes nothing of its prompt"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"prompt": None},
        {"prompt": 7},
        {"prompt": []},
        {"prompt": [1, "a", None]},
        {"prompt": [-1]},
        {"prompt": [2**40]},
        {"prompt": [True]},
        {"prompt": {"a": 1}},
        {"prompt": "\ud800 lone"},
        {"model": 3, "prompt": "a", "max_tokens": "x", "cache_salt": 9},
        {"messages": "x"},
        {"messages": [1, None, "x", {}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "\udfff"}]}]},
        {"messages": [{"role": ["user"], "content": {"a": 1}}]},
    ],
)
def test_malformed_bodies_make_no_error(body: dict[str, object]) -> None:
    assert completion_facts(body, None, 0.25).prompt_tokens >= 0
    assert chat_facts(body, None, 0.25).prompt_tokens >= 0


def test_session_ids_that_name_nothing() -> None:
    assert chat("a", session="s").session == "s"
    assert chat("a", session="").session is None
    assert chat("a", session="x" * 300).session is None


@pytest.mark.parametrize("limit", [1, 7, 300, 1000])
@given(st.lists(st.text(max_size=900), min_size=1, max_size=5), st.text(max_size=900))
def test_long_texts_are_hashed_in_pieces_as_they_are_whole(limit: int, texts: list[str], prompt: str) -> None:
    texts, prompt = [text + "\ud83d\U0001f600" for text in texts], prompt + "\udc00é"
    whole = chat(*texts), completion_facts({"prompt": prompt}, None, 0.25)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tercet.routing.facts.LONG_CHARS", limit)
        patch.setattr("tercet.routing.long_text.LONG_CHARS", limit)
        assert (chat(*texts), completion_facts({"prompt": prompt}, None, 0.25)) == whole
