"""The executor that computes: a model, a KV pool and a sampler on one device."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import replace
from pathlib import Path

import torch

from tercet.core.errors import UsageError
from tercet.core.sampling import SampledToken
from tercet.engine.attention import PagedAttention
from tercet.engine.backend import DeviceBackend, make_backend
from tercet.engine.executor import KVLayout
from tercet.engine.fingerprint import combined_fingerprint
from tercet.engine.kv_pool import KVPool
from tercet.engine.loader import LoadedModel, load_model
from tercet.engine.sampler import SampleRequest, sample
from tercet.engine.sequence import Batch, Chunk
from tercet.engine.staging import Staging
from tercet.engine.step_plan import RowSource, make_plan


class TorchExecutor:
    """Runs steps with torch. Owned by one thread; the pool's memory may be read and written by transports beside it."""

    def __init__(
        self,
        loaded: LoadedModel,
        backend: DeviceBackend,
        num_blocks: int,
        memory: memoryview,
        embeddings: RowSource | None = None,
    ) -> None:
        """`memory` holds num_blocks blocks and stays the caller's to free, after close().

        `embeddings` is the engine's store of pictures by key, each [tokens, hidden] of any floating type, read in
        `execute`; its owner may change it between steps.
        """
        self._backend = backend
        self._loaded = loaded
        self._memory = memory
        self._embeddings: RowSource = {} if embeddings is None else embeddings
        self._pool = KVPool(loaded.kv, num_blocks, memory, backend.device, backend.staged)
        self._staging = Staging(self._pool) if backend.staged else None
        self._attention = PagedAttention(
            self._pool, backend.compute_dtype, backend.paged_kernels(self._pool, loaded.heads)
        )
        self._layout = KVLayout(num_blocks, loaded.kv.block_size, loaded.kv.block_bytes, loaded.fingerprint)

    @property
    def layout(self) -> KVLayout:
        """Return the pool's layout."""
        return self._layout

    @property
    def pool(self) -> memoryview:
        """Return the pool's bytes (with CUDA: the host staging area of the same size)."""
        return self._memory

    @property
    def kernels(self) -> str:
        """Name what computes, for logs: torch, or torch+llvm."""
        return self._backend.kernels

    @property
    def vocab_size(self) -> int:
        """Return the number of logits."""
        return self._loaded.vocab_size

    @property
    def hidden_size(self) -> int:
        """Return the width of a picture's rows."""
        return self._loaded.hidden_size

    @property
    def max_model_len(self) -> int:
        """Return the longest sequence: the length asked for, cut to what the model's positions allow."""
        return self._loaded.max_model_len

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Return the model's end-of-sequence ids."""
        return self._loaded.eos_token_ids

    @property
    def lag(self) -> None:
        """See Executor."""
        return None

    def execute(self, batch: Batch) -> Seq[SampledToken | None]:
        """Compute the batch; return one entry per chunk, None where `samples` is false.

        Raises EmbeddingError when a chunk's picture is not in the store.
        """
        results: list[SampledToken | None] = [None] * len(batch.chunks)
        if not batch.chunks:
            return results
        with torch.inference_mode():
            if self._staging is not None:
                self._staging.before(batch)
            plan = make_plan(
                batch,
                self._loaded.kv.block_size,
                self._backend.device,
                grouped=self._attention.pads,
                embeddings=self._embeddings,
            )
            logits = self._loaded.model.logits(plan, self._attention)
            if logits is not None:
                requests = [self._request(batch.chunks[i]) for i in plan.sampled_chunks]
                for i, token in zip(plan.sampled_chunks, sample(logits, requests), strict=True):
                    results[i] = token
            if self._staging is not None:
                self._staging.after(batch)
        return results

    def close(self) -> None:
        """Drop the tensors over the pool's memory, so that its owner may free it. The executor is unusable after it."""
        del self._pool, self._attention, self._staging, self._loaded

    def _request(self, chunk: Chunk) -> SampleRequest:
        sequence = chunk.sequence
        params = sequence.sampling
        position = chunk.start + chunk.length
        banned: frozenset[int] = frozenset()
        if position - sequence.prompt_len < params.min_tokens:
            banned = params.stop_token_ids | self._loaded.eos_token_ids
        return SampleRequest(params, position, tuple(sorted(banned)))


def build_torch_executor(
    model_dir: Path,
    *,
    dtype: str,
    device: str,
    block_size: int,
    num_blocks: int,
    kv_bytes: int,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    max_model_len: int,
    threads: int,
    pool_factory: Callable[[int], memoryview],
    random_weights: bool = False,
    seed: int = 0,
    embeddings: RowSource | None = None,
    vision: str = "",
) -> TorchExecutor:
    """Load a model folder (of a model that sees: its language model) and allocate its pool.

    `num_blocks` 0 takes as many as fit `kv_bytes` (0: the backend's default), no more than max_num_seqs sequences of
    the longest length need.
    `pool_factory(nbytes)` gives writable memory that outlives the executor, `embeddings` is the store of pictures and
    `vision` the fingerprint of what makes them: KV depends on it. Raises UsageError when anything does not fit.
    """
    backend = make_backend(device, dtype, threads)
    loaded = load_model(
        model_dir,
        backend,
        dtype=dtype,
        block_size=block_size,
        max_model_len=max_model_len,
        random_weights=random_weights,
        seed=seed,
    )
    if vision:
        loaded = replace(loaded, fingerprint=combined_fingerprint(loaded.fingerprint, vision))
    longest = -(-loaded.max_model_len // block_size)
    if num_blocks == 0:
        num_blocks = min((kv_bytes or backend.kv_bytes()) // loaded.kv.block_bytes, longest * max_num_seqs)
    if num_blocks < 1:
        raise UsageError(f"{kv_bytes} bytes hold no KV block of {loaded.kv.block_bytes} bytes: give more memory")
    memory = pool_factory(num_blocks * loaded.kv.block_bytes)
    return TorchExecutor(loaded, backend, num_blocks, memory, embeddings)
