"""vLLM's workers: `python -m vllm.entrypoints.openai.api_server`, from vLLM's own environment."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from tercet.core.errors import UsageError
from tercet.core.stage import Stage, role_letter
from tercet.core.topology import EngineSpec, Topology, WorkerSpec, has_encoders
from tercet.launch.engines.environment import python_of
from tercet.launch.engines.flags import flags_of
from tercet.launch.engines.gpus import check_tensor_parallel, visible_gpus
from tercet.launch.engines.protocol import WorkerProcess
from tercet.launch.model import path_or_name, prepare_model, sees_or_may
from tercet.launch.placement import Placement

SITE = Path(__file__).parent / "vllm_site"
"""A folder whose sitecustomize makes vLLM's CPU build start beside CUDA builds of torch's companions."""
CLI = "vllm.entrypoints.cli.main"
"""The module that is vLLM's own command."""

DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
CONNECTORS = {"nixl": "NixlConnector", "mooncake": "MooncakeConnector"}
DEFAULT_SIDE_PORT = 5600
CPU_BLOCK = 32
CPU_KV_GB = 1
"""What each rank on a CPU reserves for KV, in GB; vLLM would take half of the memory."""


@dataclass(frozen=True, slots=True)
class VllmCommands:
    """Whole requests by plain workers; prefill and decode joined by NIXL, encoders by files in the deployment's folder.

    A front shares its cores with an engine that spins: on a busy machine a health check takes seconds.
    """

    dialect: str = "vllm"
    start_timeout_s: float = 600.0
    health_timeout_s: float | None = 20.0

    def side_ports(self, topology: Topology, worker: WorkerSpec) -> int:
        """Return a port a rank for its connector, of workers that hand on or take over KV, and one for its events."""
        return worker.ranks * (_hands_over(worker) + _publishes(topology, worker))

    def check(self, placement: Placement, worker: WorkerSpec) -> None:
        """Raise UsageError for settings that vLLM can't follow."""
        check(placement.topology, worker)

    def worker(self, placement: Placement, worker: WorkerSpec) -> WorkerProcess:
        """Return how to start the worker. Raises UsageError for settings vLLM has no word for, and without vLLM."""
        topology = placement.topology
        check(topology, worker)
        python = python_of("vllm", placement)
        if placement.dry:
            path = path_or_name(topology, placement.cache_dir)
            seeing, _ = sees_or_may(topology, placement.cache_dir)
        else:
            model = prepare_model(topology, placement.cache_dir)
            path, seeing = model.path, "vision_config" in model.config
        arguments = arguments_of(placement, worker, path, sees=seeing)
        env = environment_of(placement, worker, os.environ.get("PYTHONPATH", ""))
        if not path.is_dir():
            del env["HF_HUB_OFFLINE"]  # a dry run's: who starts it fetches the weights
        return WorkerProcess(
            (str(python), "-m", "vllm.entrypoints.openai.api_server", *arguments),
            env,
            "/health",
            key_variable="VLLM_API_KEY",
        )

    def container(self, placement: Placement, worker: WorkerSpec) -> WorkerProcess:
        """Return how the worker's container is started. Raises UsageError for settings vLLM has no word for."""
        check(placement.topology, worker)
        # Whether the model takes pictures stands in its configuration, which is not here: encoders say so.
        sees = has_encoders(placement.topology.workers)
        arguments = arguments_of(placement, worker, Path(placement.topology.model), sees=sees)
        env = environment_of(placement, worker, "")
        # The model comes from the hub, and which GPUs there are the container's runtime decides.
        env = {name: value for name, value in env.items() if name not in ("HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES")}
        return WorkerProcess(("python3", "-m", "vllm.entrypoints.openai.api_server", *arguments), env, "/health")

    def said(self, placement: Placement, worker: WorkerSpec) -> tuple[str, ...]:
        """Return where the worker's KV events are, and Mooncake's bootstrap port; NIXL's travel in the tickets."""
        words = []
        if placement.topology.engine.kv_connector == "mooncake" and _hands_over(worker):
            words.append(f"bootstrap={_side_port(placement, worker)}")
        if (port := _events_port(placement, worker)) is not None:
            words.append(f"{'events-here' if _on_loopback(placement) else 'events'}={port}")
        return tuple(words)


