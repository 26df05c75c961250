from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from tercet.core.errors import TercetError
from tercet.engine.models.assemble import assemble_model, is_assembled
from tercet.engine.models.catalog import SMOLLM2_VISION, SeeingModel, WheelModel
from tercet.engine.models.folder import open_folder
from tercet.engine.models.manifest import damaged_files
from tercet.engine.models.pull import model_path, pull_model
from tercet.text.tokenizer import load_tokenizer
from tests.unit.engine.models.synthetic import WHEEL, entry, make_index

ROOT = Path(__file__).parents[4]

SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
from tercet.engine.models.assemble import assemble_model
from tests.unit.engine.models.synthetic import WHEEL, entry
from tests.unit.engine.models.test_assemble import seeing
root, index = map(Path, sys.argv[1:3])
said = []
path = assemble_model(seeing(entry(index)), root, wheel=index / WHEEL, progress=lambda what, _: said.append(what))
print("assembling tiny-vision" in said, path)
"""


def seeing(language: WheelModel) -> SeeingModel:
    """The package's tower on a tiny language model: enough for everything but loading it."""
    return replace(SMOLLM2_VISION, name="tiny-vision", language=language, placeholder="<|endoftext|>", disk_bytes=1)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel") / "index"
    make_index(folder)
    return folder


@pytest.fixture(scope="module")
def pulled(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the language model alone."""
    root = tmp_path_factory.mktemp("cache")
    pull_model(entry(index), root, wheel=index / WHEEL)
    return root


@pytest.fixture
def root(pulled: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pulled, tmp_path / "cache")


@pytest.fixture
def model(index: Path) -> SeeingModel:
    return seeing(entry(index))


def test_what_is_assembled(root: Path, model: SeeingModel) -> None:
    from safetensors import safe_open

    assert not is_assembled(model, root)
    path = assemble_model(model, root)
    assert path == model_path(model, root) and is_assembled(model, root) and damaged_files(path) == []
    folder = open_folder(path, model.name)
    text = json.loads((model_path(model.language, root) / "config.json").read_text())
    assert folder.config["model_type"] == "llava" and folder.config["text_config"] == text
    index_file = json.loads((path / "model.safetensors.index.json").read_text())["weight_map"]
    for shard in sorted(set(index_file.values())):
        with safe_open(path / shard, framework="np") as file:
            assert set(file.keys()) == {name for name, place in index_file.items() if place == shard}
    with (
        safe_open(path / "model-00001-of-00002.safetensors", framework="pt") as ours,
        safe_open(model_path(model.language, root) / "model.safetensors", framework="pt") as theirs,
    ):
        for name in theirs.keys():  # noqa: SIM118 - not a mapping
            assert ours.get_tensor(f"language_model.{name}").equal(theirs.get_tensor(name))
    assert {name.partition(".")[0] for name in index_file} == {
        "language_model",
        "multi_modal_projector",
        "vision_tower",
    }


def test_the_image_token_takes_the_place_of_an_unused_one(root: Path, model: SeeingModel) -> None:
    path = assemble_model(model, root)
    before, after = load_tokenizer(model_path(model.language, root)), load_tokenizer(path)
    image = json.loads((path / "config.json").read_text())["image_token_index"]
    parts = [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "What is <image>?"}]
    prompt = after.encode_chat([{"role": "user", "content": parts}])
    start = prompt.starts[0]
    assert prompt.tokens[start : start + 49] == [image] * 49 and prompt.tokens.count(image) == 49
    assert prompt.text.endswith("<|im_start|>user\n<image>\nWhat is <image>?<|im_end|>\n<|im_start|>assistant\n")
    assert image in after.special_token_ids and after.vocab_size == before.vocab_size
    assert after.encode("hello  there 12") == before.encode("hello  there 12")


@pytest.mark.slow
def test_two_processes_at_once(tmp_path: Path, index: Path, model: SeeingModel) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(index)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    outputs = [process.communicate(timeout=90)[0].strip() for process in processes]
    assert sorted(outputs) == [f"{made} {model_path(model, tmp_path)}" for made in (False, True)]
    assert is_assembled(model, tmp_path)
    assert sorted(path.name for path in (tmp_path / "models").glob(".tmp-*")) == []


def test_another_language_model_or_a_damaged_file_is_assembled_anew(root: Path, model: SeeingModel) -> None:
    path = assemble_model(model, root)
    pinned = replace(model.language, files=MappingProxyType({"config.json": "0" * 64}))
    assert not is_assembled(replace(model, language=pinned), root)
    tower = path / "model-00002-of-00002.safetensors"
    with tower.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x77")
    assert is_assembled(model, root) and damaged_files(path) == [tower.name]
    assemble_model(model, root, verify=True)
    assert damaged_files(path) == []


def test_a_language_model_without_the_placeholder(root: Path, model: SeeingModel) -> None:
    with pytest.raises(TercetError, match="no special token <gone>"):
        assemble_model(replace(model, placeholder="<gone>"), root)
    assert not model_path(model, root).exists()
