"""What a picture is to a model that sees: tiles and patches to encode, and tokens in the prompt."""

from __future__ import annotations

from dataclasses import dataclass

_TILE = 336
_GRIDS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
"""LLaVA-1.6's resolutions, in tiles of 336 pixels: (wide, high)."""
_SIDE = 24
"""Patches along the side of a tile."""


@dataclass(frozen=True, slots=True)
class Picture:
    """`tiles` pictures of `patches` patches each are encoded; `tokens` enter the prompt."""

    tiles: int
    patches: int
    tokens: int


def picture_for(tower: str, width: int, height: int) -> Picture:
    """Return what a picture of so many pixels becomes.

    CLIP as LLaVA-1.6 uses it (anyres: tiles and an overview, padding cut off), Qwen's at their own resolution.
    """
    if tower == "clip-l":
        return _anyres(width, height)
    patch = 14 if tower == "qwen2.5-vl" else 16
    stride = 2 * patch
    across, down = max(round(width / stride), 1), max(round(height / stride), 1)
    return Picture(1, 4 * across * down, across * down)


def _anyres(width: int, height: int) -> Picture:
    def usable(grid: tuple[int, int]) -> tuple[float, float]:
        shrink = min(grid[0] * _TILE / width, grid[1] * _TILE / height)
        used = min(int(width * shrink) * int(height * shrink), width * height)
        return used, -(grid[0] * grid[1] * _TILE * _TILE - used)

    wide, high = max(_GRIDS, key=usable)
    across, down = wide * _SIDE, high * _SIDE
    if width / height > across / down:
        down -= 2 * ((down - int(height * across / width)) // 2)
    else:
        across -= 2 * ((across - int(width * down / height)) // 2)
    return Picture(wide * high + 1, _SIDE * _SIDE, down * (across + 1) + _SIDE * _SIDE)