def check(topology: Topology, worker: WorkerSpec) -> None:
    """Raise UsageError for settings that vLLM can't follow, in the topology as `worker` sees it."""
    engine = topology.engine
    if engine.random_weights is not None:
        raise UsageError("--random-weights is for the built-in engine: name a --model for vllm")
    if engine.gpu is not None:
        raise UsageError("--gpu is what --engine virtual imitates: choose vllm's with --devices cuda:0")
    if engine.transport not in ("auto", "nixl"):
        raise UsageError(f"--transport {engine.transport}: vllm's workers hand KV over by nixl; leave it out")
    if engine.kv_connector == "mooncake" and _on_cpu(worker):
        raise UsageError("--kv-connector mooncake: vllm's needs GPUs; take nixl, or choose GPUs with --devices cuda:0")
    kinds = {device.partition(":")[0] for device in worker.devices}
    if len(kinds) > 1:
        raise UsageError(f"{worker.name}: one vllm worker computes on cores or on GPUs, not on both")
    if kinds == {"cuda"}:
        check_tensor_parallel(topology, worker)
    elif engine.tensor_parallel > 1:
        raise UsageError("tensor_parallel is for GPUs: a rank on a CPU takes more cores instead, as in cpu:0-3")


def arguments_of(placement: Placement, worker: WorkerSpec, model: Path, *, sees: bool) -> list[str]:
    """Return the arguments of vLLM's server; `sees` when the model takes pictures."""
    topology, engine = placement.topology, placement.topology.engine
    letter = role_letter(worker.stages)
    encoder = letter == "E"
    on_cpu = _on_cpu(worker)
    limits = engine.limits(on_gpu=not on_cpu)
    settings: dict[str, object] = {
        "--model": model,
        "--served-model-name": topology.model,
        "--host": placement.host,
        "--port": worker.port,
        "--dtype": DTYPES[engine.dtype],
        "--block-size": _block_size(engine.block_size, on_cpu),
        "--num-gpu-blocks-override": engine.kv_blocks or None,
        "--max-num-seqs": limits.sequences,
        "--max-num-batched-tokens": max(limits.tokens, limits.sequences),
        "--max-model-len": engine.max_model_len,
        "--tensor-parallel-size": engine.tensor_parallel if engine.tensor_parallel > 1 else None,
        "--data-parallel-size": worker.ranks if worker.ranks > 1 else None,
        "--enforce-eager": on_cpu,
        "--mm-encoder-only": encoder,
        "--no-enable-prefix-caching": encoder,
        "--enable-prompt-tokens-details": True,
        "--allowed-local-media-path": "/" if engine.allow_local_media and sees else None,
        "--limit-mm-per-prompt": json.dumps({"image": engine.max_images}) if sees else None,
        "--enable-mm-embeds": not encoder and sees and has_encoders(topology.workers),
        "--kv-transfer-config": _kv_transfer(letter, engine, on_cpu) if _hands_over(worker) else None,
        "--kv-events-config": _kv_events(placement, worker),
        "--ec-transfer-config": _ec_transfer(placement, worker) if has_encoders(topology.workers) else None,
    }
    return flags_of(settings)


