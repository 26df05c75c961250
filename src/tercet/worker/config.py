"""Settings of one worker; field for field the flags of `tercet worker`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tercet.core.errors import UsageError
from tercet.core.stage import Stage

SECRET_VARIABLE = "TERCET_TOPOLOGY_SECRET"
"""Where the launcher leaves the topology's secret for its children: everybody can read a command line."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """One worker: its name, stages, engine and address. `devices` has one entry per rank."""

    name: str = "worker-0"
    stages: frozenset[Stage] = frozenset({Stage.PREFILL, Stage.DECODE})
    model: str = "smollm2-135m"
    served_model_name: str | None = None
    random_weights: str | None = None
    cache_dir: Path | None = None
    engine: str = "tercet"
    gpu: str | None = None
    gpu_slowdown: float = 1.0
    dtype: str = "bf16"
    host: str = "127.0.0.1"
    port: int = 0
    devices: tuple[str, ...] = ("cpu:0",)
    block_size: int = 16
    kv_blocks: int = 0
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    max_model_len: int = 4096
    transport: str = "auto"
    lease_s: float = 30.0
    topology_id: str = "default"
    max_body_bytes: int = 32 * 1024 * 1024
    api_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse settings that can't work. Raises UsageError."""
        if self.engine not in ("tercet", "virtual"):
            raise UsageError(f"unknown engine {self.engine!r}: a tercet worker runs 'tercet' or 'virtual'")
        if self.engine == "virtual" and not self.gpu:
            raise UsageError("--engine virtual needs --gpu NAME: which GPU to imitate")
        if not 0.01 <= self.gpu_slowdown <= 100:
            raise UsageError(f"--gpu-slowdown {self.gpu_slowdown:g} is out of range: 1.1 is 10% slower")
        if self.gpu_slowdown != 1 and self.engine != "virtual":
            raise UsageError("--gpu-slowdown needs --engine virtual: a real device has its own speed")
        if self.dtype not in ("bf16", "fp32"):
            raise UsageError(f"unknown dtype {self.dtype!r}: choose bf16 or fp32")
        if self.transport not in ("auto", "shm", "tcp"):
            raise UsageError(f"unknown transport {self.transport!r}: choose auto, shm or tcp")
        if Stage.ENCODE in self.stages:
            raise UsageError("the encode stage needs a vision-language model; this version serves text models only")
        for name in ("block_size", "max_num_seqs", "max_num_batched_tokens", "max_model_len"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1")

    def transports(self) -> tuple[str, ...]:
        """Return the transports this worker offers and accepts, best first."""
        return ("shm", "tcp") if self.transport == "auto" else (self.transport,)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What one engine process is told: plain values only, as they cross a process boundary in a message."""

    worker: str
    rank: int
    model_dir: str
    random_weights: bool
    engine: str
    gpu: str | None
    gpu_slowdown: float
    dtype: str
    device: str
    host: str
    block_size: int
    kv_blocks: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    transports: tuple[str, ...]
    lease_s: float
    topology_id: str
    eos_token_ids: tuple[int, ...]
    vocab_size: int
    touch_pool: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return an object of plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> EngineConfig:
        """Read what `to_json` wrote."""
        return cls(**{**data, "transports": tuple(data["transports"]), "eos_token_ids": tuple(data["eos_token_ids"])})
