"""Vision towers by aiconfigurator-core."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tercet.latency.grid_axes import IMAGES, PATCHES
from tercet.latency.live import SYSTEMS, engine_version


class Tower:
    """One tower on one GPU with one engine."""

    def __init__(self, config: dict[str, Any], gpu: str, engine: str) -> None:
        from aiconfigurator_core.sdk import common, perf_database
        from aiconfigurator_core.sdk.backends.factory import get_backend
        from aiconfigurator_core.sdk.config_builders import build_model_config
        from aiconfigurator_core.sdk.models.blocks.vit import EncoderOnlyModel, build_encoder_ops

        encoder = common.VisionEncoderConfig(**config)
        settings = build_model_config(tp_size=1, pp_size=1, attention_dp_size=1, moe_tp_size=1, moe_ep_size=1)
        self._merge = config["spatial_merge_size"] ** 2
        self._model = EncoderOnlyModel(build_encoder_ops(encoder, 1), encoder, settings)
        system = SYSTEMS[gpu]
        self._database = perf_database.get_database(system, engine, engine_version(system, engine))
        self._backend = get_backend(engine)

    def encode(self, images: int, patches: int) -> float:
        """Return the milliseconds of `images` pictures of `patches` patches each."""
        from aiconfigurator_core.sdk.config import RuntimeConfig

        request = RuntimeConfig(
            batch_size=1, isl=1, osl=1, num_image_tokens=patches // self._merge, num_images_per_request=images
        )
        return float(self._backend.run_encoder_static(self._model, self._database, request, 1)[0])

    def table(self) -> npt.NDArray[np.float64]:
        """Return [images, patches] milliseconds on the grid's axes."""
        return np.array([[self.encode(n, patches) for patches in PATCHES] for n in IMAGES])
