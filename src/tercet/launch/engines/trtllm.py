"""TensorRT-LLM's workers: `trtllm-serve` and the file of options it takes. Flags read in tensorrt_llm/commands/serve.py
of release 1.2, options in its examples/disaggregated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from tercet.core.errors import UsageError
from tercet.core.stage import role_letter
from tercet.core.topology import Topology, WorkerSpec, has_encoders
from tercet.launch.engines.environment import python_of
from tercet.launch.engines.flags import flags_of
from tercet.launch.engines.gpus import check_gpus, visible_gpus
from tercet.launch.engines.protocol import WorkerProcess
from tercet.launch.placement import Placement

DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
TRANSPORTS = {"auto": "DEFAULT", "nixl": "NIXL"}
CONTAINER_OPTIONS = Path("/etc/tercet/options")
"""Where a container finds its file of options."""


@dataclass(frozen=True, slots=True)
class TrtllmCommands:
    """A prefill worker is what TensorRT-LLM calls a context server, a decode worker a generation server."""

    dialect: str = "trtllm"
    start_timeout_s: float = 1800.0
    health_timeout_s: float | None = 20.0

    def side_ports(self, topology: Topology, worker: WorkerSpec) -> int:
        """Return 0: the addresses of the KV transfer travel in the context's answer."""
        return 0

    def check(self, placement: Placement, worker: WorkerSpec) -> None:
        """Raise UsageError for settings that TensorRT-LLM can't follow."""
        check(placement.topology, worker)

    def worker(self, placement: Placement, worker: WorkerSpec) -> WorkerProcess:
        """Return how to start the worker. Raises UsageError for settings it has no word for, and when it is missing."""
        python = python_of("trtllm", placement)
        options = (placement.run_path or Path("/tmp")) / f"{worker.name}.yaml"
        env = {"CUDA_VISIBLE_DEVICES": visible_gpus(worker)}
        return _process(str(python.parent / "trtllm-serve"), placement, worker, options, env)

    def container(self, placement: Placement, worker: WorkerSpec) -> WorkerProcess:
        """Return how the worker's container is started. Raises UsageError for settings that can't work."""
        options = CONTAINER_OPTIONS / "options.yaml"
        return _process("trtllm-serve", placement, worker, options, {})

    def said(self, placement: Placement, worker: WorkerSpec) -> tuple[str, ...]:
        """Return nothing."""
        return ()


def arguments_of(placement: Placement, worker: WorkerSpec, options: Path) -> list[str]:
    """Return the arguments of `trtllm-serve`; `options` is its file of options."""
    topology, engine = placement.topology, placement.topology.engine
    limits = engine.limits(on_gpu=True)
    settings: dict[str, object] = {
        "--host": placement.host,
        "--port": worker.port,
        "--backend": "pytorch",
        "--max_batch_size": limits.sequences,
        "--max_num_tokens": max(limits.tokens, limits.sequences),
        "--max_seq_len": engine.max_model_len,
        "--tp_size": max(worker.ranks, engine.tensor_parallel),
        "--enable_chunked_prefill": True,
        "--extra_llm_api_options": options,
    }
    return [topology.model, *flags_of(settings)]


def options_of(topology: Topology, worker: WorkerSpec) -> dict[str, object]:
    """Return the options of a worker. Ranks are TensorRT-LLM's attention data parallelism."""
    engine = topology.engine
    cache: dict[str, object] = {"enable_block_reuse": True, "tokens_per_block": engine.block_size}
    if engine.kv_blocks:
        cache["max_tokens"] = engine.kv_blocks * engine.block_size
    options: dict[str, object] = {"dtype": DTYPES[engine.dtype], "kv_cache_config": cache}
    if worker.ranks > 1:
        options["enable_attention_dp"] = True
    letter = role_letter(worker.stages)
    if letter in "PD":
        # A prompt must fit the buffer whole, or its transfer is cut into pieces that cost more.
        options["cache_transceiver_config"] = {
            "backend": TRANSPORTS[engine.transport],
            "max_tokens_in_buffer": engine.max_model_len,
        }
    if letter == "P":
        # Context servers don't support it.
        options["disable_overlap_scheduler"] = True
    return options


def check(topology: Topology, worker: WorkerSpec) -> None:
    """Raise UsageError for settings that TensorRT-LLM can't follow."""
    check_gpus(topology, worker, "trtllm")
    if worker.ranks > 1 and topology.engine.tensor_parallel > 1:
        raise UsageError(f"{worker.name}: trtllm's ranks are the GPUs of one engine: leave tensor_parallel out")
    if topology.engine.transport not in TRANSPORTS:
        raise UsageError(f"--transport {topology.engine.transport}: trtllm hands KV over by nixl; leave it out")
    if has_encoders(topology.workers):
        raise UsageError("encode workers of trtllm are not spoken to: take mode pd, or aggregated")


def _process(
    program: str, placement: Placement, worker: WorkerSpec, options: Path, env: dict[str, str]
) -> WorkerProcess:
    check(placement.topology, worker)
    text = yaml.safe_dump(options_of(placement.topology, worker), sort_keys=False)
    argv = (program, *arguments_of(placement, worker, options))
    return WorkerProcess(argv, env, "/health", {str(options): text})
