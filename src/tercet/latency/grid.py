"""The grid oracle: step latencies sampled from aiconfigurator-core, shipped with the package."""

from __future__ import annotations

import io
import json
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from tercet.latency.grid_axes import IMAGES, PATCHES
from tercet.latency.grid_tables import Array, GridParts
from tercet.latency.parts import PartsOracle

_PARTS = ("tokens", "logits", "decode", "prompt")


@cache
def grid_about() -> dict[str, Any]:
    """Return what is known of the grid: its source, licence, entries, measured interpolation error."""
    text = (files("tercet.latency") / "data" / "grid.json").read_text(encoding="utf-8")
    about: dict[str, Any] = json.loads(text)
    return about


def grid_has(gpu: str, engine: str, model: str, tp: int) -> bool:
    """Return whether these tables are shipped."""
    return f"{gpu}/{engine}/{model}/{tp}" in grid_about()["entries"]


def grid_missing(gpu: str, engine: str, model: str, tp: int) -> str:
    """Return why these tables are not shipped, "" when nobody knows."""
    key = f"{gpu}/{engine}/{model}/{tp}: "
    found = [each.removeprefix(key) for each in grid_about()["missing"] if each.startswith(key)]
    return found[0] if found else ""


def grid_version(gpu: str, engine: str, model: str, tp: int) -> str:
    """Return the engine's version that was measured."""
    return str(grid_about()["entries"][f"{gpu}/{engine}/{model}/{tp}"]["version"])


def grid_oracle(
    gpu: str, engine: str, model: str, tp: int, *, memory_share: float, image_ms: tuple[float, ...] = (0.0,)
) -> PartsOracle:
    """Return the oracle of shipped tables. `memory_share` of each GPU is for weights and KV.

    Raises KeyError when they are not shipped, and ValueError when no KV fits.
    """
    entry = grid_about()["entries"][f"{gpu}/{engine}/{model}/{tp}"]
    key = f"{engine}/{model}/{tp}"
    parts = GridParts(_tables(gpu, tuple(f"{key}/{part}" for part in _PARTS)))
    room = entry["total"] * memory_share - entry["other"]
    tokens = int(room // entry["kv_token"])
    if tokens < 1:
        raise ValueError(f"{entry['other'] / 1e9:.1f} GB beside KV leave no room of {memory_share:.0%} of a {gpu}")
    return PartsOracle(parts, int(entry["kv_bytes"]), tokens, image_ms)


def tower_ms(gpu: str, engine: str, tower: str, tiles: int, patches: int) -> tuple[float, ...]:
    """Return the times in ms of 0, 1, 2, ... pictures of `tiles` tiles of `patches` patches each."""
    table = _tables(gpu, (f"{engine}/{tower}",))[tower]
    by_images = [float(np.interp(patches, PATCHES, row)) for row in table]
    most = IMAGES[-1] // tiles
    times = np.interp(np.arange(1, most + 1) * tiles, IMAGES, by_images)
    return (0.0, *(float(each) for each in times))


def _tables(gpu: str, names: tuple[str, ...]) -> dict[str, Array]:
    data = (files("tercet.latency") / "data" / f"grid-{gpu}.npz").read_bytes()
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name.rsplit("/", 1)[-1]: archive[name].astype(np.float64) for name in names}
