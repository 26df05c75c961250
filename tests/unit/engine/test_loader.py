from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tercet.core.errors import UsageError
from tercet.engine.backend import CpuBackend
from tercet.engine.decoder import FusedDecoder
from tercet.engine.fingerprint import model_fingerprint, weights_hash
from tercet.engine.hf_model import HFModel
from tercet.engine.linear import PackedLinear, PlainLinear, TransposedLinear, can_prepack
from tercet.engine.llava import language_weights
from tercet.engine.loader import LoadedModel, load_model
from tercet.engine.sequence import Batch
from tercet.engine.torch_executor import TorchExecutor
from tests.unit.engine.model_lab import Driver, new_sequence, write_config

PROMPT = list(range(3, 40))


def backend_of(dtype: str, **choices: bool) -> CpuBackend:
    return CpuBackend(dtype, 1, **choices)


def load(folder: Path, backend: CpuBackend, *, fused: bool = True) -> LoadedModel:
    dtype = "bf16" if backend.kv_dtype == torch.bfloat16 else "fp32"
    return load_model(
        folder, backend, dtype=dtype, block_size=4, max_model_len=64, random_weights=True, fused=fused, seed=3
    )


def answer(folder: Path, backend: CpuBackend, *, fused: bool = True) -> list[int]:
    loaded = load(folder, backend, fused=fused)
    executor = TorchExecutor(loaded, backend, 32, memoryview(bytearray(32 * loaded.kv.block_bytes)))
    assert executor.execute(Batch(())) == []
    return Driver(executor).run(new_sequence(PROMPT, range(12)), [20, 17], 8)


@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
def test_all_forms_agree(tmp_path: Path, model_type: str) -> None:
    """Fused or transformers' own forward, compiled kernels or torch operators: the same fp32 tokens."""
    folder = write_config(tmp_path, model_type)
    compiled, plain = backend_of("fp32", compiled=True), backend_of("fp32", compiled=False)
    assert (compiled.kernels, plain.kernels) == ("torch+llvm", "torch")
    assert isinstance(load(folder, plain).model, FusedDecoder)
    assert isinstance(load(folder, plain, fused=False).model, HFModel)
    answers = [answer(folder, backend, fused=fused) for backend in (compiled, plain) for fused in (True, False)]
    assert answers[0] == answers[1] == answers[2] == answers[3]
    assert len(set(answers[0])) > 2


def test_all_forms_share_one_layout_and_so_one_fingerprint(tmp_path: Path) -> None:
    folder = write_config(tmp_path)
    forms = [
        load(folder, backend_of("fp32", compiled=compiled), fused=fused).fingerprint
        for compiled in (True, False)
        for fused in (True, False)
    ]
    assert len(set(forms)) == 1
    assert load(folder, backend_of("bf16")).fingerprint not in forms


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("compiled", [True, False])
def test_bf16_arithmetic_is_close_to_fp32(tmp_path: Path, fused: bool, compiled: bool) -> None:
    """What a CPU with bf16 units (or CUDA) computes: every activation in bf16."""
    folder = write_config(tmp_path, "qwen3", initializer_range=0.1)
    native = backend_of("bf16", native_bf16=True, compiled=compiled)
    emulated = backend_of("bf16", native_bf16=False, compiled=compiled)
    assert native.compute_dtype == torch.bfloat16
    assert emulated.compute_dtype == torch.float32 and emulated.kv_dtype == torch.bfloat16
    assert answer(folder, native, fused=fused)[0] == answer(folder, emulated, fused=fused)[0]


def test_an_unknown_rope_falls_back_to_transformers_own_forward(tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1000.0}
    assert isinstance(load(write_config(tmp_path, rope_parameters=rope), backend_of("fp32")).model, HFModel)


def test_end_ids_come_from_the_generation_config_first(tmp_path: Path) -> None:
    folder = write_config(tmp_path)
    assert load(folder, backend_of("fp32")).eos_token_ids == {2}
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    assert load(folder, backend_of("fp32")).eos_token_ids == {7, 9}


@pytest.mark.parametrize("sees", [False, True])
@pytest.mark.parametrize("kept", [0, 4, 100, 100_000])
def test_weights_that_are_cut_off_are_an_error_that_says_so(tmp_path: Path, sees: bool, kept: int) -> None:
    folder = write_config(tmp_path)
    save_file({"model.embed_tokens.weight": torch.zeros(256, 256)}, folder / "model.safetensors")
    os.truncate(folder / "model.safetensors", kept)
    with pytest.raises(UsageError, match=f"{folder}.*cut off or damaged, download"):
        language_weights(folder) if sees else load_model(
            folder, backend_of("fp32"), dtype="fp32", block_size=4, max_model_len=64
        )


def test_weights_hash_sees_content_size_and_name(tmp_path: Path) -> None:
    a = tmp_path / "a"
    a.mkdir()
    (a / "model.safetensors").write_bytes(bytes(range(256)) * 5000)
    b = tmp_path / "b"
    shutil.copytree(a, b)
    assert weights_hash(a) == weights_hash(b)
    data = bytearray((b / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (b / "model.safetensors").write_bytes(data)
    assert weights_hash(a) != weights_hash(b)
    (b / "model.safetensors").write_bytes((a / "model.safetensors").read_bytes() + b"x")
    assert weights_hash(a) != weights_hash(b)


def test_fingerprint_names_everything_that_matters() -> None:
    base = ({"hidden_size": 8}, "w", "bf16", 16, "layout")
    variants = [
        ({"hidden_size": 9}, "w", "bf16", 16, "layout"),
        ({"hidden_size": 8}, "v", "bf16", 16, "layout"),
        ({"hidden_size": 8}, "w", "fp32", 16, "layout"),
        ({"hidden_size": 8}, "w", "bf16", 32, "layout"),
        ({"hidden_size": 8}, "w", "bf16", 16, "other"),
    ]
    prints = {model_fingerprint(*v) for v in [base, *variants]}
    assert len(prints) == 6
    assert model_fingerprint({"hidden_size": 8, "_name_or_path": "/x"}, "w", "bf16", 16, "layout") in prints


@pytest.mark.parametrize("bias", [True, False])
def test_layouts_equal_plain(bias: bool) -> None:
    assert can_prepack(torch.float32)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 64, generator=generator)
    b = torch.randn(48, generator=generator) if bias else None
    packed, transposed, plain = (kind(weight, b) for kind in (PackedLinear, TransposedLinear, PlainLinear))
    for rows in (1, 3, 16, 100):
        x = torch.randn(rows, 64, generator=generator)
        torch.testing.assert_close(packed(x), plain(x), rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(transposed(x), plain(x), rtol=1e-5, atol=1e-4)
