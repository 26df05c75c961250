"""Conversations: seeded tokens, growing history, exact request bodies."""

from __future__ import annotations

import pytest

from tercet.core.errors import UsageError
from tercet.traffic.conversation import Conversation, Shared, TokenRange, TurnSpec
from tercet.traffic.prompts import PromptForm, Prompts, Said
from tercet.traffic.words import WORDS


def conversation(**changes: object) -> Conversation:
    values: dict[str, object] = {
        "id": "s-c0",
        "seed": 1,
        "salt": "s",
        "arrival_s": 0.0,
        "turns": (TurnSpec(8, 4), TurnSpec(5, 3)),
    }
    return Conversation(**{**values, **changes})  # type: ignore[arg-type]


def test_equal_arguments_give_equal_tokens() -> None:
    assert conversation().new_tokens(0) == conversation().new_tokens(0)


@pytest.mark.parametrize("change", [{"seed": 2}, {"salt": "other"}, {"id": "s-c1"}])
def test_seed_salt_and_id_each_change_the_tokens(change: dict[str, object]) -> None:
    assert conversation(**change).new_tokens(0) != conversation().new_tokens(0)


def test_turns_of_one_conversation_differ() -> None:
    same = conversation(turns=(TurnSpec(8, 4), TurnSpec(8, 4)))
    assert same.new_tokens(0) != same.new_tokens(1)


def test_the_tokens_of_a_seed_never_change_between_versions() -> None:
    assert conversation().new_tokens(0)[:3] == [10493, 6411, 23338]


def test_tokens_stay_in_their_range_and_use_it() -> None:
    tokens = conversation(turns=(TurnSpec(2000, 1),), tokens=TokenRange(10, 20)).new_tokens(0)
    assert set(tokens) == set(range(10, 20))


def test_a_prompt_is_the_history_and_the_new_tokens() -> None:
    talk = conversation()
    first = talk.prompt(0, [])
    answer = Said("four", (7, 7, 7, 7))
    assert talk.prompt(1, [answer]) == [*first, *answer.token_ids, *talk.new_tokens(1)]
    assert (len(first), talk.prompt_tokens(0), talk.prompt_tokens(1)) == (8, 8, 8 + 4 + 5)


@pytest.mark.parametrize(("turn", "answers"), [(0, [Said()]), (1, [])])
def test_a_history_that_does_not_fit_the_turn_is_refused(turn: int, answers: list[Said]) -> None:
    with pytest.raises(ValueError, match="answers before it"):
        conversation().prompt(turn, answers)


def test_the_request_body_asks_for_exact_lengths_greedily() -> None:
    talk = conversation()
    body = talk.request_body(0, [], model="m", cache_salt="pd")
    assert body == {
        "model": "m",
        "prompt": talk.new_tokens(0),
        "max_tokens": 4,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "cache_salt": "pd",
    }
    assert "cache_salt" not in talk.request_body(0, [], model="m")
    plain = conversation(prompts=Prompts(extensions=False, extra={"top_p": 1})).request_body(0, [], model="m")
    assert not {"ignore_eos", "return_token_ids"} & set(plain) and plain["top_p"] == 1
    assert ("X-Session-Id", "s-c0") in talk.headers()


@pytest.mark.parametrize("form", [PromptForm.TEXT, PromptForm.CHAT])
def test_texts_have_one_word_a_token_less_what_the_template_adds(form: PromptForm) -> None:
    prompts = Prompts(form, first_overhead=3, later_overhead=1)
    talk = conversation(prompts=prompts)
    assert (len(talk.new_tokens(0)), len(talk.new_tokens(1))) == (5, 4)
    assert (talk.prompt_tokens(0), talk.prompt_tokens(1)) == (8, None)
    first, body = (talk.request_body(i, [Said("An answer.")][:i], model="m") for i in (0, 1))
    if form is PromptForm.CHAT:
        assert [m["role"] for m in body["messages"]] == ["user", "assistant", "user"]
        assert body["messages"][0] == first["messages"][0] and body["messages"][1]["content"] == "An answer."
        words = body["messages"][2]["content"].split()
    else:
        assert body["prompt"].startswith(first["prompt"] + "An answer. ")
        words = body["prompt"].removeprefix(first["prompt"] + "An answer. ").split()
    assert len(words) == 4 and set(words) <= set(WORDS) and len(set(WORDS)) == 256


def test_a_shared_prefix_is_shared_and_counted() -> None:
    one, two, other = (
        conversation(id=name, shared=(Shared(group, 6),)) for name, group in (("a", "g"), ("b", "g"), ("c", "h"))
    )
    prompts = [talk.new_tokens(0) for talk in (one, two, other)]
    assert [len(prompt) for prompt in prompts] == [8, 8, 8]
    assert prompts[0][:6] == prompts[1][:6] != prompts[2][:6] and prompts[0][6:] != prompts[1][6:]
    assert len(one.new_tokens(1)) == 5


@pytest.mark.parametrize("size", [None, 2, 20, 256, 512, 1000, 32_000, 49_152, 128_256])
def test_token_ranges_fit_the_vocabulary(size: int | None) -> None:
    tokens = TokenRange.for_vocabulary(size)
    assert 0 <= tokens.low < tokens.high <= (size or 32_000)
    if size is not None and size >= 1000:
        assert tokens.low == 256


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(UsageError, match="no token ids"):
        TokenRange(5, 5)
