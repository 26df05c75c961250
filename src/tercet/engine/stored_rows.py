"""An engine's embedding pool as the executor reads it."""

from __future__ import annotations

import torch

from tercet.engine.embedding_store import EmbeddingStore


class StoredRows:
    """Pictures' rows, out of the pool, as tensors; a RowSource. Read by the thread that changes the pool's entries."""

    def __init__(self, store: EmbeddingStore, dtype: str) -> None:
        """`dtype` is the engine's, bf16 or fp32: what its numbers are kept in."""
        self._store = store
        self._dtype = torch.bfloat16 if dtype == "bf16" else torch.float32

    def get(self, key: str, /) -> torch.Tensor | None:
        """Return a copy of a picture's rows [tokens, hidden], or None when they are not here (yet)."""
        entry = self._store.pool.get(key)
        if entry is None or not entry.ready:
            return None
        data = bytearray(self._store.read(entry))
        return torch.frombuffer(data, dtype=self._dtype).view(entry.tokens, -1)
