"""From an RGB picture to what a vision tower takes: resized, cropped, scaled and normalised as the model's folder says.

Equal to the PIL image processors of transformers (CLIP's and those of the same steps), without torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tercet.core.errors import UsageError
from tercet.media.errors import PictureError

FILE = "preprocessor_config.json"
MAX_RATIO = 100
"""Where proportions are kept, a thread one pixel wide would become gigabytes."""

_FORMAT = 1
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_KNOWN = frozenset({"CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPFeatureExtractor"})


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """The steps, in this order; None leaves one out. Sizes are (height, width) in pixels.

    `resize` makes the picture exactly that large, `shortest_edge` keeps its proportions. `crop` takes the middle and
    fills what is missing with black. `scale` multiplies the bytes, `mean` and `std` are each channel's.
    """

    resize: tuple[int, int] | None
    shortest_edge: int | None
    resample: int
    crop: tuple[int, int] | None
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def id(self) -> str:
        """Return what names these steps: part of every hash of what a model sees."""
        text = json.dumps([_FORMAT, asdict(self)], sort_keys=True)
        return blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def size(self) -> tuple[int, int] | None:
        """Return height and width of every result, or None when they depend on the picture."""
        return self.crop or self.resize

    def __call__(self, picture: Image.Image) -> npt.NDArray[np.float32]:
        """Return [3, height, width]. Takes a few milliseconds: call it off the event loop.

        Raises PictureError for a picture that is all length.
        """
        pixels = _cropped(np.asarray(self._resized(picture.convert("RGB"))), self.crop)
        table = self._table()
        # A byte has 256 values: looking the result up is exact, and quicker than arithmetic on every pixel.
        return np.stack([table[channel][pixels[:, :, channel]] for channel in range(3)])

    def _resized(self, picture: Image.Image) -> Image.Image:
        target = self.resize
        if self.shortest_edge is not None:
            width, height = picture.size
            short, long = min(width, height), max(width, height)
            if long > MAX_RATIO * short:
                raise PictureError(f"{width} x {height} pixels: one side may be {MAX_RATIO} times the other at most")
            other = int(self.shortest_edge * long / short)
            target = (other, self.shortest_edge) if width <= height else (self.shortest_edge, other)
        if target is None or target == (picture.height, picture.width):
            return picture
        return picture.resize((target[1], target[0]), resample=Image.Resampling(self.resample))

    def _table(self) -> npt.NDArray[np.float32]:
        """Return [3, 256]: what each byte of each channel becomes."""
        values = (np.arange(256, dtype=np.float64) * self.scale).astype(np.float32)
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        table: npt.NDArray[np.float32] = (values[None] - mean[:, None]) / std[:, None]
        return table


def _cropped(pixels: npt.NDArray[np.uint8], size: tuple[int, int] | None) -> npt.NDArray[np.uint8]:
    """Take the middle of `pixels` [height, width, 3]."""
    if size is None:
        return pixels
    (height, width), (want_height, want_width) = pixels.shape[:2], size
    top, left = (height - want_height) // 2, (width - want_width) // 2
    if top >= 0 and left >= 0:
        return pixels[top : top + want_height, left : left + want_width]
    page = np.zeros((max(height, want_height), max(width, want_width), 3), np.uint8)
    # Where the margin is odd, the larger half comes first.
    down, right = -(-(page.shape[0] - height) // 2), -(-(page.shape[1] - width) // 2)
    page[down : down + height, right : right + width] = pixels
    top, left = top + down, left + right
    return page[max(top, 0) : top + want_height, max(left, 0) : left + want_width]


def load_preprocessing(folder: Path) -> Preprocessing:
    """Read a model folder's preprocessor_config.json (or processor_config.json, where newer ones keep it).

    Raises UsageError when there is none or it asks for steps that are not these.
    """
    path = folder / FILE
    settings = _read(path)
    if settings is None:
        path = folder / "processor_config.json"
        settings = (_read(path) or {}).get("image_processor")
    if not isinstance(settings, dict):
        raise UsageError(f"{folder} has no {FILE}: a model that sees needs one, to say what its pictures go through")
    try:
        return parse_preprocessing(settings)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} can't be used: {error}") from error


def parse_preprocessing(settings: Mapping[str, Any]) -> Preprocessing:
    """Read the settings of an image processor. Raises ValueError, KeyError or TypeError for what is not understood."""
    kind = settings.get("image_processor_type") or settings.get("feature_extractor_type") or "CLIPImageProcessor"
    if kind not in _KNOWN:
        raise ValueError(f"its image processor {kind!r} is not one of {', '.join(sorted(_KNOWN))}")
    size = settings.get("size", 224) if settings.get("do_resize", True) else None
    crop = settings.get("crop_size", 224) if settings.get("do_center_crop", True) else None
    exact, shortest = _size(size)
    normalise = settings.get("do_normalize", True)
    return Preprocessing(
        resize=exact,
        shortest_edge=shortest,
        resample=int(settings.get("resample", Image.Resampling.BICUBIC)),
        crop=None if crop is None else _both(crop),
        scale=float(settings.get("rescale_factor", 1 / 255)) if settings.get("do_rescale", True) else 1.0,
        mean=_channels(settings.get("image_mean", _CLIP_MEAN)) if normalise else (0.0, 0.0, 0.0),
        std=_channels(settings.get("image_std", _CLIP_STD)) if normalise else (1.0, 1.0, 1.0),
    )


def _size(size: Any) -> tuple[tuple[int, int] | None, int | None]:
    """Return (exact size, shortest edge), one of them or neither; a bare number is the shortest edge, as in CLIP."""
    if size is None:
        return None, None
    if isinstance(size, int):
        return None, size
    if "shortest_edge" in size and "longest_edge" not in size:
        return None, int(size["shortest_edge"])
    return _both(size), None


def _both(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    return int(size["height"]), int(size["width"])


def _channels(values: Any) -> tuple[float, ...]:
    found = tuple(float(value) for value in values)
    if len(found) != 3:
        raise ValueError(f"{len(found)} channels are given, pictures have 3")
    return found


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} can't be read as JSON: {error}") from error
    return settings if isinstance(settings, dict) else None
