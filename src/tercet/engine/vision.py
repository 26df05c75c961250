"""The encoder: a model folder's tower and projector, and nothing of its language model."""

from __future__ import annotations

import json
from collections.abc import Sequence as Seq
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tercet.core.errors import MissingExtraError, RequestError, UsageError
from tercet.engine.backend import DeviceBackend, make_backend, require_dtype
from tercet.engine.encoder import EmbeddingLayout, Picture, Pixels
from tercet.engine.llava import is_llava, vision_weights
from tercet.engine.vision_tower import VisionTower

_LAYOUT = "rows-1"
"""Part of the fingerprint: what a row means, and in which order rows come."""


class VisionExecutor:
    """Encodes pictures with torch; an Encoder. Owned by one thread."""

    def __init__(self, tower: VisionTower, backend: DeviceBackend, hidden_size: int, fingerprint: str) -> None:
        """`fingerprint` names weights, preprocessing and dtype: rows are exchanged only between equal ones."""
        self._tower = tower
        self._backend = backend
        self.hidden_size = hidden_size
        self.dtype = backend.weight_dtype or torch.float32
        self._layout = EmbeddingLayout(hidden_size * self.dtype.itemsize, fingerprint)

    @property
    def layout(self) -> EmbeddingLayout:
        """See Encoder."""
        return self._layout

    @property
    def tokens_per_picture(self) -> int:
        """Rows, and so prompt tokens, of one picture."""
        return self._tower.shape.tokens

    @property
    def image_size(self) -> int:
        """Height and width in pixels of what the tower takes."""
        return self._tower.shape.image

    @property
    def kernels(self) -> str:
        """Name what computes, for logs."""
        return self._backend.kernels

    def tokens(self, pixels: Pixels) -> int:
        """Return the rows of a picture. Raises RequestError 400 for pixels of another shape."""
        size = self.image_size
        if tuple(pixels.shape) != (3, size, size):
            raise RequestError(
                400, f"the picture's pixels are {tuple(pixels.shape)}: the model takes (3, {size}, {size})"
            )
        return self.tokens_per_picture

    def blank(self) -> Pixels:
        """Return a grey picture."""
        return np.zeros((3, self.image_size, self.image_size), np.float32)

    def encode(self, pictures: Seq[Picture]) -> list[memoryview]:
        """Return each picture's rows as bytes; see `rows`."""
        encoded = [self.rows(torch.from_numpy(np.ascontiguousarray(picture.pixels))) for picture in pictures]
        return [rows.view(torch.uint8).numpy().data.cast("B") for rows in encoded]

    def rows(self, pixels: torch.Tensor) -> torch.Tensor:
        """[3, image_size, image_size], preprocessed, -> [tokens_per_picture, hidden_size] in `dtype` on the CPU.

        One picture at a time: a matrix product of another height may round otherwise, and a picture's rows must be the
        same bits whatever it is encoded together with. A picture has rows enough to fill a core's vectors.
        """
        with torch.inference_mode():
            rows = self._tower.rows(pixels.to(self._backend.device, torch.float32))
            return rows.to("cpu", self.dtype).contiguous()

    def close(self) -> None:
        """Drop the weights. The executor is unusable after it."""
        del self._tower


def build_vision_executor(
    model_dir: Path, *, dtype: str, device: str, threads: int, random_weights: bool = False, seed: int = 0
) -> VisionExecutor:
    """Load tower and projector of a LLaVA-like folder; with `random_weights` they are drawn from `seed`.

    Raises UsageError when the folder holds no model that sees, or one whose tower the encoder doesn't know.
    """
    backend = make_backend(device, dtype, threads)
    config = _config(model_dir)
    weights = _random_weights(config, seed) if random_weights else vision_weights(model_dir)
    tower = VisionTower(config, weights, backend)
    origin = _origin(seed) if random_weights else _weights_hash(weights)
    hidden = int(config.text_config.hidden_size)
    return VisionExecutor(tower, backend, hidden, _fingerprint(model_dir, config, origin, dtype))


def vision_layout(model_dir: Path, *, dtype: str, random_weights: bool = False, seed: int = 0) -> EmbeddingLayout:
    """Return the layout that `build_vision_executor` would, for an engine that only reads embeddings.

    Reads the weights, to name them, and keeps none. Raises as that does.
    """
    require_dtype(dtype)
    config = _config(model_dir)
    origin = _origin(seed) if random_weights else _weights_hash(vision_weights(model_dir))
    size = (torch.bfloat16 if dtype == "bf16" else torch.float32).itemsize
    return EmbeddingLayout(int(config.text_config.hidden_size) * size, _fingerprint(model_dir, config, origin, dtype))


def _origin(seed: int) -> str:
    return f"random:{seed}:{torch.__version__}"


def _config(folder: Path) -> Any:
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise MissingExtraError("engine", "the built-in encoder") from error
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} holds no config.json: give a model folder in Hugging Face layout")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{folder}/config.json can't be used: {error}") from error
    if not is_llava(config):
        raise UsageError(
            f"{folder} holds a {config.model_type!r} model, which does not see: stage encode needs a LLaVA"
        )
    return config


def _random_weights(config: Any, seed: int) -> dict[str, torch.Tensor]:
    """Draw tower and projector as transformers initialises them; the language model is never made."""
    from transformers import CLIPVisionModel
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = {
            "vision_tower": CLIPVisionModel._from_config(config.vision_config),
            "multi_modal_projector": LlavaMultiModalProjector(config),
        }
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}


def _weights_hash(weights: dict[str, torch.Tensor]) -> str:
    """Hash names, types, shapes and every byte."""
    total = blake2b(digest_size=16)
    for name in sorted(weights):
        weight = weights[name].contiguous()
        total.update(f"{name}:{weight.dtype}:{tuple(weight.shape)};".encode())
        total.update(weight.flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def _fingerprint(folder: Path, config: Any, weights: str, dtype: str) -> str:
    """Return 32 hex digits that name weights, what is read of the tower, preprocessing and dtype."""
    preprocessing = _settings(folder / "preprocessor_config.json")
    if preprocessing is None:  # newer folders keep it elsewhere
        preprocessing = (_settings(folder / "processor_config.json") or {}).get("image_processor")
    reads = [config.vision_feature_layer, config.vision_feature_select_strategy, config.projector_hidden_act]
    vision = {k: v for k, v in config.vision_config.to_dict().items() if k in _RELEVANT}
    parts = [_LAYOUT, weights, reads, vision, preprocessing, dtype]
    return blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _settings(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return settings


_RELEVANT = frozenset(
    {
        "hidden_act",
        "hidden_size",
        "image_size",
        "layer_norm_eps",
        "num_attention_heads",
        "num_hidden_layers",
        "patch_size",
    }
)
