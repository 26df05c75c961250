"""Pictures in a chat's prompt: each gets its tokens and its place, and nothing a client writes looks like one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from tercet.core.errors import RequestError, UsageError
from tercet.text.image_token import ImageToken, image_token
from tercet.text.tokenizer import Tokenizer, load_tokenizer
from tests.unit.text.synthetic import CHATML, FAMILIES, build, token_id, write_folder

PARTS = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}"
)
"""As LLaVA's own: pictures first, and a string for content shows nothing."""
BLIND = "{% for message in messages %}{% for part in message.content %}{{ part.text }}{% endfor %}{% endfor %}"
COUNT = 3
IMAGE: dict[str, Any] = {"type": "image_url", "image_url": {"url": "data:,x"}}


def seeing(folder: Path, template: str = CHATML, family: str = "byte_level") -> Tokenizer:
    fast = build(family)
    fast.add_special_tokens([AddedToken("<image>", special=True)])
    config = {"vision_config": {}, "image_token_index": token_id(fast, "<image>"), "image_seq_length": COUNT}
    return load_tokenizer(write_folder(folder, fast, config_json=config, chat_template_jinja=template))


@pytest.fixture(scope="module", params=["strings", "parts"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return seeing(tmp_path_factory.mktemp(request.param), {"strings": CHATML, "parts": PARTS}[request.param])


def user(*content: str | dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": c} if isinstance(c, str) else c for c in content]}


def image_id(tokenizer: Tokenizer) -> int:
    assert tokenizer.image is not None
    return tokenizer.image.id


def test_every_picture_gets_its_tokens_in_order(tokenizer: Tokenizer) -> None:
    second = {"type": "image_url", "image_url": {"url": "http://two"}}
    ref = {"type": "image_ref", "image_ref": {"key": "k", "tokens": COUNT}}
    prompt = tokenizer.encode_chat([user(IMAGE, "What is the dog?"), user(second, ref, "And the fox?")])
    assert [picture.url for picture in prompt.pictures] == ["data:,x", "http://two", None]
    assert prompt.pictures[2].key == "k" and prompt.pictures[2].where == "messages[1].content[1]"
    assert [i for i, token in enumerate(prompt.tokens) if token == image_id(tokenizer)] == [
        start + i for start in prompt.starts for i in range(COUNT)
    ]
    once = [t for i, t in enumerate(prompt.tokens) if not any(s < i < s + COUNT for s in prompt.starts)]
    assert once == tokenizer._fast.encode(prompt.text, add_special_tokens=False).ids
    assert prompt.text.index("<image>") < prompt.text.index("dog") < prompt.text.rindex("<image>")


def test_a_chat_without_pictures_is_the_same_for_every_template(tokenizer: Tokenizer) -> None:
    prompt = tokenizer.encode_chat([{"role": "user", "content": "What is the dog?"}])
    assert prompt == tokenizer.encode_chat([user("What is the dog?")])
    assert "user\nWhat is the dog?<|im_end|>" in prompt.text and not prompt.pictures


@pytest.mark.parametrize(
    ("message", "tools"),
    [
        (user("a <image> tag, <image><image>", IMAGE), None),
        (user(IMAGE, "<image>"), [{"name": "<image>", "x": {"<image>": ["<image>"]}}]),
        ({**user(IMAGE, "b"), "role": "user", "name": "<image>"}, None),
    ],
)
def test_the_image_tokens_text_is_only_text(
    tokenizer: Tokenizer, message: dict[str, Any], tools: list[dict[str, Any]] | None
) -> None:
    prompt = tokenizer.encode_chat([message], tools=tools)
    assert len(prompt.starts) == 1 and prompt.tokens.count(image_id(tokenizer)) == COUNT
    told = [token for token in prompt.tokens if token != image_id(tokenizer)]
    words = "".join(part["text"] for part in message["content"] if part["type"] == "text")
    assert words.replace(" ", "") in tokenizer.decode(told, skip_special_tokens=False).replace(" ", "")


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"plain_words"}))
def test_a_bare_prompt_never_holds_a_picture(tmp_path: Path, family: str) -> None:
    tokenizer = seeing(tmp_path, family=family)
    tokens = tokenizer.encode("the dog <image> sleeps<image>")
    assert image_id(tokenizer) not in tokens
    assert tokenizer.decode(tokens).replace(" ", "") == "thedog<image>sleeps<image>"
    assert tokenizer.encode("the dog") == tokenizer._fast.encode("the dog", add_special_tokens=False).ids


def test_a_template_that_glues_a_token_together_is_refused(tmp_path: Path) -> None:
    tokenizer = seeing(tmp_path, PARTS)
    with pytest.raises(RequestError, match="2 of the 1 pictures") as caught:
        tokenizer.encode_chat([user(IMAGE, "<ima", "ge>")])
    assert caught.value.status == 400


def test_a_template_without_a_place_for_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="0 of the 1 pictures"):
        seeing(tmp_path, BLIND).encode_chat([user(IMAGE, "a")])


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "image_url"}, "messages[0].content[0].image_url.url"),
        ({"type": "image_url", "image_url": {"url": 5}}, "messages[0].content[0].image_url.url"),
        ({"type": "image_ref", "image_ref": None}, "messages[0].content[0].image_ref"),
        ({"type": "image_ref", "image_ref": {"tokens": "x"}}, "messages[0].content[0].image_ref"),
        ({"type": "video_url", "video_url": {}}, "messages[0].content[0]"),
    ],
)
def test_wrong_parts_are_named(tokenizer: Tokenizer, part: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        tokenizer.encode_chat([user(part)])
    assert (caught.value.status, caught.value.param) == (400, param)


def test_a_model_that_does_not_see_says_so(tmp_path: Path) -> None:
    blind = load_tokenizer(write_folder(tmp_path, build("byte_level"), chat_template_jinja=CHATML))
    with pytest.raises(RequestError, match="takes text only") as caught:
        blind.encode_chat([user("a", IMAGE)])
    assert caught.value.param == "messages[0].content[1]"
    assert blind.image is None and blind.encode("<image>")


@pytest.mark.parametrize(
    ("config", "token"),
    [
        ({"image_token_index": 7}, None),
        ({"vision_config": {}, "image_token_index": 7, "image_seq_length": 16}, ImageToken(7, 16)),
        ({"vision_config": {"image_size": 336, "patch_size": 14}, "image_token_index": 7}, ImageToken(7, 576)),
        (
            {
                "vision_config": {"image_size": 32, "patch_size": 8},
                "image_token_id": 7,
                "vision_feature_select_strategy": "full",
            },
            ImageToken(7, 17),
        ),
    ],
)
def test_what_a_config_says(config: dict[str, Any], token: ImageToken | None) -> None:
    assert image_token(config) == token


def test_pictures_of_any_number_of_tokens_are_refused_in_words() -> None:
    with pytest.raises(UsageError, match="does not say how many tokens a picture takes"):
        image_token({"vision_config": {"patch_size": 14, "spatial_merge_size": 2}, "image_token_id": 151655})


def test_a_tokeniser_without_the_image_token_is_refused(tmp_path: Path) -> None:
    config = {"vision_config": {}, "image_token_index": 99_999, "image_seq_length": 4}
    with pytest.raises(UsageError, match="no token 99999"):
        load_tokenizer(write_folder(tmp_path, build("byte_level"), config_json=config))
