"""The flags that say what a prediction is for: device, model, the stack around them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tercet.core.errors import UsageError

if TYPE_CHECKING:
    from tercet.latency.oracle import ChosenOracle
    from tercet.latency.stack import StackConstants

DEFAULT_GPU = "h100"

Gpu = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="a100, h100, h200 (measured); a10, l4, l40s, rtx4090, b200, mi300x and others roughly.  "
        f"[default: {DEFAULT_GPU}]",
    ),
]
GpuSpec = Annotated[
    str | None,
    typer.Option(metavar="SPEC", help="A GPU without a name: memory=80GB,bandwidth=3.35TB,flops=989T[,link=450GB]."),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|PATH",
        help="llama-3.1-8b, llama-3.1-70b, qwen3-8b, qwen3-30b-a3b, mistral-7b, llava-1.6-mistral-7b, qwen2.5-vl-7b, "
        "qwen3-vl-30b-a3b..., or a config.json of any other.  [default: plan: llama-3.1-8b; simulate: the topology's]",
    ),
]
EngineLike = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Whose kernels and whose overhead: vllm, sglang or trtllm.  [default: the file's, or vllm]"
    ),
]
Tp = Annotated[
    int | None,
    typer.Option(metavar="GPUS", help="GPUs of every rank: its tensor parallelism.  [default: the file's, or 1]"),
]
Oracle = Annotated[
    str, typer.Option(metavar="KIND", help="auto (measured tables, else roofline), grid, live or roofline.")
]
MemoryShare = Annotated[float, typer.Option(metavar="SHARE", help="Share of a GPU's memory for weights and KV.")]
Stack = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|NAME",
        help="What the servers add to their devices: a file of `tercet calibrate`, or bare, vllm, vllm-p2pnccl, "
        "sglang, trtllm. A file that measured a machine brings its device, too.  [default: as --engine-like]",
    ),
]
Link = Annotated[
    float | None,
    typer.Option(metavar="GB/S", help="What moves KV from rank to rank, each way.  [default: the GPUs' own link]"),
]


@dataclass(frozen=True, slots=True)
class Device:
    """One rank's device with a model, the constants of its stack, and what was assumed where nothing was said."""

    chosen: ChosenOracle
    stack: StackConstants
    model: str
    gpu: str
    engine: str
    assumed: tuple[str, ...]


def device_from(
    *,
    gpu: str | None,
    gpu_spec: str | None,
    model: str,
    engine: str,
    tp: int,
    oracle: str,
    memory_share: float,
    stack: str | None,
    picture: tuple[int, int] | None = None,
) -> Device:
    """Return what the flags name. `picture` is the size in pixels of those that are sent. Raises UsageError."""
    from tercet.latency.calibration_file import read_calibration
    from tercet.latency.gpus import parse_gpu_spec
    from tercet.latency.registry import PICTURE, oracle_for
    from tercet.latency.stack import STACKS, stack_named

    if gpu is not None and gpu_spec is not None:
        raise UsageError("--gpu and --gpu-spec are two ways to name a GPU: give one of them")
    if not 0 < memory_share <= 1:
        raise UsageError(f"--memory-share {memory_share:g} is out of range: 0.9 is nine tenths of a GPU's memory")
    measured = None
    if stack is not None and stack not in STACKS:
        if not Path(stack).is_file():
            raise UsageError(f"--stack {stack!r} is neither a file nor one of {', '.join(sorted(STACKS))}")
        calibration = read_calibration(Path(stack))
        constants, measured = calibration.stack, calibration.chosen()
    else:
        constants = stack_named(stack or engine)
    if measured is not None and gpu is None and gpu_spec is None:
        if tp != 1:
            raise UsageError(f"--tp {tp}: {stack} was measured on a machine as it is; with --tp name a --gpu, too")
        return Device(measured, constants, model, "the measured machine", engine, measured.source.assumptions)
    device = parse_gpu_spec(gpu_spec) if gpu_spec is not None else gpu or DEFAULT_GPU
    chosen = oracle_for(model, device, engine, tp, kind=oracle, memory_share=memory_share, picture=picture or PICTURE)
    assumed = [] if gpu or gpu_spec else [f"the GPU is an {DEFAULT_GPU}: name another by --gpu"]
    name = device if isinstance(device, str) else f"a GPU of {gpu_spec}"
    return Device(chosen, constants, model, name, engine, (*assumed, *chosen.source.assumptions))


def link_bytes_s(gb_s: float | None) -> float | None:
    """Return what --link says, in bytes a second; None of nothing. Raises UsageError."""
    if gb_s is not None and not 0 < gb_s < math.inf:
        raise UsageError(f"--link {gb_s:g} is out of range: give GB a second above 0")
    return None if gb_s is None else gb_s * 1e9
