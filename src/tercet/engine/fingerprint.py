"""The model fingerprint: blocks may move only between engines that would compute the same keys and values."""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path
from typing import Any

LAYOUT_NAME = "block-layer-kv-head-token-dim"
"""How a KV block lies in memory, from its outermost dimension on."""

_SAMPLES = 64
_SAMPLE_BYTES = 256 * 1024
_IRRELEVANT = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "architectures")


def weights_hash(folder: Path) -> str:
    """Return a hash of the weight files' names, sizes and 64 evenly spaced pieces of 256 KiB each: cheap for any size.

    The first piece holds the names, shapes and offsets of all tensors.
    """
    h = blake2b(digest_size=16)
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        h.update(f"{path.name}:{size};".encode())
        with path.open("rb") as file:
            for i in range(_SAMPLES):
                file.seek(max(size - _SAMPLE_BYTES, 0) * i // (_SAMPLES - 1))
                h.update(file.read(_SAMPLE_BYTES))
    return h.hexdigest()


def model_fingerprint(config: dict[str, Any], weights: str, dtype: str, block_size: int, layout: str) -> str:
    """Return 32 hex digits that name weights, dtype, block size and KV layout."""
    relevant = {key: value for key, value in config.items() if key not in _IRRELEVANT}
    parts = [json.dumps(relevant, sort_keys=True), weights, dtype, str(block_size), layout]
    return blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def combined_fingerprint(*parts: str) -> str:
    """Return 32 hex digits that name all of these fingerprints, in this order."""
    return blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
