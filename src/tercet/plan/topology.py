"""The recommended architecture as the topology that `tercet serve` and `tercet compare` take."""

from __future__ import annotations

from dataclasses import replace

from tercet.core.stage import ROLE_NAMES, ROLE_STAGES
from tercet.core.topology import EngineSpec, RouterSpec, Topology, WorkerSpec, with_sight
from tercet.plan.architecture import PPD_THRESHOLDS, Architecture
from tercet.sim.fleet import EngineCaps


def topology_of(
    architecture: Architecture, *, name: str, model: str, engine: EngineSpec, caps: EngineCaps, sees: bool
) -> Topology:
    """Return the topology; `engine` holds what is not of the architecture. Its limits are those that were simulated."""
    numbers = (architecture.encode, architecture.prefill, architecture.decode, architecture.whole)
    counts = zip("EPDA", numbers, strict=True)
    workers = tuple(
        WorkerSpec(f"{ROLE_NAMES[letter]}-{number}", ROLE_STAGES[letter])
        for letter, count in counts
        for number in range(count)
    )
    return Topology(
        name,
        model,
        architecture.mode,
        with_sight(workers) if sees else workers,
        engine=replace(
            engine,
            max_num_seqs=caps.max_num_seqs,
            max_num_batched_tokens=caps.max_num_batched_tokens,
            max_model_len=caps.max_model_len,
            block_size=caps.block_size,
            kv_blocks=caps.kv_blocks,
            tensor_parallel=architecture.tp,
        ),
        router=RouterSpec(ppd_threshold=architecture.ppd_threshold or PPD_THRESHOLDS[0], hybrid=architecture.hybrid),
    )
