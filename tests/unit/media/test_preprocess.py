from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tercet.core.errors import UsageError
from tercet.media.errors import PictureError
from tercet.media.preprocess import load_preprocessing, parse_preprocessing

SIZES = [(100, 100), (63, 150), (151, 62), (480, 640), (97, 64), (3, 20)]

SETTINGS: list[dict[str, Any]] = [
    {},
    {"size": {"height": 112, "width": 80}, "do_center_crop": False},
    {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}},
    {"do_resize": False, "crop_size": {"height": 97, "width": 64}},
    {"size": {"shortest_edge": 50}, "crop_size": {"height": 97, "width": 64}, "resample": 2},
    {"do_normalize": False},
    {"do_rescale": False, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.1]},
]


def picture(height: int, width: int, mode: str = "RGB") -> Image.Image:
    channels = len(mode)
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels, mode)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: ",".join(s) or "CLIP")
def test_the_same_numbers_as_transformers(settings: dict[str, Any]) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    theirs = CLIPImageProcessorPil(**settings)
    ours = parse_preprocessing(json.loads(theirs.to_json_string()))
    for size in SIZES:
        expected = np.asarray(theirs(picture(*size))["pixel_values"][0])
        found = ours(picture(*size))
        assert found.dtype == np.float32 and found.shape == expected.shape
        np.testing.assert_array_equal(found, expected)
        if ours.size is not None:
            assert found.shape == (3, *ours.size)


def test_a_grey_picture_becomes_three_channels() -> None:
    assert parse_preprocessing({})(picture(40, 30, "L")).shape == (3, 224, 224)


def test_a_thread_does_not_become_gigabytes() -> None:
    thread = Image.new("RGB", (1, 20_000))
    with pytest.raises(PictureError, match="1 x 20000 pixels"):
        parse_preprocessing({})(thread)
    assert parse_preprocessing(SETTINGS[1])(thread).shape == (3, 112, 80)


def test_the_id_names_the_steps() -> None:
    ids = [parse_preprocessing(settings).id for settings in SETTINGS]
    assert len(set(ids)) == len(ids)
    assert ids[0] == parse_preprocessing({"size": 224, "crop_size": 224, "do_convert_rgb": True}).id


def test_settings_in_either_file(tmp_path: Path) -> None:
    settings = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 336}, "crop_size": 336}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    newer = load_preprocessing(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    assert load_preprocessing(tmp_path) == newer == parse_preprocessing(settings)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, r"has no preprocessor_config\.json"),
        ("{", "JSON"),
        ('{"image_processor_type": "SiglipImageProcessor"}', "SiglipImageProcessor"),
        ('{"size": {"longest_edge": 8}}', "can't be used"),
        ('{"image_mean": [1.0]}', "1 channels"),
    ],
)
def test_folders_that_can_not_be_used(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(UsageError, match=words):
        load_preprocessing(tmp_path)
