"""`tercet worker`: one worker alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tercet.cli import engine_options as flags
from tercet.cli.device_options import DEFAULT_GPU
from tercet.core.errors import UsageError
from tercet.core.stage import Stage


def worker(
    name: Annotated[str, typer.Option(metavar="NAME", help="What logs and metrics call it.")] = "worker-0",
    stages: Annotated[
        str,
        typer.Option(
            metavar="STAGE[,STAGE]",
            help="encode (pictures), prefill, decode; with the last two it serves whole requests, with all three "
            "those with pictures too.",
        ),
    ] = "prefill,decode",
    model: flags.Model = None,
    served_model_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What clients call the model.  [default: the model's own name]")
    ] = None,
    random_weights: flags.RandomWeights = None,
    cache_dir: flags.CacheDir = None,
    engine: flags.Engine = None,
    gpu: flags.Gpu = None,
    gpu_slowdown: flags.GpuSlowdown = None,
    dtype: flags.Dtype = None,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", help="0: any free port; the log names it.", min=0, max=65535)] = 0,
    devices: Annotated[
        str, typer.Option(metavar="DEVICE[,DEVICE]", help="One per rank: cpu:0, cpu:0-3 (four cores), cuda:0.")
    ] = "cpu:0",
    data_parallel_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Ranks behind its URL; with fewer devices they share these in turn.  [default: one per device]",
        ),
    ] = None,
    block_size: flags.BlockSize = None,
    kv_blocks: flags.KvBlocks = None,
    max_num_seqs: flags.MaxNumSeqs = None,
    max_num_batched_tokens: flags.MaxNumBatchedTokens = None,
    max_model_len: flags.MaxModelLen = None,
    embedding_cache_bytes: flags.EmbeddingCacheBytes = None,
    transport: flags.Transport = None,
    lease: flags.Lease = None,
    allow_local_media: flags.AllowLocalMedia = False,
    max_images: flags.MaxImages = None,
    max_image_bytes: flags.MaxImageBytes = None,
    max_image_pixels: flags.MaxImagePixels = None,
    media_timeout: flags.MediaTimeout = None,
    blocking_image_loading: flags.BlockingImageLoading = False,
    rank_match: flags.RankMatch = None,
    topology_id: Annotated[
        str, typer.Option(metavar="ID", help="P and D must agree on it, and on the secret in TERCET_TOPOLOGY_SECRET.")
    ] = "default",
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Accept only requests with one of these keys, one a line.")
    ] = None,
    require_secret: Annotated[
        bool, typer.Option("--require-secret", help="Answer only who knows TERCET_TOPOLOGY_SECRET, as its router does.")
    ] = False,
    shutdown_grace: Annotated[
        float, typer.Option(metavar="SECONDS", help="For requests in flight when it is asked to end.", min=0)
    ] = 3.0,
) -> None:
    """Start one worker: an OpenAI-compatible server on a URL, with one engine process per device.

    `tercet serve` starts workers and router together; this is for putting a topology together by hand. Workers that
    hand KV blocks to each other need the same TERCET_TOPOLOGY_SECRET (64 hex digits) in their environment.

    \b
    Examples:
      tercet worker --port 8001                                        the whole of smollm2-135m on core 0
      tercet worker --stages prefill --port 8001 --devices cpu:0
      tercet worker --stages decode --port 8002 --devices cpu:1
      tercet worker --port 8004 --devices cpu:0,cpu:1 --data-parallel-size 4   four ranks, two to a core
      tercet worker --stages encode --model smollm2-vision --port 8003   only tower and projector, for POST /v1/encode
      tercet router --mode pd --prefill http://127.0.0.1:8001 --decode http://127.0.0.1:8002
    """
    from tercet.worker.config import WorkerConfig
    from tercet.worker.front import run

    given: dict[str, Any] = {
        "model": model,
        "engine": engine,
        "gpu_slowdown": gpu_slowdown,
        "dtype": dtype,
        "block_size": block_size,
        "kv_blocks": kv_blocks,
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": max_num_batched_tokens,
        "max_model_len": max_model_len,
        "embedding_cache_bytes": embedding_cache_bytes,
        "transport": transport,
        "lease_s": lease,
        "max_images": max_images,
        "max_image_bytes": max_image_bytes,
        "max_image_pixels": max_image_pixels,
        "media_timeout_s": media_timeout,
        "rank_match": rank_match,
    }
    config = WorkerConfig(
        name=name,
        stages=frozenset(_stage(text.strip()) for text in stages.split(",")),
        served_model_name=served_model_name,
        random_weights=random_weights,
        cache_dir=cache_dir,
        gpu=gpu or (DEFAULT_GPU if engine == "virtual" else None),
        host=host,
        port=port,
        devices=_by_rank(tuple(text.strip() for text in devices.split(",")), data_parallel_size),
        allow_local_media=allow_local_media,
        blocking_image_loading=blocking_image_loading,
        topology_id=topology_id,
        require_secret=require_secret,
        api_keys=flags.read_keys(api_key_file),
        **{field: value for field, value in given.items() if value is not None},
    )
    raise typer.Exit(run(config, grace_s=shutdown_grace))


def _stage(text: str) -> Stage:
    try:
        return Stage(text)
    except ValueError:
        raise UsageError(f"unknown stage {text!r}: choose {', '.join(Stage)}") from None


def _by_rank(devices: tuple[str, ...], ranks: int | None) -> tuple[str, ...]:
    """Return the device of each rank: as many as devices, else `ranks` that take these in turn."""
    if ranks is None:
        return devices
    if ranks < len(devices):
        raise UsageError(f"--data-parallel-size {ranks} leaves devices idle: --devices names {len(devices)}")
    return tuple(devices[rank % len(devices)] for rank in range(ranks))
