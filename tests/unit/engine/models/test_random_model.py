from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.core.errors import UsageError
from tercet.engine.models.random_model import random_model_folder, shape_names
from tercet.text.image_token import ImageToken
from tercet.text.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(random_model_folder("tiny", tmp_path_factory.mktemp("cache")).path)


def test_a_shape_that_sees_has_an_image_token(tmp_path: Path) -> None:
    folder = random_model_folder("tiny-llava", tmp_path)
    tokenizer = load_tokenizer(folder.path)
    image = folder.config["image_token_index"]
    assert tokenizer.image == ImageToken(image, folder.config["image_seq_length"])
    assert image in tokenizer.special_token_ids and tokenizer.vocab_size == 320


@pytest.mark.parametrize("shape", ["tiny", "smollm2-135m"])
def test_built_in_shapes(tmp_path: Path, shape: str) -> None:
    assert shape in shape_names()
    folder = random_model_folder(shape, tmp_path)
    assert folder.name == f"random-{shape}"
    assert not list(folder.path.glob("*.safetensors"))
    tokenizer = load_tokenizer(folder.path)
    assert tokenizer.vocab_size == folder.config["vocab_size"]
    assert tokenizer.eos_token_ids == {folder.config["eos_token_id"]} == {2}
    assert random_model_folder(shape, tmp_path) == folder


@settings(deadline=None)
@given(text=st.text().filter(lambda text: "<|" not in text))
def test_the_tokeniser_is_a_token_a_byte(tiny: Tokenizer, text: str) -> None:
    ids = tiny.encode(text)
    assert len(ids) == len(text.encode())
    assert tiny.decode(ids) == text


def test_every_sampled_id_is_visible(tiny: Tokenizer) -> None:
    filler = [tiny.decode([token]) for token in range(259, tiny.vocab_size)]
    assert filler[0] == " w259" and len(set(filler)) == tiny.vocab_size - 259


def test_the_chat_template_and_its_special_tokens(tiny: Tokenizer) -> None:
    prompt = tiny.encode_chat([{"role": "user", "content": "hi"}]).text
    assert prompt == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert [token for token in tiny.encode(prompt) if token < 3] == [1, 2, 1]


def test_a_configuration_of_ones_own(tmp_path: Path) -> None:
    config = {"model_type": "llama", "vocab_size": 300, "hidden_size": 8}
    (tmp_path / "mine").mkdir()
    path = tmp_path / "mine" / "config.json"
    path.write_text(json.dumps(config))
    by_file = random_model_folder(path, tmp_path)
    by_folder = random_model_folder(str(path.parent), tmp_path)
    assert by_file == by_folder
    assert by_file.name == "random-mine"
    assert by_file.config["hidden_size"] == 8
    path.write_text(json.dumps({**config, "hidden_size": 16}))
    assert random_model_folder(path, tmp_path).path != by_file.path


def test_a_folder_with_a_tokeniser_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = random_model_folder("tiny", tmp_path).path
    again = random_model_folder(folder)
    assert again.path == folder


def test_many_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: random_model_folder("tiny", tmp_path).path, range(16)))
    assert len(found) == 1
    assert sorted(path.name for path in (tmp_path / "random").iterdir()) == [".lock", found.pop().name]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"model_type": "llama", "vocab_size": 100}', "too small"),
        ('{"vocab_size": 1000}', "model_type"),
        ("[", "JSON"),
        (
            '{"model_type": "llava", "image_token_index": 7, "text_config": {"vocab_size": 300}}',
            "image_token_index 7 .* from 259 to 299",
        ),
    ],
)
def test_bad_configurations(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UsageError, match=words):
        random_model_folder(tmp_path / "config.json", tmp_path)


def test_an_unknown_shape_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"smollm2-135m, tiny, tiny-llava"):
        random_model_folder("huge", tmp_path)
