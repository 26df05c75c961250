from __future__ import annotations

import json
import math
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.core.errors import UsageError
from tercet.engine.models.convert import bf16_bits, convert
from tercet.text.tokenizer import load_tokenizer
from tests.unit.engine.models.synthetic import HEAD_DIM, HIDDEN, KV_HEADS, write_gguf


def convert_tiny(tmp_path: Path, *, tied: bool = True) -> Path:
    source, folder = tmp_path / "tiny.gguf", tmp_path / "out"
    folder.mkdir()
    write_gguf(source, tied=tied)
    convert(source, folder)
    return folder


def read_safetensors(path: Path) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    del header["__metadata__"]
    tensors = {}
    for name, entry in header.items():
        assert entry["dtype"] == "BF16"
        start, end = entry["data_offsets"]
        bits = np.frombuffer(data[8 + size + start : 8 + size + end], np.uint16).astype(np.uint32) << 16
        tensors[name] = bits.view(np.float32).reshape(entry["shape"])
    return tensors


def test_tensors_get_their_names_shapes_and_values(tmp_path: Path) -> None:
    folder = convert_tiny(tmp_path, tied=False)
    tensors = read_safetensors(folder / "model.safetensors")
    assert len(tensors) == 2 * 9 + 3
    assert {"lm_head.weight", "model.norm.weight", "model.layers.1.mlp.down_proj.weight"} <= set(tensors)
    raw = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "tiny.gguf").tensors}
    down = raw["blk.1.ffn_down.weight"]
    expected = gguf.quants.dequantize(down.data, down.tensor_type)
    assert np.allclose(tensors["model.layers.1.mlp.down_proj.weight"], expected, rtol=2**-8)


def test_rotary_rows_are_unweaved(tmp_path: Path) -> None:
    folder = convert_tiny(tmp_path)
    raw = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "tiny.gguf").tensors}["blk.0.attn_k.weight"]
    woven = gguf.quants.dequantize(raw.data, raw.tensor_type).reshape(KV_HEADS, HEAD_DIM, HIDDEN)
    found = read_safetensors(folder / "model.safetensors")["model.layers.0.self_attn.k_proj.weight"]
    halves = found.reshape(KV_HEADS, HEAD_DIM, HIDDEN)
    for pair in range(HEAD_DIM // 2):
        assert np.allclose(halves[:, pair], woven[:, 2 * pair], rtol=2**-8)
        assert np.allclose(halves[:, HEAD_DIM // 2 + pair], woven[:, 2 * pair + 1], rtol=2**-8)


def test_configuration_and_tokeniser(tmp_path: Path) -> None:
    folder = convert_tiny(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert config["rms_norm_eps"] == 1e-5
    assert (config["tie_word_embeddings"], config["num_key_value_heads"], config["head_dim"]) == (True, 2, 8)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.eos_token_ids == {2}
    assert tokenizer.vocab_size == config["vocab_size"]
    assert tokenizer.encode_chat([{"role": "user", "content": "hi"}]).text == "hi"
    assert tokenizer.decode(tokenizer.encode("naïve 👩 1234")) == "naïve 👩 1234"
    # Digits stand alone, so the three spaces before one are a run of their own.
    assert [tokenizer.token_text(token) for token in tokenizer.encode("a   12")] == ["a", "   ", "1", "2"]


def test_conversion_is_reproducible(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, two = convert_tiny(tmp_path / "a"), convert_tiny(tmp_path / "b")
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes()


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", architecture="falcon")
    with pytest.raises(UsageError, match="falcon"):
        convert(tmp_path / "tiny.gguf", tmp_path)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_rounding_to_bf16_takes_the_nearest_even(value: float) -> None:
    if abs(value) > 3.38e38:  # rounds to infinity, as it should
        return
    bits = int(bf16_bits(np.array([value], np.float32))[0])
    rounded = float(np.array([bits << 16], np.uint32).view(np.float32)[0])
    error = abs(rounded - value)
    ulp = 2.0 ** (math.frexp(value)[1] - 8) if abs(value) >= 2.0**-126 else 2.0**-133
    assert error <= ulp / 2
    if error == ulp / 2:
        assert bits % 2 == 0


@pytest.mark.slow
def test_equals_transformers_conversion(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = convert_tiny(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32)
    model.hf_quantizer, model.is_quantized = None, False
    del model.config.quantization_config
    model.save_pretrained(tmp_path / "theirs")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs", dtype=torch.bfloat16).state_dict()
    ours = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).state_dict()
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
