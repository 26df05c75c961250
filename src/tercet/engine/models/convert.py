"""GGUF to a model folder: dequantised to bf16 safetensors, with configuration, tokeniser and chat template.

Written out here, with `gguf` and numpy alone, so that the result is the same bytes whatever torch or transformers are
installed (a checksum can be pinned) and takes seconds. Knows the Llama architecture with a GPT-2-like vocabulary. As a
process of its own, `python -m tercet.engine.models.convert FILE.gguf FOLDER`, it keeps its caller small; it then prints
the fraction done, a line each.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tercet.core.errors import MissingExtraError, TercetError, UsageError

_BLOCK_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OTHER_TENSORS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_CONTROL_TOKEN = 3
"""GGUF's token type of special tokens."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One tensor of the result: `source` is its GGUF name, `heads` the heads whose rotary rows are to be unweaved."""

    source: str
    shape: tuple[int, ...]
    heads: int


def convert(source: Path, folder: Path, progress: Callable[[float], None] = lambda fraction: None) -> None:
    """Write the model in the GGUF file `source` into `folder`, which exists.

    Raises MissingExtraError without the `gguf` library, UsageError for an architecture or vocabulary of another kind.
    """
    try:
        from gguf import GGUFReader
        from gguf.quants import dequantize
    except ImportError as error:
        raise MissingExtraError("engine", "converting a GGUF model") from error
    reader = GGUFReader(source)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    if fields["general.architecture"] != "llama" or fields["tokenizer.ggml.model"] != "gpt2":
        kind = f"{fields['general.architecture']} with a {fields['tokenizer.ggml.model']} vocabulary"
        raise UsageError(f"{source.name} is a {kind}: only llama with a gpt2 vocabulary can be converted")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    config = _config(fields, tied="output.weight" not in tensors)

    def load(tensor: _Tensor) -> npt.NDArray[np.float32]:
        raw = tensors[tensor.source]
        return np.asarray(dequantize(raw.data, raw.tensor_type), dtype=np.float32).reshape(tensor.shape)

    plan = {
        _hf_name(name): _Tensor(name, tuple(int(n) for n in reversed(tensor.shape)), _rotary_heads(name, config))
        for name, tensor in tensors.items()
        if name != "rope_freqs.weight"
    }
    _write_json(folder / "config.json", config)
    _write_tokenizer(folder, fields)
    _write_safetensors(folder / "model.safetensors", plan, load, progress)


def bf16_bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Round finite float32 to bfloat16, ties to even, and return its bits."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded: npt.NDArray[np.uint16] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return rounded


def _rotary_heads(name: str, config: Mapping[str, Any]) -> int:
    if ".attn_q." in name:
        return int(config["num_attention_heads"])
    return int(config["num_key_value_heads"]) if ".attn_k." in name else 0


def _hf_name(name: str) -> str:
    if match := re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name):
        layer, part, kind = match.groups()
        if part in _BLOCK_TENSORS:
            return f"model.layers.{layer}.{_BLOCK_TENSORS[part]}.{kind}"
    part, _, kind = name.rpartition(".")
    if part not in _OTHER_TENSORS:
        raise UsageError(f"the GGUF file holds a tensor {name!r} that a Llama model does not have")
    return f"{_OTHER_TENSORS[part]}.{kind}"


def _config(fields: Mapping[str, Any], *, tied: bool) -> dict[str, Any]:
    hidden, heads = int(fields["llama.embedding_length"]), int(fields["llama.attention.head_count"])
    theta = float(fields.get("llama.rope.freq_base", 10000.0))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "bos_token_id": fields.get("tokenizer.ggml.bos_token_id"),
        "dtype": "bfloat16",
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "head_dim": int(fields.get("llama.rope.dimension_count", hidden // heads)),
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": int(fields["llama.feed_forward_length"]),
        "max_position_embeddings": int(fields["llama.context_length"]),
        "mlp_bias": False,
        "num_attention_heads": heads,
        "num_hidden_layers": int(fields["llama.block_count"]),
        "num_key_value_heads": int(fields.get("llama.attention.head_count_kv", heads)),
        "pad_token_id": fields.get("tokenizer.ggml.padding_token_id"),
        # GGUF holds it as float32: 1e-5 comes back as 9.99999974e-06.
        "rms_norm_eps": float(f"{fields['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_parameters": {"rope_theta": theta, "rope_type": "default"},
        "rope_theta": theta,
        "tie_word_embeddings": tied,
        "use_cache": True,
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
    }


def _write_tokenizer(folder: Path, fields: Mapping[str, Any]) -> None:
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    types: list[int] = fields["tokenizer.ggml.token_type"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    # The family "smollm" splits digits first: it decides how runs of spaces before a number are cut.
    digits = [{"type": "Digits", "individual_digits": True}] if fields.get("tokenizer.ggml.pre") == "smollm" else []
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": token, **flags} for i, token in enumerate(tokens) if types[i] == _CONTROL_TOKEN
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*digits, byte_level]},
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in fields["tokenizer.ggml.merges"]],
        },
    }
    ids = {
        "bos": fields.get("tokenizer.ggml.bos_token_id"),
        "eos": fields["tokenizer.ggml.eos_token_id"],
        "pad": fields.get("tokenizer.ggml.padding_token_id"),
        "unk": fields.get("tokenizer.ggml.unknown_token_id"),
    }
    settings = {
        **{f"{name}_token": tokens[i] for name, i in ids.items() if i is not None},
        "clean_up_tokenization_spaces": False,
        "model_max_length": int(fields["llama.context_length"]),
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    generation = {f"{name}_token_id": ids[name] for name in ("bos", "eos", "pad") if ids[name] is not None}
    _write_json(folder / "tokenizer.json", tokenizer)
    _write_json(folder / "tokenizer_config.json", settings)
    _write_json(folder / "generation_config.json", generation)
    if template := fields.get("tokenizer.chat_template"):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _write_safetensors(
    path: Path,
    plan: Mapping[str, _Tensor],
    load: Callable[[_Tensor], npt.NDArray[np.float32]],
    progress: Callable[[float], None],
) -> None:
    """Write the tensors one after another, so that only one is in memory at a time."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in sorted(plan):
        size = 2 * int(np.prod(plan[name].shape))
        shape = list(plan[name].shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        written = 0
        for name in sorted(plan):
            values = load(plan[name])
            if heads := plan[name].heads:
                # GGUF weaves the two rotary halves of each head row by row; Hugging Face keeps them apart.
                pairs = values.reshape(heads, -1, 2, *values.shape[1:])
                values = pairs.swapaxes(1, 2).reshape(values.shape)
            bits = bf16_bits(values)
            file.write(bits.data)
            written += bits.nbytes
            progress(written / offset)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Convert; on failure print one line to stderr and return the error's exit code."""
    source, folder = arguments
    try:
        # A caller that is gone breaks the pipe, and that ends the conversion.
        convert(Path(source), Path(folder), lambda fraction: print(f"{fraction:.4f}", flush=True))
    except (TercetError, OSError) as error:
        print(error, file=sys.stderr)
        return error.exit_code if isinstance(error, TercetError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
