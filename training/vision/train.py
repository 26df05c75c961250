"""Train tower and projector: a picture's rows learn to lie where SmolLM2's embeddings of its caption lie.

    python -m training.vision.train --out DIR --minutes 8      # again and again: it goes on where it stopped

No gradient goes through the language model, which is never run. Seeded: every step draws its own pictures from (seed,
step), so a run in pieces sees what a run in one go sees.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn

from tercet.media.preprocess import Preprocessing, parse_preprocessing
from training.vision.caption import Captions, language_embeddings
from training.vision.pictures import picture_stream


@dataclass(frozen=True, slots=True)
class TowerShape:
    """Sizes of the tower; its rows are patches, so (image / patch) ** 2 of them."""

    image: int = 112
    patch: int = 16
    width: int = 192
    layers: int = 6
    heads: int = 3

    @property
    def rows(self) -> int:
        """Rows of one picture."""
        return (self.image // self.patch) ** 2

    def config(self) -> dict[str, Any]:
        """Return the tower's part of config.json."""
        return {
            "model_type": "clip_vision_model",
            "hidden_act": "gelu",
            "hidden_size": self.width,
            "image_size": self.image,
            "intermediate_size": 4 * self.width,
            "layer_norm_eps": 1e-5,
            "num_attention_heads": self.heads,
            "num_channels": 3,
            "num_hidden_layers": self.layers,
            "patch_size": self.patch,
            "projection_dim": self.width,
        }

    def preprocessing(self) -> dict[str, Any]:
        """Return preprocessor_config.json: squeezed to a square, so that nothing is cropped away."""
        return {
            "image_processor_type": "CLIPImageProcessor",
            "do_center_crop": False,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "crop_size": {"height": self.image, "width": self.image},
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"height": self.image, "width": self.image},
        }


