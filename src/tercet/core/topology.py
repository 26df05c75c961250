"""A topology: workers with stages, ranks, devices and engine, and the router in front of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from tercet.core.errors import UsageError
from tercet.core.stage import ROLE_NAMES, ROLE_STAGES, Mode, Stage, role_letter

TEXT_MODEL = "smollm2-135m"
VISION_MODEL = "smollm2-vision"
"""What is served when nobody names a model: the second where there are encode workers."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One worker: a front and one engine process per rank. `port` 0 lets the launcher choose.

    `engine` are fields of EngineSpec, and their values, that this worker has unlike the others.

    `devices` holds one name per rank ("cpu:0", "cpu:0-1" for a set of cores, "cuda:0"); empty until the launcher
    assigns them.
    """

    name: str
    stages: frozenset[Stage]
    ranks: int = 1
    devices: tuple[str, ...] = ()
    port: int = 0
    engine: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Sequences in one batch, and the token budget of one step."""

    sequences: int
    tokens: int


USUAL = BatchLimits(64, 512)
ON_GPU = BatchLimits(256, 8192)
"""Where nobody says; the second for vLLM, SGLang and TensorRT-LLM on GPUs."""
ENGINES_OF_OTHERS = ("vllm", "sglang", "trtllm")


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Settings of every worker's engine. `kv_blocks` 0 lets the engine size its pool. `tensor_parallel` GPUs make up
    the device of each rank. `max_num_seqs` and `max_num_batched_tokens` None depend on engine and device: `limits`.

    For vLLM's workers alone: `kv_connector` hands their KV on, with `events` they tell the router what they cache, with
    `cache_reset` they can be told to empty it.
    """

    engine: str = "tercet"
    gpu: str | None = None
    gpu_slowdown: float = 1.0
    dtype: str = "bf16"
    tensor_parallel: int = 1
    block_size: int = 16
    kv_blocks: int = 0
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    max_model_len: int = 4096
    transport: str = "auto"
    kv_connector: str = "nixl"
    events: bool = False
    cache_reset: bool = False
    lease_s: float = 30.0
    embedding_cache_bytes: int = 64 * 1024 * 1024
    allow_local_media: bool = False
    blocking_image_loading: bool = False
    max_images: int = 32
    max_image_bytes: int = 16 * 1024 * 1024
    max_image_pixels: int = 36_000_000
    media_timeout_s: float = 10.0
    random_weights: str | None = None
    engine_python: str | None = None

    def limits(self, *, on_gpu: bool) -> BatchLimits:
        """Return how much a rank takes at once, on a GPU or on cores. What fits a core would cut a prompt into many
        steps on a GPU, and leave most of it idle."""
        usual = ON_GPU if on_gpu and self.engine in ENGINES_OF_OTHERS else USUAL
        return BatchLimits(self.max_num_seqs or usual.sequences, self.max_num_batched_tokens or usual.tokens)


@dataclass(frozen=True, slots=True)
class RouterSpec:
    """Settings of the router. `balancer` None leaves the choice to the mode, `rank_match` None to
    the engine's connector; `port` 0 lets the launcher choose. The deadlines are those of every leg.
    So many `processes` share the port. `hybrid` lets A workers answer beside P and D.
    `max_concurrent` None is twice what a worker computes at once (`max_num_seqs`)."""

    host: str = "127.0.0.1"
    port: int = 8000
    processes: int = 1
    balancer: str | None = None
    ppd_threshold: int = 512
    hybrid: bool = False
    rank_match: str | None = None
    tokenise_once: bool = False
    prefill_fallback: str = "error"
    encode_fallback: str = "error"
    connect_timeout_s: float = 2.0
    first_byte_timeout_s: float = 60.0
    encode_timeout_s: float = 60.0
    answer_timeout_s: float = 600.0
    idle_timeout_s: float = 30.0
    max_retries: int = 2
    breaker_failures: int = 5
    max_concurrent: int | None = None
    max_queue: int = 1024
    queue_timeout_s: float = 30.0
    priority_header: bool = False
    api_key_file: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    log_format: str = "text"
    log_requests: bool = False
    otlp_endpoint: str | None = None


@dataclass(frozen=True, slots=True)
class Topology:
    """What `tercet serve` starts."""

    name: str
    model: str
    mode: Mode
    workers: tuple[WorkerSpec, ...]
    devices: tuple[str, ...] = ()
    engine: EngineSpec = field(default_factory=EngineSpec)
    router: RouterSpec = field(default_factory=RouterSpec)

    @property
    def short_form(self) -> str:
        """Return for instance `2E1P1D` or `2A`, counting workers by role."""
        letters = [role_letter(worker.stages) for worker in self.workers]
        return "".join(f"{letters.count(letter)}{letter}" for letter in "EPDA" if letter in letters)

    @property
    def ranks(self) -> int:
        """Return the number of engine processes of all workers."""
        return sum(worker.ranks for worker in self.workers)

    def of(self, worker: WorkerSpec) -> Topology:
        """Return the topology as `worker` sees it: with its own engine settings."""
        return replace(self, engine=replace(self.engine, **dict(worker.engine))) if worker.engine else self

    @property
    def idle(self) -> str | None:
        """What to tell whoever starts A workers beside P and D that get no requests; None when there are none."""
        letters = {role_letter(worker.stages) for worker in self.workers}
        if self.router.hybrid or not {"A", "D"} <= letters or self.mode in (Mode.AGGREGATED, Mode.REPLICATED):
            return None
        return f"in mode {self.mode} the A workers get no requests: --hybrid lets them answer beside P and D"

    def with_mode(self, mode: Mode) -> Topology:
        """Return the same topology under another mode. Raises UsageError when a stage is missing."""
        require_stages(mode, self.workers)
        return replace(self, mode=mode)


def parse_short_form(text: str) -> tuple[WorkerSpec, ...]:
    """Read `1P1D`, `2A`, `2E1P1D`: a count and a role letter, repeated. Raises UsageError."""
    if not re.fullmatch(r"(?:[1-9][0-9]{0,3}[EPDA])+", text):
        raise UsageError(f"{text!r} is neither a file nor a short form: write for instance 1P1D, 2A or 2E1P1D")
    workers: list[WorkerSpec] = []
    for count, letter in re.findall(r"([0-9]+)([EPDA])", text):
        start = sum(1 for worker in workers if worker.stages == ROLE_STAGES[letter])
        workers += [WorkerSpec(f"{ROLE_NAMES[letter]}-{start + i}", ROLE_STAGES[letter]) for i in range(int(count))]
    return tuple(workers)


PRESETS: dict[Mode, str] = {
    Mode.AGGREGATED: "1A",
    Mode.REPLICATED: "2A",
    Mode.PD: "1P1D",
    Mode.PPD: "1P1D",
    Mode.EPD: "1E1P1D",
    Mode.EPPD: "1E1P1D",
}


def missing_stage(mode: Mode, workers: tuple[WorkerSpec, ...]) -> str | None:
    """Return why `mode` can't run on these workers, or None when it can."""
    letters = {role_letter(worker.stages) for worker in workers}
    if mode in (Mode.AGGREGATED, Mode.REPLICATED):
        return None if "A" in letters else f"mode {mode} needs a worker with prefill and decode (A); there is none"
    if mode.encodes_apart:
        if "E" not in letters:
            return f"mode {mode} needs an encode worker (E); there is none"
        if "A" in letters:
            return None
    for letter, stage in (("P", "prefill"), ("D", "decode")):
        if letter not in letters:
            return f"mode {mode} needs a {stage} worker ({letter}); there is none"
    return None


