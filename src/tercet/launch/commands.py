"""The command lines of the parts."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tercet.core.stage import Stage, role_letter
from tercet.core.topology import Topology, WorkerSpec
from tercet.latency.gpus import named_oracle
from tercet.launch.model import sees
from tercet.worker.config import WorkerConfig

DEFAULT_GPU = "h100"
"""What the virtual engine imitates when nobody says."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A topology whose ports and devices are decided: what a command line needs beyond it."""

    topology: Topology
    topology_id: str
    host: str = "127.0.0.1"
    cache_dir: Path | None = None

    def worker_url(self, worker: WorkerSpec) -> str:
        """Return the worker's URL. Workers listen on loopback only: the router is the door."""
        return f"http://{self.host}:{worker.port}"

    @property
    def router_url(self) -> str:
        """Return the router's URL as a client on this machine writes it."""
        host = self.topology.router.host
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        return f"http://{shown}:{self.topology.router.port}"


class Commands(Protocol):
    """Builds the parts' command lines; tests put stand-ins here."""

    def sees(self, topology: Topology, cache_dir: Path | None) -> bool:
        """True when the topology's model takes pictures. Raises UsageError."""
        ...

    def worker(self, placement: Placement, worker: WorkerSpec) -> Sequence[str]:
        """Return the worker's command line."""
        ...

    def router(self, placement: Placement) -> Sequence[str]:
        """Return the router's command line."""
        ...


def worker_config(placement: Placement, worker: WorkerSpec) -> WorkerConfig:
    """Return the worker's settings. Raises UsageError for those that can't work."""
    engine = placement.topology.engine
    gpu = engine.gpu or (DEFAULT_GPU if engine.engine == "virtual" else None)
    if gpu is not None:
        named_oracle(gpu)  # an unknown one is refused here, not in every worker's log
    return WorkerConfig(
        name=worker.name,
        stages=worker.stages,
        model=placement.topology.model,
        random_weights=engine.random_weights,
        cache_dir=placement.cache_dir,
        engine=engine.engine,
        gpu=gpu,
        gpu_slowdown=engine.gpu_slowdown,
        dtype=engine.dtype,
        host=placement.host,
        port=worker.port,
        devices=worker.devices,
        block_size=engine.block_size,
        kv_blocks=engine.kv_blocks,
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_model_len=engine.max_model_len,
        transport=engine.transport,
        lease_s=engine.lease_s,
        embedding_cache_bytes=engine.embedding_cache_bytes,
        allow_local_media=engine.allow_local_media,
        blocking_image_loading=engine.blocking_image_loading,
        max_images=engine.max_images,
        max_image_bytes=engine.max_image_bytes,
        max_image_pixels=engine.max_image_pixels,
        media_timeout_s=engine.media_timeout_s,
        topology_id=placement.topology_id,
    )


class TercetCommands:
    """`python -m tercet worker ...` and `python -m tercet router ...`."""

    def sees(self, topology: Topology, cache_dir: Path | None) -> bool:
        """True when the model's configuration says so. Raises UsageError."""
        return sees(topology, cache_dir)

    def worker(self, placement: Placement, worker: WorkerSpec) -> Sequence[str]:
        """Return the worker's command line. Raises UsageError for settings that can't work, before anything runs."""
        config = worker_config(placement, worker)
        flags: dict[str, object] = {
            "--name": config.name,
            "--stages": ",".join(sorted(str(stage) for stage in config.stages)),
            "--model": config.model,
            "--random-weights": config.random_weights,
            "--cache-dir": config.cache_dir,
            "--engine": config.engine,
            "--gpu": config.gpu,
            "--gpu-slowdown": config.gpu_slowdown,
            "--dtype": config.dtype,
            "--host": config.host,
            "--port": config.port,
            "--devices": ",".join(config.devices),
            "--block-size": config.block_size,
            "--kv-blocks": config.kv_blocks,
            "--max-num-seqs": config.max_num_seqs,
            "--max-num-batched-tokens": config.max_num_batched_tokens,
            "--max-model-len": config.max_model_len,
            "--transport": config.transport,
            "--lease": config.lease_s,
            "--embedding-cache-bytes": config.embedding_cache_bytes,
            "--allow-local-media": config.allow_local_media,
            "--blocking-image-loading": config.blocking_image_loading,
            "--max-images": config.max_images,
            "--max-image-bytes": config.max_image_bytes,
            "--max-image-pixels": config.max_image_pixels,
            "--media-timeout": config.media_timeout_s,
            "--topology-id": config.topology_id,
        }
        return [*_tercet("worker"), *_flags(flags)]

    def router(self, placement: Placement) -> Sequence[str]:
        """Return the router's command line."""
        topology = placement.topology
        router = topology.router
        flags: dict[str, object] = {
            "--mode": topology.mode,
            "--host": router.host,
            "--port": router.port,
            "--balancer": router.balancer,
            "--ppd-threshold": router.ppd_threshold,
            "--prefill-fallback": router.prefill_fallback,
            "--encode-fallback": router.encode_fallback,
            "--max-images": topology.engine.max_images,
            "--api-key-file": router.api_key_file,
            "--shutdown-grace": ROUTER_GRACE_S,
        }
        argv = [*_tercet("router"), *_flags(flags)]
        for worker in topology.workers:
            argv += [_ROUTER_FLAGS[role_letter(worker.stages)], f"{placement.worker_url(worker)}{_said(worker)}"]
        return argv


ROUTER_GRACE_S = 3.0
"""What the router gives requests in flight when it is asked to end; less than the launcher's patience with it."""

_ROUTER_FLAGS = {"A": "--worker", "E": "--encode", "P": "--prefill", "D": "--decode"}


def _tercet(command: str) -> list[str]:
    return [sys.executable, "-m", "tercet", command]


def _flags(flags: Mapping[str, object]) -> list[str]:
    given: list[str] = []
    for flag, value in flags.items():
        if value is True:
            given.append(flag)
        elif value is not None and value is not False:
            given += [flag, str(value)]
    return given


def _said(worker: WorkerSpec) -> str:
    """Return what the router is told of a worker besides its URL and role."""
    said = [] if worker.ranks == 1 else [f"ranks={worker.ranks}"]
    if Stage.ENCODE in worker.stages and role_letter(worker.stages) != "E":
        said.append("encode")
    return "#" + ",".join(said) if said else ""
