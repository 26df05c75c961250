"""What a picture costs: from its file to the rows that the language model reads, on one core.

    python -m benchmarks.vision.encode [--core N] [--models smollm2-vision,llava-1.5-like] [--dtypes fp32,bf16]

Medians of processor time in ms. The peer is transformers' own tower and projector, fp32, in the same run: the ratio of
the first dtype must stay below 1.1. Models that are not known by name are shapes, with random weights.
"""

from __future__ import annotations

import argparse
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.engine.lab import Timer, pin
from tercet.engine.models.store import known_model, random_model_folder, resolve
from tercet.engine.vision import build_vision_executor
from tercet.media.preprocess import load_preprocessing

PICTURE = (640, 480)
MOST = 1.1


def picture() -> bytes:
    """A smooth PNG with a little noise: as large as a photo of its size."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = coarse.resize(PICTURE, Image.Resampling.BICUBIC)
    pixels = np.asarray(smooth).astype(np.int16) + rng.integers(-4, 5, (PICTURE[1], PICTURE[0], 3))
    out = BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def peer(folder: Path, random: bool) -> Any:
    """Return transformers' own model; where weights are random, with next to no language model."""
    from transformers import AutoConfig, LlavaForConditionalGeneration

    if not random:
        return LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    config = AutoConfig.from_pretrained(folder)
    config.text_config.num_hidden_layers = 1
    config.text_config.intermediate_size = 64
    return LlavaForConditionalGeneration._from_config(config, dtype=torch.float32).eval()


def measure(name: str, dtypes: list[str], rounds: int) -> float:
    """Print one model's figures; return the fp32 encoder's time over transformers'."""
    known = known_model(name) is not None
    folder = resolve(name).path if known else random_model_folder(name).path
    prepare = load_preprocessing(folder)
    data, timer = picture(), Timer()
    pixels = prepare(Image.open(BytesIO(data)))
    executors = {
        dtype: build_vision_executor(folder, dtype=dtype, device="cpu", threads=1, random_weights=not known)
        for dtype in dtypes
    }
    theirs = peer(folder, not known)
    tensor = torch.from_numpy(pixels)
    for _ in range(rounds):
        timer.run("decode", lambda: Image.open(BytesIO(data)).load())
        timer.run("decode and preprocess", lambda: prepare(Image.open(BytesIO(data))))
        with torch.inference_mode():
            timer.run("transformers", lambda: theirs.get_image_features(pixel_values=tensor[None], return_dict=True))
        for dtype, executor in executors.items():
            timer.run(dtype, lambda e=executor: e.rows(tensor))  # type: ignore[misc]
    first = next(iter(executors.values()))
    print(f"\n{name}: {first.image_size} pixels, {first.tokens_per_picture} tokens of {first.hidden_size}")
    for what in ("decode", "decode and preprocess", "transformers"):
        print(f"  {what:<24}{timer.median(what) * 1e3:9.1f} ms")
    for dtype in dtypes:
        ratio = timer.ratio(dtype, "transformers")
    for dtype in dtypes:
        took, ratio = timer.median(dtype) * 1e3, timer.ratio(dtype, "transformers")
        print(f"  encode {dtype:<17}{took:9.1f} ms   {ratio:.2f} of transformers ({first.kernels})")
    return timer.ratio(dtypes[0], "transformers")


def main() -> int:
    """Measure every model; 1 when fp32 is slower than its peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--models", default="smollm2-vision")
    parser.add_argument("--dtypes", default="fp32,bf16")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    pin(options.core)
    torch.set_num_threads(1)
    ratios = [measure(name, options.dtypes.split(","), options.rounds) for name in options.models.split(",")]
    return 1 if max(ratios) > MOST else 0


if __name__ == "__main__":
    raise SystemExit(main())
