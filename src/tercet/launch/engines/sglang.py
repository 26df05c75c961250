"""SGLang's workers: `python -m sglang.launch_server`. Flags read in sglang 0.5.23."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tercet.core.errors import UsageError
from tercet.core.stage import Stage, role_letter
from tercet.core.topology import Topology, WorkerSpec, has_encoders
from tercet.dialects.sglang import DEFAULT_BOOTSTRAP_PORT
from tercet.launch.engines.environment import python_of
from tercet.launch.engines.flags import flags_of
from tercet.launch.engines.gpus import check_gpus, visible_gpus
from tercet.launch.engines.protocol import WorkerProcess
from tercet.launch.placement import Placement

DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
TRANSPORTS = {"auto": "nixl", "nixl": "nixl", "mooncake": "mooncake"}
ROLES = {"P": "prefill", "D": "decode"}


@dataclass(frozen=True, slots=True)
class SglangCommands:
    """Prefill and decode meet in rooms of P's bootstrap server; who prefills asks the encode workers by itself."""

    dialect: str = "sglang"
    start_timeout_s: float = 1200.0
    health_timeout_s: float | None = 20.0

    def side_ports(self, topology: Topology, worker: WorkerSpec) -> int:
        """Return one port for the bootstrap server of a prefill worker."""
        return 1 if role_letter(worker.stages) == "P" else 0

    def check(self, placement: Placement, worker: WorkerSpec) -> None:
        """Raise UsageError for settings that SGLang can't follow."""
        check(placement.topology, worker)

    def worker(self, placement: Placement, worker: WorkerSpec) -> WorkerProcess:
        """Return how to start the worker. Raises UsageError for settings SGLang has no word for, and without SGLang."""
        python = python_of("sglang", placement)
        process = _process(str(python), placement, worker, {"CUDA_VISIBLE_DEVICES": visible_gpus(worker)})
        if placement.topology.router.api_key_file is None or has_encoders(placement.topology.workers):
            return process  # who prefills asks encode workers without a key
        key_file = str((placement.run_path or Path("/tmp")) / f"{worker.name}.yaml")
        return replace(process, argv=(*process.argv, "--config", key_file), key_file=key_file)

    def container(self, placement: Placement, worker: WorkerSpec) -> WorkerProcess:
        """Return how the worker's container is started. Raises UsageError for settings SGLang has no word for."""
        return _process("python3", placement, worker, {})

    def said(self, placement: Placement, worker: WorkerSpec) -> tuple[str, ...]:
        """Return the port of a prefill worker's bootstrap server."""
        if role_letter(worker.stages) != "P":
            return ()
        return (f"bootstrap={_bootstrap_port(placement, worker)}",)


def arguments_of(placement: Placement, worker: WorkerSpec) -> list[str]:
    """Return the arguments of SGLang's server. Raises UsageError for settings that it can't follow."""
    topology, engine = placement.topology, placement.topology.engine
    check(topology, worker)
    letter = role_letter(worker.stages)
    encoder = letter == "E"
    pair = letter in ROLES
    settings: dict[str, object] = {
        "--model-path": topology.model,
        "--served-model-name": topology.model,
        "--host": placement.host,
        "--port": worker.port,
        "--dtype": DTYPES[engine.dtype],
        "--tp-size": engine.tensor_parallel if engine.tensor_parallel > 1 else None,
        "--encoder-only": encoder,
    }
    if not encoder:
        limits = engine.limits(on_gpu=True)
        settings |= {
            "--page-size": engine.block_size,
            "--max-total-tokens": engine.kv_blocks * engine.block_size or None,
            # SGLang shares this number out among a worker's ranks.
            "--max-running-requests": limits.sequences * worker.ranks,
            "--chunked-prefill-size": limits.tokens,
            "--context-length": engine.max_model_len,
            "--dp-size": worker.ranks if worker.ranks > 1 else None,
            "--enable-cache-report": True,
            "--enable-metrics": True,
            "--disaggregation-mode": ROLES.get(letter),
            "--disaggregation-transfer-backend": TRANSPORTS[engine.transport] if pair else None,
            "--disaggregation-bootstrap-port": _bootstrap_port(placement, worker) if letter == "P" else None,
        }
    arguments = flags_of(settings)
    if Stage.PREFILL in worker.stages and has_encoders(topology.workers):
        encoders = [each for each in topology.workers if role_letter(each.stages) == "E"]
        urls = [placement.worker_url(each) for each in encoders]
        # How embeddings travel is left to SGLang, which chooses by model; decode workers know nothing of encoders.
        arguments += ["--language-only", "--encoder-urls", *urls]
    return arguments


def check(topology: Topology, worker: WorkerSpec) -> None:
    """Raise UsageError for settings that SGLang can't follow."""
    check_gpus(topology, worker, "sglang")
    if topology.engine.transport not in TRANSPORTS:
        raise UsageError(f"--transport {topology.engine.transport}: sglang hands KV over by nixl or mooncake")
    if role_letter(worker.stages) == "E" and worker.ranks > 1:
        raise UsageError(f"{worker.name}: an encode worker of sglang has one rank; name several workers instead")


def _process(python: str, placement: Placement, worker: WorkerSpec, env: dict[str, str]) -> WorkerProcess:
    # /health of a server with a language model runs an inference, a second or more.
    path = "/health" if role_letter(worker.stages) == "E" else "/model_info"
    return WorkerProcess((python, "-m", "sglang.launch_server", *arguments_of(placement, worker)), env, path)


def _bootstrap_port(placement: Placement, worker: WorkerSpec) -> int:
    return next(iter(placement.side_ports.get(worker.name, ())), DEFAULT_BOOTSTRAP_PORT)