def environment_of(placement: Placement, worker: WorkerSpec, python_path: str) -> dict[str, str]:
    """Return the variables laid over the launcher's; `python_path` is its PYTHONPATH."""
    env = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    if placement.topology.engine.cache_reset:
        env["VLLM_SERVER_DEV_MODE"] = "1"
    if _hands_over(worker):
        port = str(_side_port(placement, worker))
        env |= (
            {"VLLM_MOONCAKE_BOOTSTRAP_PORT": port}
            if placement.topology.engine.kv_connector == "mooncake"
            else {"VLLM_NIXL_SIDE_CHANNEL_HOST": placement.host, "VLLM_NIXL_SIDE_CHANNEL_PORT": port}
        )
    if _on_cpu(worker):
        return env | {
            "PYTHONPATH": site_path(python_path),
            "VLLM_CPU_KVCACHE_SPACE": str(CPU_KV_GB),
            "VLLM_CPU_OMP_THREADS_BIND": "|".join(_cores(device) for device in worker.devices),
        }
    return env | {"CUDA_VISIBLE_DEVICES": visible_gpus(worker)}


def site_path(python_path: str) -> str:
    """Return the PYTHONPATH of vLLM's processes, where it is `python_path` for others."""
    return os.pathsep.join(filter(None, (str(SITE), python_path)))


def _kv_transfer(letter: str, engine: EngineSpec, on_cpu: bool) -> str:
    # What D may do does not hang on its role: it computes a prompt that comes without a ticket by itself.
    config: dict[str, object] = {
        "kv_connector": CONNECTORS[engine.kv_connector],
        "kv_role": "kv_producer" if letter == "P" else "kv_consumer",
    }
    if engine.kv_connector == "nixl":
        config["kv_connector_extra_config"] = {"kv_lease_duration": round(engine.lease_s)}
    if on_cpu:
        config["kv_buffer_device"] = "cpu"
    return json.dumps(config)


def _kv_events(placement: Placement, worker: WorkerSpec) -> str | None:
    port = _events_port(placement, worker)
    if port is None:
        return None
    # They hold the prompts' tokens, and vLLM listens on every interface or none: on one machine the router listens.
    endpoint = f"tcp://{placement.host if _on_loopback(placement) else '*'}:{port}"
    return json.dumps({"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": endpoint})


def _events_port(placement: Placement, worker: WorkerSpec) -> int | None:
    """Return the port of the first rank's KV events, the others' follow; None without events."""
    if not _publishes(placement.topology, worker):
        return None
    return _side_port(placement, worker, worker.ranks if _hands_over(worker) else 0)


def _publishes(topology: Topology, worker: WorkerSpec) -> bool:
    # An encoder caches no KV.
    return topology.engine.events and role_letter(worker.stages) != "E"


def _side_port(placement: Placement, worker: WorkerSpec, number: int = 0) -> int:
    """Return one of the ports beside; vLLM's own default where the launcher has chosen none yet."""
    ports = placement.side_ports.get(worker.name, ())
    return ports[number] if ports else DEFAULT_SIDE_PORT + number


def _on_loopback(placement: Placement) -> bool:
    return placement.host.startswith("127.")


def _ec_transfer(placement: Placement, worker: WorkerSpec) -> str | None:
    if Stage.ENCODE not in worker.stages and Stage.PREFILL not in worker.stages:
        return None
    folder = (placement.run_path or Path("/tmp")) / "embeddings"
    return json.dumps(
        {
            "ec_connector": "ECExampleConnector",
            "ec_role": "ec_producer" if role_letter(worker.stages) == "E" else "ec_consumer",
            "ec_connector_extra_config": {"shared_storage_path": str(folder)},
        }
    )


def _block_size(wanted: int, on_cpu: bool) -> int:
    """Return the tokens of a block: on a CPU the next multiple of 32, since vLLM's kernels there take no other."""
    return -(-wanted // CPU_BLOCK) * CPU_BLOCK if on_cpu else wanted


def _hands_over(worker: WorkerSpec) -> bool:
    return role_letter(worker.stages) in "PD"


def _on_cpu(worker: WorkerSpec) -> bool:
    return all(device.startswith("cpu") for device in worker.devices)


def _cores(device: str) -> str:
    """Return `cpu:0-1+3` as vLLM writes it: `0-1,3`."""
    text = device.partition(":")[2] or "+".join(str(core) for core in sorted(os.sched_getaffinity(0)))
    return text.replace("+", ",")