def require_stages(mode: Mode, workers: tuple[WorkerSpec, ...]) -> None:
    """Raise UsageError when `mode` can't run on these workers."""
    if reason := missing_stage(mode, workers):
        raise UsageError(reason)


def default_mode(workers: tuple[WorkerSpec, ...]) -> Mode:
    """Return the mode that uses these workers when none is named. Raises UsageError when no mode can."""
    letters = [role_letter(worker.stages) for worker in workers]
    if "E" in letters:
        require_stages(Mode.EPD, workers)
        return Mode.EPD
    if "A" in letters and "P" not in letters and "D" not in letters:
        return Mode.AGGREGATED if letters.count("A") == 1 else Mode.REPLICATED
    require_stages(Mode.PD, workers)
    return Mode.PD


def has_encoders(workers: Iterable[WorkerSpec]) -> bool:
    """True when there is a worker that does nothing but encode (E)."""
    return any(role_letter(worker.stages) == "E" for worker in workers)


def default_model(workers: Iterable[WorkerSpec]) -> str:
    """Return the model that is served when none is named."""
    return VISION_MODEL if has_encoders(workers) else TEXT_MODEL


def with_sight(workers: tuple[WorkerSpec, ...]) -> tuple[WorkerSpec, ...]:
    """Return the workers of a model that sees: without encode workers, whoever prefills also encodes."""
    if has_encoders(workers):
        return workers
    return tuple(
        replace(worker, stages=worker.stages | {Stage.ENCODE}) if Stage.PREFILL in worker.stages else worker
        for worker in workers
    )


def check_sight(workers: Iterable[WorkerSpec], model: str) -> None:
    """Raise UsageError when a worker shall encode pictures for a model that does not see."""
    encoders = [worker.name for worker in workers if Stage.ENCODE in worker.stages]
    if encoders:
        raise UsageError(
            f"{', '.join(encoders)} can't encode pictures: {model} takes text only; choose a model that sees, for "
            f"instance --model {VISION_MODEL}"
        )


def check_encode_fallback(fallback: str, workers: Iterable[WorkerSpec]) -> None:
    """Raise UsageError when the workers that prefill can't take over from the encode workers as `fallback` says."""
    blind = [worker.name for worker in workers if Stage.PREFILL in worker.stages and Stage.ENCODE not in worker.stages]
    if fallback == "local" and blind:
        raise UsageError(
            f"encode_fallback local needs the stage encode on every worker that prefills, and {', '.join(blind)} "
            "lacks it: add encode to its stages, or take encode_fallback error"
        )


def mode_from_name(name: str) -> Mode:
    """Return the mode called `name`. Raises UsageError that lists the known ones."""
    try:
        return Mode(name)
    except ValueError:
        raise UsageError(f"unknown mode {name!r}: choose one of {', '.join(Mode)}") from None
