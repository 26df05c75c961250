"""Chooses the oracle for a model on a GPU: measured tables where there are some, else a rougher estimate."""

from __future__ import annotations

from tercet.core.errors import UsageError
from tercet.latency.gpus import GPU, find_gpu
from tercet.latency.grid import grid_about, grid_has, grid_missing, grid_oracle, grid_version, tower_ms
from tercet.latency.known_models import KnownModel, find_model
from tercet.latency.oracle import ChosenOracle, OracleSource
from tercet.latency.picture import Picture, picture_for
from tercet.latency.roofline import roofline_oracle

KINDS = ("auto", "grid", "live", "roofline")
ENGINES = ("vllm", "sglang", "trtllm")
MEMORY_SHARE = 0.9
"""Share of a GPU's memory for weights and KV: the default of vLLM's --gpu-memory-utilization."""
PICTURE = (1024, 768)
"""Pixels of a picture when nobody says."""


def oracle_for(
    model: str,
    gpu: str | GPU,
    engine: str = "vllm",
    tp: int = 1,
    *,
    kind: str = "auto",
    memory_share: float = MEMORY_SHARE,
    picture: tuple[int, int] = PICTURE,
) -> ChosenOracle:
    """Return the oracle of one rank: `tp` GPUs with a model under an engine.

    `model` is a known name or the path of a config.json (or its folder), `gpu` a name or what `parse_gpu_spec` read.
    `kind` auto takes the shipped grid, or the roofline where it has nothing; live asks aiconfigurator-core. Raises
    UsageError that says what is known, when the model, GPU or engine is not, or when no KV fits.
    """
    if kind not in KINDS:
        raise UsageError(f"unknown oracle {kind!r}: choose one of {', '.join(KINDS)}")
    if engine not in ENGINES:
        raise UsageError(f"no latencies are known of the engine {engine!r}: choose one of {', '.join(ENGINES)}")
    if not 1 <= tp <= 64:
        raise UsageError(f"tensor parallel over {tp} GPUs: 1, 2, 4 or 8 are usual")
    if kind == "live":
        return _live(model, gpu if isinstance(gpu, str) else gpu.name, engine, tp, memory_share, picture)
    known, device = find_model(model), find_gpu(gpu) if isinstance(gpu, str) else gpu
    seen = picture_for(known.tower, *picture) if known.tower else None
    if kind != "roofline" and known.grid and grid_has(device.name, engine, known.grid, tp):
        return _grid(known, device, engine, tp, memory_share, seen)
    reason = _why_no_grid(known, device, engine, tp)
    if kind == "grid" or "fit" in reason:
        raise UsageError(f"the grid can't tell of {known.name} on {tp} x {device.name} with {engine}: {reason}")
    return _roofline(known, device, tp, memory_share, seen, reason)


def _grid(
    known: KnownModel, device: GPU, engine: str, tp: int, memory_share: float, seen: Picture | None
) -> ChosenOracle:
    image_ms = tower_ms(device.name, engine, known.tower, seen.tiles, seen.patches) if seen else (0.0,)
    try:
        oracle = grid_oracle(device.name, engine, known.grid, tp, memory_share=memory_share, image_ms=image_ms)
    except ValueError as error:
        raise UsageError(f"{known.name} on {tp} x {device.name}: {error}; take more GPUs a replica") from None
    about = grid_about()
    version = grid_version(device.name, engine, known.grid, tp)
    summary = f"grid: {about['source']}'s kernel times of {engine} {version} on {device.name}, TP {tp}"
    assumed = [f"{memory_share:.0%} of the memory is for weights and KV", "weights and KV are bf16"]
    if seen:
        assumed.append(f"a picture is {seen.tiles} x {seen.patches} patches, {seen.tokens} tokens")
        if about["towers"][f"{device.name}/{engine}/{known.tower}"]["from"] != device.name:
            assumed.append("the vision tower's times are an H100's, times 3.17")
    return ChosenOracle(oracle, OracleSource("grid", summary, tuple(assumed)), device.link, seen.tokens if seen else 0)


def _roofline(
    known: KnownModel, device: GPU, tp: int, memory_share: float, seen: Picture | None, reason: str
) -> ChosenOracle:
    tiles = seen.tiles * seen.patches / 2880 if seen else 0.0
    oracle = roofline_oracle(known.shape, device, tp, memory_share=memory_share, tiles=tiles)
    summary = (
        f"roofline, rough (dense models within about 25%, experts within 50%): {device.name} by bandwidth and FLOP/s"
    )
    assumed = [reason] if reason else []
    assumed += [f"{memory_share:.0%} of the memory is for weights and KV", "weights and KV are bf16"]
    if seen:
        assumed.append(f"a picture costs what a CLIP-L costs for {seen.tiles * seen.patches} patches")
    return ChosenOracle(
        oracle, OracleSource("roofline", summary, tuple(assumed)), device.link, seen.tokens if seen else 0
    )


def _live(model: str, gpu: str, engine: str, tp: int, memory_share: float, picture: tuple[int, int]) -> ChosenOracle:
    from tercet.latency.live import live_oracle

    oracle, summary = live_oracle(model, gpu, engine, tp=tp, memory_share=memory_share)
    assumed = [f"{memory_share:.0%} of the memory is for weights and KV"]
    try:
        known, device = find_model(model), find_gpu(gpu)
    except UsageError:
        assumed.append("the link between GPUs moves 50 GB/s; pictures cost nothing on the GPU")
        return ChosenOracle(oracle, OracleSource("live", summary, tuple(assumed)), 50e9)
    if not known.tower:
        return ChosenOracle(oracle, OracleSource("live", summary, tuple(assumed)), device.link)
    seen = picture_for(known.tower, *picture)
    assumed.append("pictures cost what the shipped grid says")
    timed = oracle.seeing(tower_ms(device.name, engine, known.tower, seen.tiles, seen.patches))
    return ChosenOracle(timed, OracleSource("live", summary, tuple(assumed)), device.link, seen.tokens)


def _why_no_grid(known: KnownModel, device: GPU, engine: str, tp: int) -> str:
    if not known.grid:
        return f"no tables are shipped of {known.name}"
    missing = grid_missing(device.name, engine, known.grid, tp)
    if missing == "does not fit":
        return f"it does not fit {tp} x {device.name}: take more GPUs a replica"
    return missing or f"no tables are shipped of {known.name} on {tp} x {device.name} with {engine}"
