"""A small model folder and a hand-driven executor for the engine's tests: no scheduler between test and tensors."""

from __future__ import annotations

import json
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercet.core.sampling import SampledToken, SamplingParams
from tercet.engine.sequence import Batch, Chunk, Sequence
from tercet.engine.torch_executor import TorchExecutor, build_torch_executor

VOCAB = 256


def write_config(folder: Path, model_type: str = "llama", **changes: Any) -> Path:
    """Write a config.json of a two-layer model: hidden 64, 4 heads, 2 KV heads, byte-size vocabulary."""
    config = {
        "model_type": model_type,
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,  # peaked logits: greedy choices that rounding can't flip
        "eos_token_id": 2,
        "tie_word_embeddings": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def build(folder: Path, *, dtype: str = "fp32", random_weights: bool = True, **changes: Any) -> TorchExecutor:
    """Build an executor with 64 blocks of 4 tokens on one CPU thread."""
    settings: dict[str, Any] = {
        "device": "cpu",
        "block_size": 4,
        "num_blocks": 64,
        "kv_bytes": 0,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 64,
        "max_model_len": 256,
        "threads": 1,
        "pool_factory": lambda nbytes: memoryview(bytearray(nbytes)),
    }
    return build_torch_executor(folder, dtype=dtype, random_weights=random_weights, **(settings | changes))


def greedy(max_tokens: int = 8) -> SamplingParams:
    """Sampling that always takes the most likely token."""
    return SamplingParams(max_tokens=max_tokens, temperature=0.0)


def new_sequence(tokens: Seq[int], blocks: Seq[int], sampling: SamplingParams | None = None) -> Sequence:
    """Return a sequence that owns `blocks`."""
    return Sequence(
        id=f"s{blocks[0]}",
        tokens=list(tokens),
        prompt_len=len(tokens),
        sampling=sampling or greedy(),
        arrival=0.0,
        root=b"",
        blocks=list(blocks),
    )


@dataclass
class Driver:
    """Feeds chunks to an executor and appends what it samples."""

    executor: TorchExecutor

    def step(self, *parts: tuple[Sequence, int]) -> list[SampledToken | None]:
        """Compute the next `length` tokens of each (sequence, length); sample where a chunk ends the sequence."""
        chunks = tuple(
            Chunk(s, s.computed, length, samples=s.computed + length == len(s.tokens)) for s, length in parts
        )
        results = list(self.executor.execute(Batch(chunks)))
        for (sequence, length), result in zip(parts, results, strict=True):
            sequence.computed += length
            if result is not None:
                sequence.tokens.append(result.token)
        return results

    def decode(self, *sequences: Sequence, steps: int) -> None:
        """Run `steps` decode steps over all sequences together."""
        for _ in range(steps):
            self.step(*((s, 1) for s in sequences))

    def run(self, sequence: Sequence, chunks: Seq[int], steps: int) -> list[int]:
        """Prefill in the given chunk lengths, decode `steps` more tokens, return the output tokens."""
        for length in chunks:
            self.step((sequence, length))
        self.decode(sequence, steps=steps)
        return sequence.tokens[sequence.prompt_len :]
