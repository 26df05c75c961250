from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from threading import Thread
from time import perf_counter

import pytest

from tercet.core.errors import RequestError, UsageError
from tercet.text.tokenizer import load_tokenizer
from tests.unit.text.synthetic import CHATML, FAMILIES, build, token_id, write_folder


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_and_encodes(tmp_path: Path, family: str) -> None:
    library = build(family)
    tokenizer = load_tokenizer(write_folder(tmp_path / "m", library))
    text = "The capital of France is Paris"
    ids = tokenizer.encode(text)
    assert ids == library.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode(text, add_special_tokens=True) == [token_id(library, "<s>"), *ids]
    assert tokenizer.decode([token_id(library, "<s>"), *ids]) == text
    assert tokenizer.vocab_size == library.get_vocab_size()


def test_end_tokens_come_from_every_file(tmp_path: Path) -> None:
    library = build("llama")
    folder = write_folder(
        tmp_path / "m",
        library,
        config_json={"eos_token_id": 2, "vocab_size": 1024},
        generation_config_json={"eos_token_id": [2, 9]},
        tokenizer_config_json={"eos_token": {"content": "<|im_end|>", "special": True}},
    )
    tokenizer = load_tokenizer(folder)
    assert tokenizer.eos_token_ids == {2, 9, library.token_to_id("<|im_end|>")}
    assert tokenizer.vocab_size == 1024
    assert load_tokenizer(write_folder(tmp_path / "n", library)).eos_token_ids == frozenset()


@pytest.mark.parametrize(
    "files",
    [
        {"chat_template_jinja": CHATML},
        {"chat_template_json": {"chat_template": CHATML}},
        {"tokenizer_config_json": {"chat_template": CHATML}},
        {"tokenizer_config_json": {"chat_template": [{"name": "default", "template": CHATML}]}},
    ],
)
def test_chat_templates_are_found(tmp_path: Path, files: dict[str, object]) -> None:
    tokenizer = load_tokenizer(write_folder(tmp_path / "m", build("byte_level"), **files))
    prompt = tokenizer.encode_chat([{"role": "user", "content": "hi"}]).text
    assert prompt == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.special_token_ids & set(tokenizer.encode(prompt))


def test_a_chat_with_tools_gets_the_template_for_tools(tmp_path: Path) -> None:
    templates = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "{{ tools[0].name }}"}]
    folder = write_folder(tmp_path, build("byte_level"), tokenizer_config_json={"chat_template": templates})
    tokenizer, messages = load_tokenizer(folder), [{"role": "user", "content": "hi"}]
    assert tokenizer.encode_chat(messages, tools=[{"name": "weather"}]).text == "weather"
    assert tokenizer.encode_chat(messages).text == tokenizer.encode_chat(messages, tools=[]).text == "plain"


def test_a_template_for_tools_may_be_a_file_of_its_own(tmp_path: Path) -> None:
    """So transformers 5 saves it."""
    folder = write_folder(tmp_path, build("byte_level"), chat_template_jinja="plain")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools[0].name }}")
    tokenizer, messages = load_tokenizer(folder), [{"role": "user", "content": "hi"}]
    assert tokenizer.encode_chat(messages, tools=[{"name": "weather"}]).text == "weather"
    assert tokenizer.encode_chat(messages).text == "plain"


def test_special_tokens_reach_the_template(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path / "m",
        build("byte_level"),
        chat_template_jinja="{{ bos_token }}|{{ eos_token }}",
        special_tokens_map_json={"bos_token": {"content": "<s>"}, "eos_token": "</s>"},
    )
    assert load_tokenizer(folder).encode_chat([{"role": "user", "content": "hi"}]).text == "<s>|</s>"


def test_no_template_is_a_400(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_folder(tmp_path / "m", build("byte_level")))
    with pytest.raises(RequestError, match="/v1/completions"):
        tokenizer.encode_chat([{"role": "user", "content": "hi"}])


def test_half_a_surrogate_pair_is_a_400(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_folder(tmp_path / "m", build("byte_level")))
    with pytest.raises(RequestError, match="surrogate"):
        tokenizer.encode("a\ud83d")


def test_truncation_and_padding_of_the_file_are_off(tmp_path: Path) -> None:
    library = build("byte_level")
    library.enable_truncation(4)
    library.enable_padding(length=16)
    tokenizer = load_tokenizer(write_folder(tmp_path / "m", library))
    assert tokenizer.decode(tokenizer.encode("the quick brown fox jumps")) == "the quick brown fox jumps"


def test_broken_folders(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    folder = write_folder(tmp_path / "m", build("byte_level"), config_json="[]")
    with pytest.raises(UsageError, match=r"config\.json"):
        load_tokenizer(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match=r"tokenizer\.json can't be read"):
        load_tokenizer(folder)


def test_the_package_needs_no_torch_and_no_transformers() -> None:
    code = (
        "import sys, tercet.text.tokenizer, tercet.text.detokenizer, tercet.text.stops;"
        "print(sorted({'torch', 'transformers', 'numpy', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_long_text_is_made_tokens_beside_other_threads(tmp_path: Path) -> None:
    tokenizer, text = (
        load_tokenizer(write_folder(tmp_path / "m", build("byte_level"))),
        "The quick brown fox. " * 20_000,
    )

    def longest_pause() -> float:
        """The share of the time for which this thread had no turn."""
        thread, began = Thread(target=tokenizer.encode, args=(text,)), perf_counter()
        thread.start()
        longest, last = 0.0, began
        while thread.is_alive():
            now = perf_counter()
            longest, last = max(longest, now - last), now
        return longest / (perf_counter() - began)

    assert any(longest_pause() < 0.5 for _ in range(5))
