"""A scheduler's settings and its figures."""

from __future__ import annotations

from dataclasses import dataclass

from tercet.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Limits of one engine. `max_num_batched_tokens` bounds the tokens of a step, `lease_s` is in seconds."""

    num_blocks: int
    block_size: int
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    max_model_len: int = 4096
    lease_s: float = 30.0
    eos_token_ids: frozenset[int] = frozenset()
    prefix_caching: bool = True

    def __post_init__(self) -> None:
        """Refuse limits under which nothing could run. Raises UsageError."""
        for name in ("num_blocks", "block_size", "max_num_seqs", "max_num_batched_tokens", "max_model_len"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")

    @property
    def max_len(self) -> int:
        """Longest sequence in tokens, prompt and output: one sequence alone must fit the pool."""
        return min(self.max_model_len, self.num_blocks * self.block_size)

    @property
    def seats(self) -> int:
        """Sequences that run at once: as many as may, but one token of every step is left for prompts."""
        return min(self.max_num_seqs, max(self.max_num_batched_tokens - 1, 1))


@dataclass(frozen=True, slots=True)
class SchedulerStats:
    """Figures of one moment; the last five count from the start.

    Sequences by state (`waiting_remote` includes those whose blocks are being fetched). `blocks_in_use` have owners,
    `blocks_held` of them belong to held sequences, `blocks_cached` are unreferenced and kept for their prefix.
    `uncompleted_tokens` are known tokens of live sequences whose KV is not in place. Prefix figures are in tokens.
    """

    running: int
    waiting: int
    waiting_remote: int
    preempted: int
    held: int
    blocks_total: int
    blocks_in_use: int
    blocks_held: int
    blocks_cached: int
    uncompleted_tokens: int
    prefix_queries: int
    prefix_hits: int
    preemptions: int
    expirations: int
    remote_recomputes: int
