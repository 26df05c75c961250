"""Models of a given shape without weights: these are drawn, seeded, when the engine loads them."""

from __future__ import annotations

import json
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import Any

from tercet.core.errors import UsageError
from tercet.engine.models.byte_tokenizer import MIN_VOCAB_SIZE, special_ids, write_byte_tokenizer
from tercet.engine.models.cache import cache_root, exclusive, explain_os_error, new_folder, publish
from tercet.engine.models.folder import ModelFolder, open_folder, read_config

_FORMAT = "3"
"""Goes into the folder's name: a newer layout gets a new folder."""


def shape_names() -> list[str]:
    """Return the built-in shapes."""
    shapes = files("tercet.engine.models") / "shapes"
    return sorted(entry.name.removesuffix(".json") for entry in shapes.iterdir() if entry.name.endswith(".json"))


def random_model_folder(config: str | Path, cache_dir: Path | None = None) -> ModelFolder:
    """Return a folder with config.json and a tokeniser, but no weights, for `--random-weights CONFIG`.

    Of a LLaVA, also with preprocessor_config.json and an image token.
    `config` is a built-in shape's name ("tiny", "smollm2-135m"), a config.json, or a folder with one. A folder that has
    a tokeniser is returned as it is; otherwise a byte-level one is made beside a copy of the configuration, in the
    cache. Raises UsageError for an unknown shape or a vocabulary too small for 256 bytes and 3 special tokens.
    """
    source = Path(config).expanduser()
    if str(config) in shape_names():
        name, text = str(config), (files("tercet.engine.models") / "shapes" / f"{config}.json").read_text()
    elif source.is_dir() and (source / "tokenizer.json").is_file():
        return open_folder(source, source.resolve().name, weights=False)
    elif (path := source / "config.json" if source.is_dir() else source).is_file():
        read_config(path)
        name, text = path.resolve().parent.name if path.name == "config.json" else path.stem, path.read_text()
    else:
        known = ", ".join(shape_names())
        raise UsageError(f"{config} is neither a config.json, a folder with one, nor a built-in shape ({known})")
    return _with_byte_tokenizer(f"random-{name}", text, cache_root(cache_dir) / "random")


def _clip_preprocessing(size: int) -> dict[str, Any]:
    """Return what CLIP's towers take: the middle of the picture, `size` pixels square."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "crop_size": {"height": size, "width": size},
        "size": {"shortest_edge": size},
    }


def _with_byte_tokenizer(name: str, text: str, parent: Path) -> ModelFolder:
    config = json.loads(text)
    text_config = config.get("text_config", config)
    vocab_size = text_config.get("vocab_size", 0)
    if vocab_size < MIN_VOCAB_SIZE:
        raise UsageError(f"{name}: vocab_size {vocab_size} is too small for a byte-level tokeniser ({MIN_VOCAB_SIZE})")
    image_token_id = config.get("image_token_index") if text_config is not config else None
    if image_token_id is not None and not MIN_VOCAB_SIZE <= image_token_id < vocab_size:
        raise UsageError(
            f"{name}: image_token_index {image_token_id} is not an id that a byte-level tokeniser has free: "
            f"choose one from {MIN_VOCAB_SIZE} to {vocab_size - 1}"
        )
    text_config |= special_ids()
    digest = blake2b(json.dumps([_FORMAT, config], sort_keys=True).encode(), digest_size=6).hexdigest()
    destination = parent / f"{name}-{digest}"
    try:
        if not destination.is_dir():
            with exclusive(parent / ".lock", timeout_s=60.0), new_folder(parent, name) as work:
                folder = work / "model"
                folder.mkdir()
                (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
                write_byte_tokenizer(folder, vocab_size, image_token_id)
                if image_token_id is not None:
                    preprocessing = _clip_preprocessing(config["vision_config"]["image_size"])
                    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing), encoding="utf-8")
                if not destination.is_dir():
                    publish(folder, destination)
    except OSError as error:
        raise explain_os_error(error, parent) from error
    return open_folder(destination, name, weights=False)
