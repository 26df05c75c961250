from __future__ import annotations

from typing import Any

import pytest

from tercet.core.errors import RequestError, UsageError
from tercet.text.chat import ChatTemplate
from tercet.text.messages import normalise_messages
from tests.unit.text.synthetic import CHATML

USER = {"role": "user", "content": "hi"}


def render(source: str, messages: Any, **options: Any) -> str:
    return ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"}).render(
        normalise_messages(messages), **options
    )


def test_chatml() -> None:
    assert render(CHATML, [USER]) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert render(CHATML, [USER], add_generation_prompt=False) == "<|im_start|>user\nhi<|im_end|>\n"


def test_text_parts_are_joined_by_newlines() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert "one\ntwo<|im_end|>" in render(CHATML, [{"role": "user", "content": parts}])


@pytest.mark.parametrize(
    ("messages", "param", "words"),
    [
        (None, "messages", "at least one"),
        ([], "messages", "at least one"),
        ("hi", "messages", "list"),
        (["hi"], "messages[0]", "object"),
        ([{"content": "hi"}], "messages[0].role", "None"),
        ([USER, {"role": "king", "content": "hi"}], "messages[1].role", "king"),
        ([{"role": ["user"], "content": "hi"}], "messages[0].role", "user"),
        ([{"role": "user"}], "messages[0].content", "missing"),
        ([{"role": "user", "content": 7}], "messages[0].content", "string"),
        ([{"role": "user", "content": ["hi"]}], "messages[0].content[0]", "text only"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0]", "text only"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text", "string"),
        ([{"role": "assistant", "tool_calls": 3}], "messages[0].tool_calls", "list"),
        ([{"role": "assistant", "tool_calls": [{}]}], "messages[0].tool_calls[0]", "function"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
            "messages[0].tool_calls[0].function.arguments",
            "not JSON",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[" * 100_000}}]}],
            "messages[0].tool_calls[0].function.arguments",
            "not JSON",
        ),
    ],
)
def test_bad_messages(messages: Any, param: str, words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        render(CHATML, messages)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_tool_calls_reach_the_template_as_objects_and_the_callers_message_stays() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": "<é>"}'}}
    message = {"role": "assistant", "tool_calls": [call]}
    source = "{{ messages[0].content }}{{ messages[0].tool_calls[0].function.arguments | tojson }}{{ tools | tojson }}"
    assert render(source, [message], tools=[{"name": "f"}]) == '{"x": "<é>"}[{"name": "f"}]'
    assert message == {"role": "assistant", "tool_calls": [call]} and call["function"]["arguments"] == '{"x": "<é>"}'  # type: ignore[index]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ raise_exception('only one turn') }}", "only one turn"),
        ("{{ messages[0].missing.name }}", "missing"),
        ("{{ 'a' + 1 }}", "str"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe|append"),
        ("{{ range(99999999) }}", "[Rr]ange"),
    ],
)
def test_what_a_template_raises_is_a_400(source: str, words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        render(source, [USER])
    assert caught.value.status == 400


def test_the_features_hugging_face_gives() -> None:
    source = (
        "{{ bos_token }}\n"
        "{% for m in messages %}\n"
        "    {% if loop.index > 1 %}{% break %}{% endif %}\n"
        "{% generation %}{{ m.content }}{% endgeneration %}\n"
        "{% endfor %}\n"
        "{{ strftime_now('%Y') | length }}{{ thinking }}{{ tools is none }}"
    )
    assert render(source, [USER, USER], variables={"thinking": "T"}) == "<s>\nhi4TTrue"


def test_a_developer_is_a_system_message_to_a_template_that_does_not_know_the_word() -> None:
    messages = [{"role": "developer", "content": "be kind"}]
    assert render("{{ messages[0].role }}", messages) == "system"
    assert render("{# developer #}{{ messages[0].role }}", messages) == "developer"


def test_a_template_that_does_not_compile() -> None:
    with pytest.raises(UsageError, match="does not compile"):
        ChatTemplate("{% if %}", {})
