"""The built-in engine's workers, with tensors or virtual: `python -m tercet worker ...`."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from tercet.core.errors import UsageError
from tercet.core.topology import Topology, WorkerSpec
from tercet.latency.gpus import named_oracle
from tercet.launch.engines.flags import flags_of
from tercet.launch.engines.protocol import WorkerProcess
from tercet.launch.placement import Placement
from tercet.worker.config import WorkerConfig

DEFAULT_GPU = "h100"
"""What the virtual engine imitates when nobody says."""


def worker_config(placement: Placement, worker: WorkerSpec) -> WorkerConfig:
    """Return the worker's settings. Raises UsageError for those that can't work."""
    engine = placement.topology.engine
    if engine.tensor_parallel > 1:
        raise UsageError(f"--engine {engine.engine} computes a rank on one device: leave tensor_parallel out")
    gpu = engine.gpu or (DEFAULT_GPU if engine.engine == "virtual" else None)
    if gpu is not None:
        named_oracle(gpu)  # an unknown one is refused here, not in every worker's log
    limits = engine.limits(on_gpu=False)
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
        max_num_seqs=limits.sequences,
        max_num_batched_tokens=limits.tokens,
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
        rank_match=placement.topology.router.rank_match or "any",
        require_secret=placement.topology.router.api_key_file is not None,
    )


@dataclass(frozen=True, slots=True)
class BuiltinCommands:
    """`python -m tercet worker ...`."""

    dialect: str = "tercet"
    start_timeout_s: float = 120.0
    health_timeout_s: float | None = None

    def side_ports(self, topology: Topology, worker: WorkerSpec) -> int:
        """Return 0: its engines find each other by the topology's id."""
        return 0

    def check(self, placement: Placement, worker: WorkerSpec) -> None:
        """Raise UsageError for settings that can't work."""
        worker_config(placement, worker)

    def worker(self, placement: Placement, worker: WorkerSpec) -> WorkerProcess:
        """Return the worker's command line. Raises UsageError for settings that can't work, before anything runs."""
        return WorkerProcess((sys.executable, "-m", "tercet", "worker", *arguments_of(placement, worker)))

    def container(self, placement: Placement, worker: WorkerSpec) -> WorkerProcess:
        """Return how the worker's container is started. Raises UsageError for settings that can't work."""
        return WorkerProcess(("python", "-m", "tercet", "worker", *arguments_of(placement, worker)))

    def said(self, placement: Placement, worker: WorkerSpec) -> tuple[str, ...]:
        """Return nothing: the worker tells the rest itself."""
        return ()


def arguments_of(placement: Placement, worker: WorkerSpec) -> list[str]:
    """Return the arguments of `tercet worker`. Raises UsageError for settings that can't work."""
    config = worker_config(placement, worker)
    return flags_of(
        {
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
            "--rank-match": placement.topology.router.rank_match,
            "--topology-id": config.topology_id,
            "--require-secret": config.require_secret,
        }
    )
