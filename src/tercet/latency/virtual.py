"""The oracle of a virtual GPU that serves a model folder: any model must run, however small."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tercet.core.errors import UsageError
from tercet.latency.gpus import MEMORY_SHARE, named_oracle
from tercet.latency.grid import grid_has, grid_oracle, tower_ms
from tercet.latency.known_models import recognise
from tercet.latency.linear import LinearOracle
from tercet.latency.model_size import model_size
from tercet.latency.parts import PartsOracle
from tercet.latency.shape import shape_of


def virtual_oracle(gpu: str, config: Mapping[str, Any], dtype: str) -> PartsOracle | LinearOracle:
    """Return the shipped tables' oracle (vLLM, TP 1) when config.json is of a model that has some, else a linear one.

    Raises UsageError when the GPU is unknown or the weights do not fit it.
    """
    name = gpu.lower()
    try:
        known = recognise(shape_of(config))
    except UsageError:
        known = None
    if known is None or dtype != "bf16" or not grid_has(name, "vllm", known.grid, 1):
        text: Mapping[str, Any] = config.get("text_config", config)
        return named_oracle(gpu, model_size(text, dtype))
    image_ms = tower_ms(name, "vllm", "clip-l", 5, 576) if "vision_config" in config else (0.0,)
    return grid_oracle(name, "vllm", known.grid, 1, memory_share=MEMORY_SHARE, image_ms=image_ms)
