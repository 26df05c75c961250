"""The interpolation error of sampled tables, on points off the grid."""

from __future__ import annotations

import random
from collections.abc import Callable

from tercet.latency.grid_tables import Array, GridParts
from tercet.latency.live import LiveParts
from tercet.latency.parts import PartsOracle

POINTS = 60
"""Points of each kind of step."""


def measure_errors(live: LiveParts, tables: dict[str, Array], *, seed: str) -> list[float]:
    """Return the relative errors of whole steps: prefill, decode and mixed, spread evenly over the logarithm of sizes.

    Prefill and decode are compared with aiconfigurator's own sums, mixed steps with the sum of its parts: its own
    mixed step knows one prompt length only. Prompts have up to 16,384 tokens, 1 to 4 of them a step, prefixes up to
    65,536; 1 to 256 sequences of 16 to 65,536 tokens decode.
    """
    rng = random.Random(seed)
    parts = PartsOracle(live, 1, 1)
    truth: dict[str, Callable[..., float]] = {
        "prefill": live.whole_prefill,
        "decode": live.whole_decode,
        "mixed": parts.mixed,
    }
    single = {name: table.astype("float32").astype("float64") for name, table in tables.items()}
    grid = PartsOracle(GridParts(single), 1, 1)

    def size(low: int, high: int) -> int:
        return int(low * (high / low) ** rng.random() + 0.5)

    errors = []
    for _ in range(POINTS):
        prompts, new = rng.randint(1, 4), size(16, 16384)
        prefix = rng.choice((0, size(16, 65536)))
        batch, context = size(1, 256), size(16, 65536)
        for name, arguments in (
            ("prefill", (1, new, prefix)),
            ("decode", (batch, context)),
            ("mixed", (new, prefix, batch, context, prompts)),
        ):
            want = truth[name](*arguments)
            errors.append(abs(getattr(grid, name)(*arguments) / want - 1))
    return errors
