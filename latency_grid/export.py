"""Writes src/tercet/latency/data/: samples aiconfigurator-core's step latencies onto a grid, and measures the error.

In an environment with `pip install aiconfigurator-core==0.12.0` and this repository's `src` on PYTHONPATH:

    python -m latency_grid.export
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import numpy as np

from latency_grid.check import measure_errors
from latency_grid.models import A100_TOWER_FACTOR, ENGINES, GPUS, SHARE, TOWERS, TP, models
from latency_grid.towers import Tower
from tercet.core.errors import UsageError
from tercet.latency import grid_axes as axes
from tercet.latency.grid_tables import Array
from tercet.latency.known_models import KNOWN
from tercet.latency.live import SYSTEMS, LiveParts, engine_version, live_memory

KNOWN_KV = {known.grid: known.shape.kv_token_bytes() for known in KNOWN}
"""Bytes of one token's KV over all GPUs; heads that tensor parallelism repeats count once."""
DATA = Path(__file__).parents[1] / "src" / "tercet" / "latency" / "data"


def sample(parts: LiveParts) -> dict[str, Array]:
    """Return the four tables of one model."""
    return {
        "tokens": np.array([parts.tokens(n) for n in axes.TOKENS]),
        "logits": np.array([parts.logits(n) for n in axes.SEQUENCES]),
        "decode": np.array(
            [[parts.decode_attention(n, context) for context in axes.DECODE_CONTEXT] for n in axes.DECODE_BATCH]
        ),
        "prompt": np.array(
            [
                [
                    [parts.prompt_attention(n, new, prefix) for prefix in axes.PROMPT_PREFIX]
                    for new in axes.PROMPT_TOKENS
                ]
                for n in axes.PROMPT_BATCH
            ]
        ),
    }


def compiled(model: str, gpu: str, engine: str, tp: int, experts: bool) -> tuple[LiveParts, bool]:
    """Return the parts of a model, split by experts where aiconfigurator has no other measurement."""
    try:
        return LiveParts(model, gpu, engine, tp=tp), False
    except UsageError:
        if not experts:
            raise
        return LiveParts(model, gpu, engine, tp=tp, moe_expert_parallel=True), True


def main() -> None:
    """Export, print the errors and the sizes."""
    core = metadata("aiconfigurator-core")
    about: dict[str, Any] = {
        "source": f"aiconfigurator-core {core['Version']}",
        "licence": core["License-Expression"],
        "holder": "NVIDIA CORPORATION & AFFILIATES",
        "entries": {},
        "missing": [],
        "towers": {},
        "errors": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        asked = models(Path(folder))
        for gpu in GPUS:
            tables: dict[str, Array] = {}
            for engine in ENGINES:
                for name, (model, experts) in asked.items():
                    for tp in TP:
                        add_model(about, tables, (name, model, experts), gpu, engine, tp)
                add_towers(about, tables, gpu, engine)
            write(gpu, tables)
    everything = [error for each in about["errors"].values() for error in each]
    about["errors"] = {
        key: {"median": float(np.median(each)), "p90": float(np.percentile(each, 90))}
        for key, each in about["errors"].items()
    }
    about["median_error"] = float(np.median(everything))
    about["p90_error"] = float(np.percentile(everything, 90))
    about["points"] = len(everything)
    (DATA / "grid.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    print(
        f"all: median {about['median_error']:.2%}, p90 {about['p90_error']:.2%} "
        f"on {len(everything)} points off the grid"
    )
    print(f"{sum(path.stat().st_size for path in DATA.iterdir()) / 1e6:.2f} MB in {DATA}")


def add_model(
    about: dict[str, Any], tables: dict[str, Array], what: tuple[str, str, bool], gpu: str, engine: str, tp: int
) -> None:
    """Sample one model, if it fits and was measured."""
    name, model, experts = what
    key = f"{engine}/{name}/{tp}"
    try:
        parts, split = compiled(model, gpu, engine, tp, experts)
    except UsageError as error:
        about["missing"].append(f"{gpu}/{key}: not measured")
        print(f"{gpu}/{key}: {error}", file=sys.stderr)
        return
    memory = live_memory(model, gpu, engine, tp=tp, moe_expert_parallel=split)
    if memory is None or memory["other"] > SHARE * memory["total"]:
        about["missing"].append(f"{gpu}/{key}: does not fit")
        return
    sampled = sample(parts)
    tables.update({f"{key}/{part}": table for part, table in sampled.items()})
    about["entries"][f"{gpu}/{key}"] = {
        **memory,
        "kv_bytes": KNOWN_KV[name],
        "version": parts.version,
        "expert_parallel": split,
    }
    errors = measure_errors(parts, sampled, seed=f"{gpu}/{key}")
    about["errors"].setdefault(f"{gpu}/{engine}", []).extend(errors)
    print(f"{gpu}/{key}: median {np.median(errors):.2%}, p90 {np.percentile(errors, 90):.2%}", flush=True)


def add_towers(about: dict[str, Any], tables: dict[str, Array], gpu: str, engine: str) -> None:
    """Sample the vision towers, an A100's from an H100's."""
    measured = "h100" if gpu == "a100" else gpu
    for name, config in TOWERS.items():
        factor = A100_TOWER_FACTOR if gpu == "a100" else 1.0
        tables[f"{engine}/{name}"] = factor * Tower(config, measured, engine).table()
        about["towers"][f"{gpu}/{engine}/{name}"] = {
            "version": engine_version(SYSTEMS[measured], engine),
            "from": measured,
            "patch": config["patch_size"],
            "merge": config["spatial_merge_size"],
        }


def write(gpu: str, tables: dict[str, Array]) -> None:
    """Write the tables of one GPU, in single precision."""
    DATA.mkdir(exist_ok=True)
    with (DATA / f"grid-{gpu}.npz").open("wb") as file:
        np.savez_compressed(
            file, allow_pickle=False, **{key: table.astype(np.float32) for key, table in tables.items()}
        )


if __name__ == "__main__":
    main()
