"""The model, here before any worker asks for it: so that it is fetched once, and visibly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from tercet.core.errors import MissingExtraError, TercetError, UsageError
from tercet.core.topology import ENGINES_OF_OTHERS, Topology, check_sight, has_encoders, with_sight
from tercet.engine.models.folder import ModelFolder
from tercet.engine.models.random_model import random_model_folder
from tercet.engine.models.store import model_config, resolve


def sees(topology: Topology, cache_dir: Path | None = None) -> bool:
    """True when the topology's model takes pictures. Of a model on Hugging Face its configuration alone is fetched: it
    may be for a start on another machine. Raises as `prepare_model` does."""
    if topology.engine.random_weights is not None:
        return "vision_config" in prepare_model(topology, cache_dir).config
    _check_computes(topology)
    return "vision_config" in model_config(topology.model, cache_dir)


def sees_or_may(topology: Topology, cache_dir: Path | None = None) -> tuple[bool, str]:
    """Return whether the model takes pictures, for a start on another machine, and why it is not known: where Hugging
    Face can't be reached, encode workers say so. Raises as `sees` does otherwise."""
    try:
        return sees(topology, cache_dir), ""
    except UsageError:
        raise
    except TercetError as error:
        if topology.engine.engine not in ENGINES_OF_OTHERS:
            raise
        return has_encoders(topology.workers), str(error).splitlines()[0]


def with_stages(topology: Topology, model_sees: bool) -> Topology:
    """Return the topology whose workers encode where the model sees. Raises UsageError when it does not, but a worker
    shall."""
    if model_sees:
        return replace(topology, workers=with_sight(topology.workers))
    check_sight(topology.workers, shown_model(topology))
    return topology


def shown_model(topology: Topology) -> str:
    """Return what people are told of the model."""
    shape = topology.engine.random_weights
    return topology.model if shape is None else f"random weights of {shape}"


def prepare_model(
    topology: Topology, cache_dir: Path | None = None, progress: Callable[[str, float], None] | None = None
) -> ModelFolder:
    """Return the topology's model, fetching it when it is not here; `progress` gets a text and the fraction done.

    Raises UsageError for an unknown model or when torch is not installed, TercetError when fetching fails.
    """
    _check_computes(topology)
    if topology.engine.random_weights is not None:
        return random_model_folder(topology.engine.random_weights, cache_dir)
    return resolve(topology.model, cache_dir, progress=progress)


def path_or_name(topology: Topology, cache_dir: Path | None = None) -> Path:
    """Return the model's folder; its name where it is not here: nothing is fetched."""
    try:
        return resolve(topology.model, cache_dir, pull=False).path
    except UsageError:
        return Path(topology.model)


def _check_computes(topology: Topology) -> None:
    if topology.engine.engine == "tercet" and (find_spec("torch") is None or find_spec("transformers") is None):
        raise MissingExtraError("engine", "computing with the built-in engine")
