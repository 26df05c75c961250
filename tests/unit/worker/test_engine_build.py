"""What an engine is made of, with real (random) weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tercet.core.errors import UsageError
from tercet.core.image import ImageSpan
from tercet.core.sampling import SamplingParams
from tercet.engine.embedding_store import EmbeddingStore
from tercet.engine.encoder import Encoder, Picture
from tercet.engine.models.random_model import random_model_folder
from tercet.engine.sequence import Batch, Chunk, Sequence
from tercet.engine.stored_rows import StoredRows
from tercet.engine.vision import VisionExecutor
from tercet.worker.config import EngineConfig
from tercet.worker.engine_build import EngineParts, build_parts
from tercet.worker.process import parse_device

STAGES = ("encode", "prefill", "decode")
KEYS = ("a" * 64, "b" * 64)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def build(cache: Path, stages: tuple[str, ...], *, shape: str = "tiny-llava", **changes: Any) -> EngineParts:
    settings: dict[str, Any] = {
        "worker": "w",
        "rank": 0,
        "model_dir": str(random_model_folder(shape, cache).path),
        "random_weights": True,
        "engine": "tercet",
        "gpu": None,
        "gpu_slowdown": 1.0,
        "dtype": "bf16",
        "device": "cpu:0",
        "host": "127.0.0.1",
        "block_size": 16,
        "kv_blocks": 16,
        "max_num_seqs": 4,
        "max_num_batched_tokens": 64,
        "max_model_len": 256,
        "transports": ("tcp",),
        "lease_s": 5.0,
        "topology_id": "t",
        "eos_token_ids": (2,),
        "vocab_size": 320,
        "stages": stages,
        "embedding_cache_bytes": 1 << 20,
    }
    config = EngineConfig(**(settings | changes))
    return build_parts(config, parse_device("cpu:0"), 1, lambda nbytes, _: memoryview(bytearray(nbytes)))


def keep(store: EmbeddingStore, encoder: Encoder, key: str, seed: int) -> None:
    """Encode a picture of noise and put its rows into the pool, as the encode stage does."""
    pixels = np.random.default_rng(seed).standard_normal(encoder.blank().shape).astype(np.float32)
    (rows,) = encoder.encode([Picture(key, pixels)])
    store.write(store.pool.reserve_entry(key, encoder.tokens(pixels)), rows)
    store.pool.loaded(key)


def first_token(parts: EngineParts, *keys: str) -> list[tuple[int, float]]:
    """Return the likeliest tokens after a prompt with these pictures."""
    assert parts.executor is not None
    images = tuple(ImageSpan(key, 2 + 18 * i, 16) for i, key in enumerate(keys))
    tokens = [40, 41, *([259] * 16 + [50, 51]) * len(keys)]
    sampling = SamplingParams(max_tokens=1, temperature=0.0, logprobs=3)
    talk = Sequence("s", tokens, len(tokens), sampling, 0.0, b"", images=images, blocks=list(range(8)))
    (sampled,) = parts.executor.execute(Batch((Chunk(talk, 0, len(tokens), True),)))
    assert sampled is not None
    return list(sampled.top)


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_what_is_encoded_into_the_pool_is_what_the_executor_sees(cache: Path, dtype: str) -> None:
    parts = build(cache, STAGES, dtype=dtype)
    assert parts.store is not None and isinstance(parts.encoder, VisionExecutor)
    for seed, key in enumerate(KEYS):
        keep(parts.store, parts.encoder, key, seed)
    rows = StoredRows(parts.store, dtype)
    found = rows.get(KEYS[0])
    pixels = np.random.default_rng(0).standard_normal((3, 32, 32)).astype(np.float32)
    assert found is not None and found.equal(parts.encoder.rows(torch.from_numpy(pixels)))
    assert rows.get("c" * 64) is None
    parts.store.pool.reserve_entry("c" * 64, 16)
    assert rows.get("c" * 64) is None  # on its way
    answers = [first_token(parts, *keys) for keys in (KEYS, KEYS, KEYS[::-1], KEYS[:1] * 2)]
    assert answers[0] == answers[1] and answers[0] not in answers[2:]


def test_stages_decide_what_is_loaded(cache: Path) -> None:
    encode, prefill, decode = (build(cache, (stage,)) for stage in STAGES)
    assert encode.executor is None and encode.encoder is not None
    assert prefill.encoder is None and prefill.executor is not None
    assert decode.encoder is None and decode.executor is not None
    layouts = [parts.store.layout for parts in (encode, prefill, decode) if parts.store is not None]
    assert len(layouts) == 3 and len(set(layouts)) == 1 and layouts[0] == encode.encoder.layout
    text = build(cache, ("prefill", "decode"), shape="tiny")
    assert text.store is None and text.encoder is None
    with pytest.raises(UsageError, match="does not see"):
        build(cache, ("encode",), shape="tiny")


@pytest.mark.parametrize(("strategy", "tokens"), [("default", 16), ("full", 17)])
def test_a_picture_has_as_many_rows_as_tokens(cache: Path, tmp_path: Path, strategy: str, tokens: int) -> None:
    other = shutil.copytree(random_model_folder("tiny-llava", cache).path, tmp_path / "other")
    config = json.loads((other / "config.json").read_text()) | {"vision_feature_select_strategy": strategy}
    del config["image_seq_length"]
    (other / "config.json").write_text(json.dumps(config))
    for engine in ({"engine": "tercet"}, {"engine": "virtual", "gpu": "h100"}):
        encoder = build(cache, ("encode",), model_dir=str(other), **engine).encoder
        assert encoder is not None and encoder.tokens(encoder.blank()) == tokens
    (other / "config.json").write_text(json.dumps(config | {"image_seq_length": 576}))
    with pytest.raises(UsageError, match=f"gives a picture 576 tokens.* makes {tokens} rows.*set image_seq_length to"):
        build(cache, ("encode",), model_dir=str(other))


def test_kv_is_of_other_pictures_when_they_are_prepared_otherwise(cache: Path, tmp_path: Path) -> None:
    """The same weights, another preprocessor: neither embeddings nor KV may be exchanged."""
    folder = random_model_folder("tiny-llava", cache).path
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "preprocessor_config.json").write_text(json.dumps({"crop_size": 32, "size": 32, "image_mean": [0, 0, 0]}))
    one, two = (build(cache, ("prefill",), model_dir=str(path)) for path in (folder, other))
    assert one.executor is not None and two.executor is not None and one.store is not None and two.store is not None
    assert one.store.layout.fingerprint != two.store.layout.fingerprint
    assert one.executor.layout.fingerprint != two.executor.layout.fingerprint
