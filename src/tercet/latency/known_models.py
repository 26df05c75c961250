"""Models known by name: their shapes, the grid's entry for them, and the tower through which they see."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tercet.core.errors import UsageError
from tercet.latency.shape import ModelShape, shape_of


@dataclass(frozen=True, slots=True)
class KnownModel:
    """`grid` names the shipped tables of the language model, "" when there are none; `tower` is "" for a blind one.

    `hub` is its name on the Hugging Face hub, what an engine is started with; "" for a file's.
    """

    name: str
    shape: ModelShape
    grid: str = ""
    tower: str = ""
    hub: str = ""


_LLAMA_8B = ModelShape(4096, 32, 32, 8, 128, 14336, 128256)
_QWEN3_8B = ModelShape(4096, 36, 32, 8, 128, 12288, 151936)
_QWEN3_30B = ModelShape(2048, 48, 32, 4, 128, 768, 151936, experts=128, active_experts=8)
_QWEN25_7B = ModelShape(3584, 28, 28, 4, 128, 18944, 152064)
_MISTRAL = ModelShape(4096, 32, 32, 8, 128, 14336, 32064)

KNOWN = (
    KnownModel("llama-3.1-8b", _LLAMA_8B, "llama-3.1-8b", "", "meta-llama/Llama-3.1-8B-Instruct"),
    KnownModel(
        "llama-3.1-70b",
        ModelShape(8192, 80, 64, 8, 128, 28672, 128256),
        "llama-3.1-70b",
        "",
        "meta-llama/Llama-3.1-70B-Instruct",
    ),
    KnownModel("qwen3-8b", _QWEN3_8B, "qwen3-8b", "", "Qwen/Qwen3-8B"),
    KnownModel("qwen3-30b-a3b", _QWEN3_30B, "qwen3-30b-a3b", "", "Qwen/Qwen3-30B-A3B"),
    KnownModel("qwen2.5-7b", _QWEN25_7B, "qwen2.5-7b", "", "Qwen/Qwen2.5-7B-Instruct"),
    KnownModel("smollm2-135m", ModelShape(576, 30, 9, 3, 64, 1536, 49152, tied=True)),
    KnownModel("mistral-7b", _MISTRAL, "mistral-7b", "", "mistralai/Mistral-7B-Instruct-v0.2"),
    KnownModel("llava-1.6-mistral-7b", _MISTRAL, "mistral-7b", "clip-l", "llava-hf/llava-v1.6-mistral-7b-hf"),
    KnownModel("qwen2.5-vl-7b", _QWEN25_7B, "qwen2.5-7b", "qwen2.5-vl", "Qwen/Qwen2.5-VL-7B-Instruct"),
    KnownModel("qwen3-vl-8b", _QWEN3_8B, "qwen3-8b", "qwen3-vl", "Qwen/Qwen3-VL-8B-Instruct"),
    KnownModel("qwen3-vl-30b-a3b", _QWEN3_30B, "qwen3-30b-a3b", "qwen3-vl", "Qwen/Qwen3-VL-30B-A3B-Instruct"),
)


def known_names() -> list[str]:
    """Return the names of the known models."""
    return [model.name for model in KNOWN]


def find_model(model: str) -> KnownModel:
    """Return a model by its name (`llama-3.1-8b`, `meta-llama/Llama-3.1-8B-Instruct`), or a folder with config.json,
    or such a file. Raises UsageError that lists the known ones."""
    path = Path(model)
    if path.is_dir():
        path = path / "config.json"
    if path.is_file():
        return _from_file(path)
    name = plain_name(model)
    for known in KNOWN:
        if known.name == name:
            return known
    raise UsageError(
        f"no latencies are known of the model {model!r}: name one of {', '.join(known_names())}, or give the path of "
        "its config.json for a rough estimate"
    )


def recognise(shape: ModelShape) -> KnownModel | None:
    """Return the text model of this shape, if the grid has one; a vocabulary of another size is near enough."""
    for known in KNOWN:
        same = known.shape
        if known.tower or not known.grid:
            continue
        if (shape.hidden, shape.layers, shape.heads, shape.kv_heads, shape.head_dim, shape.inter, shape.experts) == (
            same.hidden, same.layers, same.heads, same.kv_heads, same.head_dim, same.inter, same.experts,
        ) and abs(shape.vocab - same.vocab) < same.vocab // 8:  # fmt: skip
            return known
    return None


def plain_name(model: str) -> str:
    """Return a model's name without its owner, its tuning and its format."""
    name = model.rsplit("/", 1)[-1].lower().replace("_", "-").removeprefix("meta-")
    for suffix in (
        "-hf",
        "-bf16",
        "-base",
        "-2507",
        "-instruct",
        "-chat",
        "-it",
        "-v0.1",
        "-v0.2",
        "-v0.3",
        "-instruct",
    ):
        name = name.removesuffix(suffix)
    return name.replace("llava-v1.6", "llava-1.6")


def _from_file(path: Path) -> KnownModel:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} can't be read as a model's configuration: {error}") from error
    if not isinstance(config, dict):
        raise UsageError(f"{path} is no model's configuration: it holds no object")
    shape = shape_of(config, str(path))
    known = recognise(shape)
    name = path.parent.name if path.name == "config.json" else path.stem
    return KnownModel(name or str(path), shape, known.grid if known else "", _tower_of(config))


def _tower_of(config: dict[str, object]) -> str:
    vision = config.get("vision_config")
    if not isinstance(vision, dict):
        return ""
    kind = str(config.get("model_type", ""))
    kinds = {"qwen2_5_vl": "qwen2.5-vl", "qwen3_vl": "qwen3-vl", "qwen3_vl_moe": "qwen3-vl"}
    return kinds.get(kind, "clip-l")
