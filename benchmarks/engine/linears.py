"""Which layout of a linear layer is fastest on this CPU: what CpuBackend.linear's choice rests on.

    python -m benchmarks.engine.linears [--core N] [--rounds N]

Processor time on one core, medians, for all linears of a SmolLM2-135M layer and for its head.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from benchmarks.engine.lab import Timer, pin
from tercet.engine.jit.ops import JitOps
from tercet.engine.linear import LinearOp, PackedLinear, PlainLinear, TransposedLinear, can_prepack

LAYER = ((960, 576), (576, 576), (3072, 576), (576, 1536))
HEAD = ((49152, 576),)
COPIES = 8  # of a layer: more than a cache holds, as in a model
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 512)

Make = Callable[[torch.Tensor], LinearOp]


def makers() -> dict[str, tuple[torch.dtype, Make]]:
    """Return every layout with the type of its inputs."""
    jit = JitOps(torch.float32)
    kinds: dict[str, tuple[torch.dtype, Make]] = {
        "plain fp32": (torch.float32, lambda w: PlainLinear(w.float(), None)),
        "transposed fp32": (torch.float32, lambda w: TransposedLinear(w.float(), None)),
        "prepacked fp32": (torch.float32, lambda w: PackedLinear(w.float(), None)),
        "llvm, bf16 weights": (torch.float32, lambda w: jit.linear(w.bfloat16(), None)),
        "llvm, fp32 weights": (torch.float32, lambda w: jit.linear(w.float(), None)),
    }
    if can_prepack(torch.bfloat16):
        kinds["prepacked bf16"] = (torch.bfloat16, lambda w: PackedLinear(w.bfloat16(), None))
    return kinds


def table(title: str, shapes: tuple[tuple[int, int], ...], copies: int, rounds: int) -> None:
    """Print milliseconds per layout and number of rows."""
    weights = [[torch.randn(shape) for shape in shapes] for _ in range(copies)]
    layouts = {
        name: (dtype, [[make(w) for w in layer] for layer in weights]) for name, (dtype, make) in makers().items()
    }
    print(f"\n{title}, ms".ljust(24) + "".join(f"{rows:>9}" for rows in ROWS))
    timer = Timer()
    for rows in ROWS:
        inputs = {d: [torch.randn(rows, s[1]).to(d) for s in shapes] for d in (torch.float32, torch.bfloat16)}

        def work(dtype: torch.dtype, layers: list[list[LinearOp]], x: dict[torch.dtype, list[torch.Tensor]]) -> None:
            for layer in layers:
                for linear, part in zip(layer, x[dtype], strict=True):
                    linear(part)

        for _ in range(max(3, min(rounds, rounds * 16 // rows))):
            for name, (dtype, layers) in layouts.items():
                timer.run(f"{name} {rows}", lambda d=dtype, ls=layers, x=inputs: work(d, ls, x))  # type: ignore[misc]
    for name in layouts:
        print(f"{name:<23}" + "".join(f"{timer.median(f'{name} {rows}') / copies * 1e3:9.2f}" for rows in ROWS))


def main() -> None:
    """Parse flags, print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", type=int)
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    pin(options.core)
    torch.set_num_threads(1)
    with torch.inference_mode():
        table("a layer", LAYER, COPIES, options.rounds)
        table("the head", HEAD, 1, options.rounds)


if __name__ == "__main__":
    main()
