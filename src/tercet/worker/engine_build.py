"""What an engine is made of, by its configuration: its stages decide which halves of a model are loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from tercet.core.errors import UsageError
from tercet.core.stage import Stage
from tercet.engine.embedding_store import EmbeddingStore, plan_pool
from tercet.engine.encoder import EmbeddingLayout, Encoder
from tercet.engine.executor import Executor
from tercet.text.image_token import image_token
from tercet.worker.config import EngineConfig
from tercet.worker.process import Device

CPU_KV_BYTES = 256 * 1024 * 1024
"""Default size of a pool on a CPU: 11,000 tokens of SmolLM2 in bf16, and a rank stays below 1.2 GB."""
KV, EMBEDDINGS = "kv", "embeddings"

Allocate = Callable[[int, str], memoryview]
"""allocate(nbytes, KV | EMBEDDINGS) gives the memory of a pool, each once."""


@dataclass(frozen=True, slots=True)
class EngineParts:
    """`executor` is there for prefill and decode, `encoder` for encode, `store` when the model sees."""

    executor: Executor | None = None
    encoder: Encoder | None = None
    store: EmbeddingStore | None = None


def exports_embeddings(config: EngineConfig) -> bool:
    """Return whether other engines read this one's embeddings: an encoder's, and those a ticket of ours hands on."""
    return config.encodes or Stage.PREFILL in config.stages


def build_parts(config: EngineConfig, device: Device, threads: int, allocate: Allocate) -> EngineParts:
    """Return the parts that the configuration asks for. Raises UsageError."""
    if config.engine == "virtual":
        return _virtual_parts(config, allocate)
    return _torch_parts(config, device, threads, allocate)


def make_store(config: EngineConfig, layout: EmbeddingLayout, max_len: int, allocate: Allocate) -> EmbeddingStore:
    """Return the embedding pool of a model that sees, in shared memory if others read it."""
    pool = plan_pool(layout, config.embedding_cache_bytes, max_len, prefills=config.generates)
    nbytes = pool.num_blocks * layout.block_bytes
    memory = allocate(nbytes, EMBEDDINGS) if exports_embeddings(config) else memoryview(bytearray(nbytes))
    return EmbeddingStore(layout, pool, memory)


def _virtual_parts(config: EngineConfig, allocate: Allocate) -> EngineParts:
    from tercet.engine.models.folder import read_config
    from tercet.engine.virtual_encoder import ROW_BYTES, VirtualEncoder
    from tercet.engine.virtual_executor import build_virtual_executor
    from tercet.latency.virtual import virtual_oracle

    folder = Path(config.model_dir)
    model = read_config(folder / "config.json")
    oracle = virtual_oracle(config.gpu or "", model, config.dtype).slowed(config.gpu_slowdown)
    store = encoder = executor = None
    if "vision_config" in model:
        digest = blake2b((folder / "config.json").read_bytes(), digest_size=8).hexdigest()
        layout = EmbeddingLayout(ROW_BYTES, f"virtual:{digest}:{config.dtype}")
        store = make_store(config, layout, config.max_model_len, allocate)
        if config.encodes:
            encoder = VirtualEncoder(oracle, layout, picture_tokens(folder, model))
    elif config.encodes:
        raise _blind(folder)
    if config.generates:
        executor = build_virtual_executor(
            oracle,
            model_dir=folder,
            dtype=config.dtype,
            block_size=config.block_size,
            num_blocks=config.kv_blocks,
            vocab_size=config.vocab_size,
            eos_token_ids=frozenset(config.eos_token_ids),
            pool_factory=lambda nbytes: allocate(nbytes, KV),
            embeddings=store,
        )
    return EngineParts(executor, encoder, store)


def picture_tokens(folder: Path, model: dict[str, Any]) -> int:
    """Return how many tokens a picture has in prompts, by a LLaVA-like config.json. Raises UsageError."""
    token = image_token(model)
    if token is None:
        raise _blind(folder)
    return token.count


def _check_length(folder: Path, model: dict[str, Any], made: int) -> None:
    """Raise UsageError where every picture would be refused, as its place in the prompt is of another length."""
    tokens = picture_tokens(folder, model)
    if tokens != made:
        raise UsageError(
            f"{folder}/config.json gives a picture {tokens} tokens, and its vision tower makes {made} rows of one: "
            f"set image_seq_length to {made}"
        )


def _blind(folder: Path) -> UsageError:
    return UsageError(f"the model in {folder} does not see: the encode stage needs a vision-language model")


def _torch_parts(config: EngineConfig, device: Device, threads: int, allocate: Allocate) -> EngineParts:
    from tercet.engine.models.folder import read_config
    from tercet.engine.stored_rows import StoredRows
    from tercet.engine.torch_executor import build_torch_executor
    from tercet.engine.vision import build_vision_executor, vision_layout

    folder = Path(config.model_dir)
    place = device.name if device.kind == "cuda" else "cpu"
    model = read_config(folder / "config.json")
    store = encoder = rows = None
    if "vision_config" in model:
        random = config.random_weights
        if config.encodes:
            encoder = build_vision_executor(
                folder, dtype=config.dtype, device=place, threads=threads, random_weights=random
            )
            _check_length(folder, model, encoder.tokens_per_picture)
            layout = encoder.layout
        else:
            layout = vision_layout(folder, dtype=config.dtype, random_weights=random)
        store = make_store(config, layout, config.max_model_len, allocate)
        rows = StoredRows(store, config.dtype)
    elif config.encodes:
        raise _blind(folder)
    if not config.generates:
        return EngineParts(None, encoder, store)
    executor = build_torch_executor(
        folder,
        dtype=config.dtype,
        device=place,
        block_size=config.block_size,
        num_blocks=config.kv_blocks,
        kv_bytes=CPU_KV_BYTES if device.kind == "cpu" else 0,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_model_len=config.max_model_len,
        threads=threads,
        pool_factory=lambda nbytes: allocate(nbytes, KV),
        random_weights=config.random_weights,
        embeddings=rows,
        vision="" if store is None else store.layout.fingerprint,
    )
    return EngineParts(executor, encoder, store)
