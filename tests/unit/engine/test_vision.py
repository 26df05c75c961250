"""The encoder against transformers' own LLaVA, on a tiny one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tercet.core.errors import RequestError, UsageError
from tercet.engine.backend import CpuBackend
from tercet.engine.encoder import Picture
from tercet.engine.llava import language_weights, vision_weights
from tercet.engine.models.random_model import random_model_folder
from tercet.engine.vision import VisionExecutor, build_vision_executor, vision_layout
from tercet.engine.vision_tower import VisionTower
from tests.unit.engine.model_lab import write_config

PIXELS = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def build(folder: Path, *, dtype: str = "fp32", random_weights: bool = False, seed: int = 0) -> VisionExecutor:
    return build_vision_executor(folder, dtype=dtype, device="cpu", threads=1, random_weights=random_weights, seed=seed)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder without weights."""
    return random_model_folder("tiny-llava", tmp_path_factory.mktemp("cache")).path


def save(plain: Path, folder: Path, **changes: Any) -> Any:
    """Let transformers save a model of the tiny shape; return it."""
    from transformers import AutoConfig, LlavaForConditionalGeneration

    shutil.copytree(plain, folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(5)
    model = LlavaForConditionalGeneration._from_config(AutoConfig.from_pretrained(folder)).eval()
    for name, parameter in model.named_parameters():
        if "vision_tower" in name or "projector" in name:  # nothing is 0 or 1, so that leaving it out shows
            torch.nn.init.normal_(parameter, mean=0.2 if "norm" in name else 0.0, std=0.3)
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def folder(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llava") / "model"
    save(plain, path)
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"vision_feature_layer": -1},
        {"vision_feature_layer": [-2, 1], "vision_feature_select_strategy": "full"},
        {"projector_hidden_act": "quick_gelu", "multimodal_projector_bias": False},
    ],
    ids=str,
)
def test_the_same_rows_as_transformers(plain: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    model = save(plain, tmp_path / "model", **changes)
    with torch.inference_mode():
        expected = torch.stack(list(model.get_image_features(pixel_values=PIXELS, return_dict=True).pooler_output))
    executor = build(tmp_path / "model")
    rows = torch.stack([executor.rows(pixels) for pixels in PIXELS])
    assert rows.shape == (5, executor.tokens_per_picture, executor.hidden_size) == expected.shape
    assert (executor.image_size, executor.hidden_size, rows.dtype) == (32, 64, torch.float32)
    torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_picture_has_the_same_bits_in_every_batch(folder: Path, dtype: str) -> None:
    executor = build(folder, dtype=dtype)
    pictures = [Picture(str(number), pixels.numpy()) for number, pixels in enumerate(PIXELS)]
    together = [bytes(rows) for rows in executor.encode(pictures)]
    assert executor.dtype == (torch.float32 if dtype == "fp32" else torch.bfloat16)
    for picture, rows in zip(pictures, together, strict=True):
        assert [bytes(alone) for alone in executor.encode([picture])] == [rows]
        assert len(rows) == executor.tokens(picture.pixels) * executor.layout.row_bytes
        read = torch.frombuffer(bytearray(rows), dtype=executor.dtype).view(16, 64)
        assert torch.equal(read, executor.rows(torch.from_numpy(picture.pixels)))
    assert [bytes(rows) for rows in executor.encode(pictures[::-1])] == together[::-1]
    assert len(set(together)) == 5
    assert executor.encode([]) == []


@pytest.mark.parametrize("choices", [{"compiled": False}, {"native_bf16": True}, {"native_bf16": False}], ids=str)
def test_all_forms_are_close(folder: Path, choices: dict[str, bool]) -> None:
    from transformers import AutoConfig

    backend = CpuBackend("bf16", 1, **choices)
    tower = VisionTower(AutoConfig.from_pretrained(folder), vision_weights(folder), backend)
    expected = build(folder).rows(PIXELS[0])
    with torch.inference_mode():
        rows = tower.rows(PIXELS[0]).float()
    assert float((rows - expected).norm() / expected.norm()) < 0.03


def test_the_fingerprint_names_weights_preprocessing_and_type(folder: Path, plain: Path, tmp_path: Path) -> None:
    first = build(folder).layout.fingerprint
    assert first == build(folder).layout.fingerprint
    for dtype in ("fp32", "bf16"):
        assert vision_layout(folder, dtype=dtype) == build(folder, dtype=dtype).layout
    assert (
        vision_layout(plain, dtype="bf16", random_weights=True)
        == build(plain, dtype="bf16", random_weights=True).layout
    )
    other = shutil.copytree(folder, tmp_path / "other")
    settings = json.loads((other / "preprocessor_config.json").read_text())
    (other / "preprocessor_config.json").write_text(json.dumps({**settings, "resample": 2}))
    newer = [shutil.copytree(folder, tmp_path / f"newer-{resample}") for resample in (2, 1)]
    for resample, path in zip((2, 1), newer, strict=True):
        (path / "preprocessor_config.json").unlink()
        processor = {"processor_class": "LlavaProcessor", "image_processor": {**settings, "resample": resample}}
        (path / "processor_config.json").write_text(json.dumps(processor))
    assert build(newer[0]).layout == build(other).layout
    reads = shutil.copytree(folder, tmp_path / "reads")
    config = json.loads((reads / "config.json").read_text())
    (reads / "config.json").write_text(json.dumps({**config, "vision_feature_layer": -1}))
    random = [build(plain, random_weights=True, seed=seed).layout.fingerprint for seed in (0, 1)]
    others = [build(other), build(newer[1]), build(reads), build(folder, dtype="bf16")]
    assert len({first, *random, *(executor.layout.fingerprint for executor in others)}) == 7


def test_random_weights_are_seeded(plain: Path) -> None:
    first, again, other = (build(plain, random_weights=True, seed=seed).rows(PIXELS[0]) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_either_half_is_read_without_the_other(folder: Path) -> None:
    language, vision = language_weights(folder), vision_weights(folder)
    assert {name.split(".")[0] for name in language} == {"model", "lm_head"}
    assert {name.split(".")[0] for name in vision} == {"vision_tower", "multi_modal_projector"}


def test_what_can_not_see_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="does not see"):
        build(write_config(tmp_path / "text"), random_weights=True)
    with pytest.raises(UsageError, match=r"no config\.json"):
        build(tmp_path)
    other = shutil.copytree(folder, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["vision_config"] = {"model_type": "siglip_vision_model", "hidden_size": 32, "image_size": 32}
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="siglip_vision_model"):
        build(other)
    executor = build(folder)
    assert executor.tokens(executor.blank()) == executor.tokens_per_picture == 16
    with pytest.raises(RequestError, match=r"takes \(3, 32, 32\)"):
        executor.tokens(np.zeros((3, 32, 31), np.float32))
