from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tercet.core.errors import UsageError
from tercet.engine.models.catalog import KNOWN_MODELS
from tercet.engine.models.convert import convert
from tercet.engine.models.store import list_models, resolve
from tests.unit.engine.models.hub_server import hub
from tests.unit.engine.models.synthetic import write_gguf

RESOLVE = """
import sys
from pathlib import Path
from tercet.core.errors import TercetError
from tercet.engine.models.store import resolve
try:
    folder = resolve(sys.argv[1], pull=sys.argv[2] == "pull")
    print(folder.name, folder.config["model_type"], sorted(path.name for path in folder.path.iterdir()))
except TercetError as error:
    print(type(error).__name__, str(error))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    write_gguf(place / "tiny.gguf")
    (place / "local-model").mkdir()
    convert(place / "tiny.gguf", place / "local-model")
    return place / "local-model"


def resolve_apart(
    name: str, home: Path, env: dict[str, str] | None = None, *, pull: bool = True, code: str = RESOLVE
) -> str:
    """Resolve in a process of its own: huggingface_hub reads its settings when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", code, name, "pull" if pull else "here"],
        env={**os.environ, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **(env or {})},
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    return done.stdout


def test_a_local_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = resolve(str(folder))
    assert (found.name, found.path, found.config["hidden_size"]) == ("local-model", folder, 32)
    monkeypatch.chdir(folder)
    assert resolve(".").name == "local-model"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        resolve("gpt-17")
    for model in KNOWN_MODELS:
        assert model.name in str(caught.value)


@pytest.mark.parametrize("text", ["", '{"weight_map": {"a": "model', "[]", "{}", '{"weight_map": 5}'])
def test_an_index_that_is_cut_off_is_an_error_that_says_so(folder: Path, tmp_path: Path, text: str) -> None:
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UsageError, match=r"model\.safetensors\.index\.json is cut off or damaged"):
        resolve(str(tmp_path / "model"))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_lacks_something_says_what(folder: Path, tmp_path: Path, name: str) -> None:
    for path in folder.iterdir():
        if path.name != name:
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(UsageError, match=name):
        resolve(str(tmp_path))


def test_a_missing_shard_is_named(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match="model-00002"):
        resolve(str(tmp_path))


def test_not_here_and_not_to_be_pulled(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tercet model pull smollm2-135m"):
        resolve("smollm2-135m", tmp_path, pull=False)
    assert not any(tmp_path.iterdir())


def test_a_hugging_face_id(folder: Path, tmp_path: Path) -> None:
    with hub("org/tiny", folder) as (endpoint, seen):
        first = resolve_apart("org/tiny", tmp_path, {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1"})
        assert first.startswith("org/tiny llama ['chat_template.jinja', 'config.json'")
        assert seen
    offline = resolve_apart("org/tiny", tmp_path, {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "1"})
    assert offline == first


def test_of_a_hugging_face_id_its_configuration_alone(folder: Path, tmp_path: Path) -> None:
    code = "import sys, tercet.engine.models.store as s; print(s.model_config(sys.argv[1])['model_type'])"
    with hub("org/tiny", folder) as (endpoint, seen):
        env = {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1"}
        assert resolve_apart("org/tiny", tmp_path, env, code=code) == "llama\n"
        assert any("config.json" in path for path in seen) and not any("safetensors" in path for path in seen)
        assert "config.json" in resolve_apart("org/tiny", tmp_path, env), "the rest is fetched when it is needed"
        assert any("safetensors" in path for path in seen)


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "TercetError can't download org/tiny"),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
    ],
)
def test_a_hugging_face_id_without_network(tmp_path: Path, env: dict[str, str], words: str) -> None:
    assert words in resolve_apart("org/tiny", tmp_path, env)


def test_a_hugging_face_id_that_nobody_has(folder: Path, tmp_path: Path) -> None:
    with hub("org/tiny", folder) as (endpoint, _):
        said = resolve_apart("org/other", tmp_path, {"HF_ENDPOINT": endpoint})
    assert said.startswith("UsageError Hugging Face has no model org/other")
    assert "tercet model pull org/other" in resolve_apart("org/other", tmp_path, pull=False)


def test_the_list(tmp_path: Path) -> None:
    listed = list_models(tmp_path)
    assert [model.name for model in listed] == [model.name for model in KNOWN_MODELS]
    assert all(model.path is None and model.size == 0 for model in listed)


def test_the_store_needs_no_torch_transformers_numpy_or_gguf(tmp_path: Path) -> None:
    code = (
        "import sys, tercet.engine.models.store as s; s.random_model_folder('tiny');"
        "print(sorted({'torch', 'transformers', 'numpy', 'gguf'} & set(sys.modules)))"
    )
    env = {**os.environ, "TERCET_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_bundled_model_is_what_the_catalogue_says() -> None:
    from tercet.engine.models.manifest import damaged_files
    from tercet.text.tokenizer import load_tokenizer

    found = resolve("smollm2-135m")
    assert damaged_files(found.path) == []
    tokenizer = load_tokenizer(found.path)
    prompt = tokenizer.encode_chat([{"role": "user", "content": "What is the capital of France?"}]).text
    assert prompt.endswith("<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.decode(tokenizer.encode(prompt), skip_special_tokens=False) == prompt
    assert (tokenizer.eos_token_ids, tokenizer.vocab_size) == (frozenset({2}), 49152)
