"""Load a model folder (Hugging Face layout) into what the executor runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from tercet.core.errors import MissingExtraError, UsageError
from tercet.engine.attention import PagedAttention
from tercet.engine.backend import DeviceBackend
from tercet.engine.fingerprint import LAYOUT_NAME, model_fingerprint, weights_hash
from tercet.engine.fuse import can_fuse, fuse
from tercet.engine.hf_model import ATTENTION_NAME, HFModel, paged_attention_forward
from tercet.engine.kv_pool import KVShape
from tercet.engine.llava import is_llava, language_weights
from tercet.engine.step_plan import StepPlan


class Model(Protocol):
    """What the executor runs. Implementations: FusedDecoder, HFModel."""

    def logits(self, plan: StepPlan, attention: PagedAttention) -> torch.Tensor | None:
        """Compute one step: [sampled rows, vocabulary], or None when nothing is sampled."""
        ...


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run. `max_model_len` is the wanted length cut to what the model's positions allow."""

    model: Model
    kv: KVShape
    heads: int
    hidden_size: int
    vocab_size: int
    max_model_len: int
    eos_token_ids: frozenset[int]
    fingerprint: str


def load_model(
    folder: Path,
    backend: DeviceBackend,
    *,
    dtype: str,
    block_size: int,
    max_model_len: int,
    random_weights: bool = False,
    seed: int = 0,
    fused: bool = True,
) -> LoadedModel:
    """Load weights and build the fastest form of the model; `fused=False` keeps transformers' own forward.

    Of a LLaVA-like model that is its language model. With `random_weights` the folder needs only config.json: weights
    are drawn from `seed`. Raises UsageError when the folder holds no model that the engine can run.
    """
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} holds no config.json: give a model folder in Hugging Face layout")
    model = _transformers_model(folder, backend, random_weights, seed)
    config = model.config.to_dict()  # of a model that sees: its language model's
    text = model.config.get_text_config()
    kv = KVShape(
        layers=text.num_hidden_layers,
        kv_heads=getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        block_size=block_size,
        dtype=backend.kv_dtype,
    )
    length = min(max_model_len, int(getattr(text, "max_position_embeddings", max_model_len)))
    fused = fused and can_fuse(model)
    weights = f"random:{seed}:{torch.__version__}" if random_weights else weights_hash(folder)
    return LoadedModel(
        model=fuse(model, backend, length) if fused else HFModel(model, backend),
        kv=kv,
        heads=text.num_attention_heads,
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
        max_model_len=length,
        eos_token_ids=_eos_ids(folder, config),
        fingerprint=model_fingerprint(config, weights, dtype, block_size, LAYOUT_NAME),
    )


def _transformers_model(folder: Path, backend: DeviceBackend, random_weights: bool, seed: int) -> Any:
    try:
        from safetensors import SafetensorError
        from transformers import AutoConfig, AutoModelForCausalLM
        from transformers.modeling_utils import AttentionInterface
        from transformers.utils import logging
    except ImportError as error:
        raise MissingExtraError("engine", "the built-in engine") from error
    AttentionInterface.register(ATTENTION_NAME, paged_attention_forward)
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        sees = is_llava(config)
        config = config.get_text_config() if sees else config
        if not random_weights:
            loading: dict[str, Any] = {"dtype": backend.weight_dtype or "auto", "attn_implementation": ATTENTION_NAME}
            if not sees:
                return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, **loading).eval()
            with torch.device("meta"):
                kind = type(AutoModelForCausalLM.from_config(config))
            return kind.from_pretrained(None, config=config, state_dict=language_weights(folder), **loading).eval()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return AutoModelForCausalLM.from_config(
                config, dtype=backend.weight_dtype or torch.float32, attn_implementation=ATTENTION_NAME
            ).eval()
    except SafetensorError as error:
        raise UsageError(f"the weights in {folder} are cut off or damaged, download them again: {error}") from error
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{folder} can't be loaded as a causal language model: {error}") from error


def _eos_ids(folder: Path, config: dict[str, Any]) -> frozenset[int]:
    """Return the end-of-sequence ids: generation_config.json's where given, else config.json's."""
    path = folder / "generation_config.json"
    generation = json.loads(path.read_text()) if path.is_file() else {}
    ids = generation.get("eos_token_id", config.get("eos_token_id"))
    if ids is None:
        return frozenset()
    return frozenset(ids) if isinstance(ids, list) else frozenset({int(ids)})