class Seer(nn.Module):
    """CLIP's tower and LLaVA-1.5's projector, as transformers computes them with vision_feature_layer -1."""

    def __init__(self, shape: TowerShape, hidden: int) -> None:
        from transformers import CLIPVisionConfig, CLIPVisionModel

        super().__init__()
        self.vision_tower = CLIPVisionModel(CLIPVisionConfig(**shape.config()))
        # CLIP's 0.02 drowns in the patches: which word of the caption a row stands for is learned from its place.
        nn.init.normal_(self.vision_tower.embeddings.position_embedding.weight, std=0.5)
        self.multi_modal_projector = nn.ModuleDict(
            {"linear_1": nn.Linear(shape.width, hidden), "linear_2": nn.Linear(hidden, hidden)}
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """[n, 3, image, image] -> [n, rows, hidden]."""
        seen = self.vision_tower(pixels).last_hidden_state[:, 1:]
        projector = self.multi_modal_projector
        rows: torch.Tensor = projector["linear_2"](F.gelu(projector["linear_1"](seen)))
        return rows


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and how fast: `steps` of `batch` pictures; a rate that rises over `warmup` steps, falls as a cosine."""

    seed: int = 0
    steps: int = 900
    batch: int = 64
    rate: float = 1e-3
    warmup: int = 60
    decay: float = 0.05


class Trainer:
    """A run in progress; `save` and `load` make it survive its process."""

    def __init__(self, shape: TowerShape, recipe: Recipe, tokenizer: Tokenizer, table: torch.Tensor) -> None:
        """`table` [vocabulary, hidden] are the language model's embeddings."""
        torch.manual_seed(recipe.seed)
        self.shape, self.recipe = shape, recipe
        self.model = Seer(shape, table.shape[1])
        self.step = 0
        self._table = table
        self._captions = Captions(tokenizer, shape.rows)
        self._words = torch.tensor(self._captions.vocabulary())
        self._index = {int(token): i for i, token in enumerate(self._words)}
        self._spread = float(table[self._words].std())
        self._prepare: Preprocessing = parse_preprocessing(shape.preprocessing())
        decayed = [p for p in self.model.parameters() if p.dim() > 1]
        others = [p for p in self.model.parameters() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": recipe.decay}, {"params": others, "weight_decay": 0.0}]
        self._optimiser = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98), fused=True)

    def advance(self) -> tuple[float, float]:
        """Make one step; return the loss and the share of rows that lie nearest to their own word."""
        pixels, labels = self._batch()
        for group in self._optimiser.param_groups:
            group["lr"] = self.recipe.rate * self._schedule()
        with torch.autocast("cpu", torch.bfloat16, enabled=self._units):
            rows = self.model(pixels)
        loss, right = self._loss(rows.float(), labels)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimiser.step()
        self.step += 1
        return float(loss.detach()), right

    def _loss(self, rows: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Squared distance to the word's embedding, and the word's surprise among all words by that distance."""
        words = self._table[self._words]
        distance = torch.cdist(rows.flatten(0, 1), words) ** 2 / (self._spread**2 * words.shape[1])
        labels = labels.flatten()
        near = distance.gather(1, labels[:, None]).mean()
        surprise = F.cross_entropy(-8.0 * distance, labels)
        right = float((distance.argmin(1) == labels).float().mean())
        return near + 0.5 * surprise, right

    @property
    def _units(self) -> bool:
        return torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.ops.mkldnn._is_mkldnn_bf16_supported()

    def _batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        seed = int(np.random.SeedSequence([self.recipe.seed, self.step]).generate_state(1)[0])
        # Drawn at the tower's size or thereabouts: pictures of any size end there, and drawing costs less.
        rng = np.random.default_rng(seed)
        side = self.shape.image
        size = (int(side * rng.uniform(0.9, 2.0)), int(side * rng.uniform(0.9, 2.0)))
        drawn = picture_stream(seed, size)
        some = [next(drawn) for _ in range(self.recipe.batch)]
        pixels = torch.from_numpy(np.stack([self._prepare(picture) for picture, _ in some]))
        labels = [[self._index[token] for token in self._captions.ids(facts)] for _, facts in some]
        return pixels, torch.tensor(labels)

    def _schedule(self) -> float:
        warmup, steps = self.recipe.warmup, self.recipe.steps
        if self.step < warmup:
            return (self.step + 1) / warmup
        return 0.02 + 0.98 * (1 + math.cos(math.pi * min((self.step - warmup) / (steps - warmup), 1.0))) / 2

    def save(self, path: Path) -> None:
        """Write the whole state."""
        state = {
            "shape": asdict(self.shape),
            "recipe": asdict(self.recipe),
            "step": self.step,
            "model": self.model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a saved state of the same shape and recipe."""
        state = torch.load(path, weights_only=True)
        if state["shape"] != asdict(self.shape) or state["recipe"] != asdict(self.recipe):
            raise SystemExit(f"{path} is a run of another shape or recipe: remove it or choose another --out")
        self.model.load_state_dict(state["model"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]


def main() -> None:
    """Train for some minutes, or to the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so many, and go on next time")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=900)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    from tercet.engine.models.store import resolve

    folder = resolve("smollm2-135m").path
    recipe = Recipe(seed=options.seed, steps=options.steps)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    trainer = Trainer(TowerShape(), recipe, tokenizer, language_embeddings(folder))
    options.out.mkdir(parents=True, exist_ok=True)
    checkpoint = options.out / "checkpoint.pt"
    if checkpoint.is_file():
        trainer.load(checkpoint)
    started = time.monotonic()
    while trainer.step < recipe.steps and time.monotonic() - started < options.minutes * 60:
        loss, right = trainer.advance()
        if trainer.step % 20 == 0 or trainer.step == recipe.steps:
            seconds = time.monotonic() - started
            print(f"step {trainer.step}  loss {loss:.4f}  words right {right:.4f}  {seconds:.0f} s", flush=True)
    trainer.save(checkpoint)


if __name__ == "__main__":
    main()
