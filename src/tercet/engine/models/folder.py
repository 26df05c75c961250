"""A model folder in Hugging Face layout."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercet.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """Where a model lies: config.json, *.safetensors (none for random weights), tokenizer.json and their companions.

    `name` is what clients call the model; `config` is config.json.
    """

    name: str
    path: Path
    config: dict[str, Any]


def open_folder(path: Path, name: str, *, weights: bool = True) -> ModelFolder:
    """Return the folder at `path`. Raises UsageError when a file is missing that the engine or the front needs."""
    if not (path / "config.json").is_file():
        raise UsageError(f"{path} is not a model folder: it has no config.json (Hugging Face layout is expected)")
    if not (path / "tokenizer.json").is_file():
        raise UsageError(f"{path} has no tokenizer.json: save the model's *fast* tokenizer there with save_pretrained")
    if weights and (missing := missing_weights(path)):
        raise UsageError(f"{path} has no {missing}: weights must be safetensors, completely downloaded")
    return ModelFolder(name, path, read_config(path / "config.json"))


def missing_weights(path: Path) -> str | None:
    """Return the name of a weights file that is not there, or None when all are. Raises UsageError for an index that
    can't be read."""
    index = path / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise UsageError(f"{index} is cut off or damaged, download it again: {error}") from error
        return next((shard for shard in shards if not (path / shard).is_file()), None)
    return None if any(path.glob("*.safetensors")) else "model.safetensors"


def read_config(path: Path) -> dict[str, Any]:
    """Read a config.json. Raises UsageError when it is not a JSON object that names a model_type."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} can't be read as JSON: {error}") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise UsageError(f"{path} is not a model's config.json: it names no model_type")
    return config
