"""Settings of one worker; field for field the flags of `tercet worker`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any

from tercet.core.errors import UsageError
from tercet.core.stage import Stage
from tercet.latency.gpus import gpu_names
from tercet.media.limits import MediaLimits
from tercet.transfer.registry import AUTO, automatic
from tercet.transfer.registry import check as check_transport

EMBEDDING_CACHE_BYTES = 64 * 1024 * 1024
"""Default size of an embedding pool: 800 pictures of the bundled vision model in bf16."""

MAX_BODY_BYTES = 72 * 1024 * 1024
"""What a router lets through by default, 64 MiB, with tickets of pictures and KV beside it."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """One worker: its name, stages, engine and address. `devices` has one entry per rank.

    `rank_match` exact refuses tickets of another prefill rank than that of the same number."""

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
    embedding_cache_bytes: int = EMBEDDING_CACHE_BYTES
    topology_id: str = "default"
    max_body_bytes: int = MAX_BODY_BYTES
    api_keys: tuple[str, ...] = ()
    require_secret: bool = False
    allow_local_media: bool = False
    blocking_image_loading: bool = False
    max_images: int = 32
    max_image_bytes: int = 16 * 1024 * 1024
    max_image_pixels: int = 36_000_000
    media_timeout_s: float = 10.0
    rank_match: str = "any"

    def __post_init__(self) -> None:
        """Refuse settings that can't work. Raises UsageError."""
        if not self.host:
            raise UsageError("--host '' would listen on every address: write 127.0.0.1, or 0.0.0.0 if that is meant")
        if self.engine not in ("tercet", "virtual"):
            raise UsageError(f"unknown engine {self.engine!r}: a tercet worker runs 'tercet' or 'virtual'")
        if self.engine == "virtual" and not self.gpu:
            raise UsageError("--engine virtual needs --gpu NAME: which GPU to imitate")
        if self.gpu is not None and self.gpu.lower() not in gpu_names():
            raise UsageError(f"unknown --gpu {self.gpu!r}: known are {', '.join(gpu_names())}")
        if self.gpu is not None and self.engine != "virtual":
            raise UsageError("--gpu is what --engine virtual imitates: add that, or leave --gpu out")
        if not 0.01 <= self.gpu_slowdown <= 100:
            raise UsageError(f"--gpu-slowdown {self.gpu_slowdown:g} is out of range: 1.1 is 10% slower")
        if self.gpu_slowdown != 1 and self.engine != "virtual":
            raise UsageError("--gpu-slowdown needs --engine virtual: a real device has its own speed")
        if self.dtype not in ("bf16", "fp32"):
            raise UsageError(f"unknown dtype {self.dtype!r}: choose bf16 or fp32")
        check_transport(self.transport)
        if self.rank_match not in ("exact", "any"):
            raise UsageError(f"unknown rank match {self.rank_match!r}: choose exact or any")
        if self.embedding_cache_bytes < 0:
            raise UsageError("--embedding-cache-bytes can't be negative; 0 keeps no embeddings")
        if self.kv_blocks < 0:
            raise UsageError("--kv-blocks can't be negative; 0 takes as many as fit")
        for name in (
            *("block_size", "max_num_seqs", "max_num_batched_tokens", "max_model_len"),
            *("max_images", "max_image_bytes", "max_image_pixels"),
        ):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
        for flag, seconds in (("--media-timeout", self.media_timeout_s), ("--lease", self.lease_s)):
            if not 0 < seconds < inf:
                raise UsageError(f"{flag} must be more than 0 seconds, not {seconds:g}")

    def transports(self) -> tuple[str, ...]:
        """Return the transports this worker offers and accepts, best first."""
        return automatic(self.host) if self.transport == AUTO else (self.transport,)

    def media_limits(self) -> MediaLimits:
        """Return the bounds on clients' pictures."""
        return MediaLimits(
            max_bytes=self.max_image_bytes,
            max_pixels=self.max_image_pixels,
            max_images=self.max_images,
            timeout_s=self.media_timeout_s,
            allow_local=self.allow_local_media,
        )


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
    stages: tuple[str, ...] = (Stage.PREFILL, Stage.DECODE)
    embedding_cache_bytes: int = EMBEDDING_CACHE_BYTES

    @property
    def encodes(self) -> bool:
        """True when pictures are encoded here."""
        return Stage.ENCODE in self.stages

    @property
    def generates(self) -> bool:
        """True when prompts or answers are computed here: a language model is needed."""
        return Stage.PREFILL in self.stages or Stage.DECODE in self.stages

    def to_json(self) -> dict[str, Any]:
        """Return an object of plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> EngineConfig:
        """Read what `to_json` wrote."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**values)
