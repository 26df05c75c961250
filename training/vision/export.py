"""Write a trained tower and projector as the package ships them: fp16 safetensors and the configuration around them.

python -m training.vision.export --out DIR
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from training.vision.train import TowerShape

PART = Path(__file__).parents[2] / "src" / "tercet" / "engine" / "models" / "smollm2_vision"


def export(shape: TowerShape, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Write `weights`, named as `train.Seer` names them, into the folder of package data."""
    renamed = {
        name.replace("vision_tower.", "vision_tower.vision_model.", 1): weight.half().contiguous()
        for name, weight in weights.items()
        if "position_ids" not in name
    }
    save_file(renamed, folder / "tower.safetensors", metadata={"format": "pt"})
    _write(folder / "config.json", _config(shape))
    _write(folder / "preprocessor_config.json", shape.preprocessing())
    _write(
        folder / "processor_config.json",
        {
            "processor_class": "LlavaProcessor",
            "image_token": "<image>",
            "num_additional_image_tokens": 1,
            "patch_size": shape.patch,
            "vision_feature_select_strategy": "default",
        },
    )


def _config(shape: TowerShape) -> dict[str, Any]:
    """Return config.json without its language model, which is added where the model is assembled."""
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "dtype": "bfloat16",
        "image_seq_length": shape.rows,
        "multimodal_projector_bias": True,
        "projector_hidden_act": "gelu",
        "vision_config": shape.config(),
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Export a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--part", type=Path, default=PART, help="folder to write")
    options = parser.parse_args()
    state = torch.load(options.out / "checkpoint.pt", weights_only=True)
    export(TowerShape(**state["shape"]), state["model"], options.part)
    print(f"step {state['step']}: {(options.part / 'tower.safetensors').stat().st_size / 1e6:.1f} MB in {options.part}")


if __name__ == "__main__":
    main()
