"""The two halves of a LLaVA-like model folder: its language model, and its tower with projector.

Either is loaded without the other: an encode worker holds no language model, the prefill worker of `epd` no tower.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tercet.core.errors import UsageError

LLAVA_TYPES = frozenset({"llava"})

# Published checkpoints say `language_model.model.layers...`, what transformers 5 writes may say
# `model.language_model.layers...`: both come out as a text model's own names.
_LANGUAGE = (
    (re.compile(r"^language_model\.(model\.|lm_head\.)"), r"\1"),
    (re.compile(r"^model\.language_model\."), "model."),
    (re.compile(r"^lm_head\."), "lm_head."),
)
_VISION = (
    (re.compile(r"^(?:model\.)?vision_tower\.(?:vision_model\.)?"), "vision_tower."),
    (re.compile(r"^(?:model\.)?multi_modal_projector\."), "multi_modal_projector."),
)


def is_llava(config: Any) -> bool:
    """True for a transformers configuration, or a config.json's object, of a LLaVA-like model."""
    kind = config.get("model_type") if isinstance(config, dict) else config.model_type
    return kind in LLAVA_TYPES


def language_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read the language model's weights, named as its own checkpoint would name them. Raises UsageError without any."""
    return _read(folder, lambda name: _renamed(name, _LANGUAGE), "a language model")


def vision_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read the weights `vision_tower.*` and `multi_modal_projector.*`. Raises UsageError when there are none."""
    return _read(folder, lambda name: _renamed(name, _VISION), "a vision tower")


def _renamed(name: str, rules: tuple[tuple[re.Pattern[str], str], ...]) -> str | None:
    for pattern, replacement in rules:
        if pattern.match(name):
            return pattern.sub(replacement, name)
    return None


def _read(folder: Path, rename: Callable[[str], str | None], what: str) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError, safe_open

    weights: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    if (own := rename(name)) is not None:
                        weights[own] = file.get_tensor(name)
        except SafetensorError as error:
            raise UsageError(f"{path} is cut off or damaged, download it again: {error}") from error
    if not weights:
        raise UsageError(f"{folder} holds no weights of {what} under the names of a LLaVA checkpoint")
    return weights
