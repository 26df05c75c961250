"""`tercet serve`: a topology, running."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tercet.cli import engine_options as flags
from tercet.cli import failure_options as failing
from tercet.cli import sight_options as sight
from tercet.core.errors import UsageError
from tercet.core.stage import Mode
from tercet.core.topology import Topology, mode_from_name

if TYPE_CHECKING:
    from rich.console import Console

    from tercet.cli.start_view import StartView
    from tercet.launch.source import Asked


def serve(
    topology: Annotated[
        str | None,
        typer.Argument(metavar="[TOPOLOGY.yaml|1P1D]", help="A file or a short form.  [default: the mode's preset]"),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            metavar="MODE", help="aggregated, replicated, pd, ppd, epd, eppd.  [default: what the workers are for]"
        ),
    ] = None,
    model: flags.Model = None,
    random_weights: flags.RandomWeights = None,
    engine: flags.ServedEngine = None,
    engine_python: flags.EnginePython = None,
    gpu: flags.Gpu = None,
    gpu_slowdown: flags.GpuSlowdown = None,
    dtype: flags.Dtype = None,
    tensor_parallel: flags.TensorParallel = None,
    devices: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE[,DEVICE]",
            help="What ranks compute on, in turn: cpu:0, cpu:0-3, cuda:0.  "
            "[default: the GPUs, else even shares of the cores]",
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Address the router listens on.  [default: 127.0.0.1]")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(metavar="N", help="The router's port; 0: any free one.  [default: 8000]", min=0, max=65535),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What `tercet stop` and `tercet logs` call it.  [default: the short form]"),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return once it is ready; it goes on running.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the command lines that it would start, and start nothing.")
    ] = False,
    restart: Annotated[
        str,
        typer.Option(
            metavar="WHEN", help="on-failure: crashed parts start again, with growing pauses; no: they stay down."
        ),
    ] = "on-failure",
    log_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the logs.  [default: ~/.local/state/tercet/NAME]")
    ] = None,
    start_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=1,
            help="How long a part may take to start.  [default: 120; vllm: 600; sglang: 1200; trtllm: 1800]",
        ),
    ] = None,
    balancer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="round_robin, random, least_loaded, power_of_two, consistent_hash, prefix_aware.  "
            "[default: the mode's own]",
        ),
    ] = None,
    ppd_threshold: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS", help="Under ppd, a turn with fewer new tokens goes straight to D.  [default: 512]"
        ),
    ] = None,
    prefill_fallback: Annotated[
        str | None,
        typer.Option(metavar="WHAT", help="When no P answers: error, or decode (D does it).  [default: error]"),
    ] = None,
    encode_fallback: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT", help="When no E answers: error, or local (who prefills does it).  [default: error]"
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Accept only requests with one of these keys: see `tercet keys`."),
    ] = None,
    data_parallel_size: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Ranks of each worker that prefills or decodes.  [default: the file's, else 1]", min=1
        ),
    ] = None,
    hybrid: flags.Hybrid = False,
    rank_match: flags.RankMatch = None,
    tokenise_once: flags.TokeniseOnce = False,
    tls_cert: flags.TlsCert = None,
    tls_key: flags.TlsKey = None,
    tls_client_ca: flags.TlsClientCa = None,
    connect_timeout: failing.ConnectTimeout = None,
    first_byte_timeout: failing.FirstByteTimeout = None,
    encode_timeout: failing.EncodeTimeout = None,
    answer_timeout: failing.AnswerTimeout = None,
    idle_timeout: failing.IdleTimeout = None,
    max_retries: failing.MaxRetries = None,
    breaker_failures: failing.BreakerFailures = None,
    processes: failing.RouterProcesses = None,
    max_concurrent: failing.MaxConcurrent = None,
    max_queue: failing.MaxQueue = None,
    queue_timeout: failing.QueueTimeout = None,
    priority_header: failing.PriorityHeader = False,
    log_format: sight.LogFormat = None,
    log_requests: sight.LogRequests = False,
    otlp_endpoint: sight.OtlpEndpoint = None,
    transport: flags.Transport = None,
    kv_connector: flags.KvConnector = None,
    events: flags.Events = False,
    cache_reset: flags.CacheReset = False,
    lease: flags.Lease = None,
    block_size: flags.BlockSize = None,
    kv_blocks: flags.KvBlocks = None,
    max_num_seqs: flags.ServedMaxNumSeqs = None,
    max_num_batched_tokens: flags.ServedMaxNumBatchedTokens = None,
    max_model_len: flags.MaxModelLen = None,
    embedding_cache_bytes: flags.EmbeddingCacheBytes = None,
    allow_local_media: flags.AllowLocalMedia = False,
    max_images: flags.MaxImages = None,
    max_image_bytes: flags.MaxImageBytes = None,
    max_image_pixels: flags.MaxImagePixels = None,
    media_timeout: flags.MediaTimeout = None,
    blocking_image_loading: flags.BlockingImageLoading = False,
    cache_dir: flags.CacheDir = None,
) -> None:
    """Start a topology on this machine: its workers, and an OpenAI-compatible router in front of them.

    Without a topology, the mode's preset is started: 1A for aggregated (the default), 2A for replicated, 1P1D for pd
    and ppd, 1E1P1D for epd and eppd. In a short form E encodes pictures, P prefills, D decodes, A does the last two;
    without an E whoever prefills encodes too, where the model sees. A flag wins over the file's setting. Ctrl-C ends
    everything; so does the end of this process, however it comes about.

    \b
    Examples:
      tercet serve                                    one worker with smollm2-135m, on http://127.0.0.1:8000
      tercet serve 1P1D --mode ppd --detach           prefill and decode apart; returns when ready
      tercet serve --mode epd                         smollm2-vision, pictures encoded apart
      tercet serve 2A --devices cpu:0,cpu:1 --port 9000
      tercet serve examples/topologies/pd.yaml --dtype fp32
      tercet serve 1P1D --data-parallel-size 2        two ranks a worker, each on its own cores
      tercet serve 2P2D --engine virtual --gpu h100   virtual GPUs: real scheduling, imitated speed
      tercet serve 1P1D --engine vllm --dtype fp32    vLLM's workers, KV handed over by NIXL
      tercet serve 2A --engine vllm --events          the router knows exactly what they cache
      tercet serve 1P1D --engine sglang --model Qwen/Qwen3-8B --dry-run   the command lines, for you to start
      tercet serve 1P1D --random-weights tiny         starts in seconds, answers nonsense
    """
    from tercet.launch.devices import parse_devices
    from tercet.launch.source import Asked, topology_from, with_settings

    if restart not in ("on-failure", "no"):
        raise UsageError(f"--restart {restart!r} is unknown: choose on-failure or no")
    asked: Mode | None = None if mode is None else mode_from_name(mode)
    settings: dict[str, Any] = {
        "name": name,
        "model": model,
        "devices": None if devices is None else parse_devices(devices),
        "random_weights": random_weights,
        "engine": engine,
        "engine_python": None if engine_python is None else str(engine_python.absolute()),
        "gpu": gpu,
        "gpu_slowdown": gpu_slowdown,
        "dtype": dtype,
        "tensor_parallel": tensor_parallel,
        "host": host,
        "port": port,
        "balancer": balancer,
        "ppd_threshold": ppd_threshold,
        "hybrid": hybrid or None,
        "prefill_fallback": prefill_fallback,
        "rank_match": rank_match,
        "tokenise_once": tokenise_once or None,
        "data_parallel_size": data_parallel_size,
        "encode_fallback": encode_fallback,
        "api_key_file": None if api_key_file is None else str(api_key_file.absolute()),
        "tls_cert": None if tls_cert is None else str(tls_cert.absolute()),
        "tls_key": None if tls_key is None else str(tls_key.absolute()),
        "tls_client_ca": None if tls_client_ca is None else str(tls_client_ca.absolute()),
        "connect_timeout_s": connect_timeout,
        "first_byte_timeout_s": first_byte_timeout,
        "encode_timeout_s": encode_timeout,
        "answer_timeout_s": answer_timeout,
        "idle_timeout_s": idle_timeout,
        "max_retries": max_retries,
        "breaker_failures": breaker_failures,
        "processes": processes,
        "max_concurrent": max_concurrent,
        "max_queue": max_queue,
        "queue_timeout_s": queue_timeout,
        "priority_header": priority_header or None,
        "log_format": log_format,
        "log_requests": log_requests or None,
        "otlp_endpoint": otlp_endpoint,
        "transport": transport,
        "kv_connector": kv_connector,
        "events": events or None,
        "cache_reset": cache_reset or None,
        "lease_s": lease,
        "block_size": block_size,
        "kv_blocks": kv_blocks,
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": max_num_batched_tokens,
        "max_model_len": max_model_len,
        "embedding_cache_bytes": embedding_cache_bytes,
        "allow_local_media": allow_local_media or None,
        "max_images": max_images,
        "max_image_bytes": max_image_bytes,
        "max_image_pixels": max_image_pixels,
        "media_timeout_s": media_timeout,
        "blocking_image_loading": blocking_image_loading or None,
    }
    built = with_settings(topology_from(topology, asked), settings)
    if dry_run:
        from tercet.launch.plan import planned_lines

        for line in list(planned_lines(built, cache_dir)):
            typer.echo(line)
        return
    path = None if topology is None else Path(topology)
    again = Asked(path.absolute(), asked, settings) if path is not None and path.is_file() else None
    _serve(built, again, detach, restart == "on-failure", log_dir, cache_dir, start_timeout)


def _serve(
    topology: Topology,
    asked: Asked | None,
    detach: bool,
    restart: bool,
    log_dir: Path | None,
    cache_dir: Path | None,
    start_timeout: float | None,
) -> None:
    import asyncio

    from rich.console import Console

    from tercet.cli.start_view import start_view
    from tercet.launch.commands import check_workers
    from tercet.launch.detached import DetachedSpec, start_detached
    from tercet.launch.devices import resolve_devices
    from tercet.launch.door import check_door
    from tercet.launch.foreground import run_until_signal
    from tercet.launch.local import LocalDeployment
    from tercet.launch.model import prepare_model
    from tercet.launch.state import default_run_root

    # Before minutes go into fetching a model; the launcher looks again.
    check_door(default_run_root(), topology.router)
    check_workers(resolve_devices(topology)[0])
    console = Console(highlight=False)
    if topology.idle:
        console.print(topology.idle, markup=False)
    with start_view(console) as view:
        prepare_model(topology, cache_dir, view.model)
        if detach:
            spec = DetachedSpec(topology, None, log_dir, cache_dir, restart, start_timeout, asked)
            name = start_detached(spec, view.part)
            view.close()
            _say_how_to(console, name)
            return
        deployment = LocalDeployment(
            topology,
            log_dir=log_dir,
            cache_dir=cache_dir,
            restart=restart,
            start_timeout_s=start_timeout,
            asked=asked,
        )
        asyncio.run(run_until_signal(deployment, view.part, lambda: _ready(console, view, deployment.name)))


def _ready(console: Console, view: StartView, name: str) -> None:
    view.close()
    _say_how_to(console, name)
    console.print("Ctrl-C stops it.")


def _say_how_to(console: Console, name: str) -> None:
    """Tell what runs, and what to type next."""
    from tercet.launch.state import default_run_root, find_running

    state = find_running(default_run_root(), name)
    lines = [
        f"{state.name}: {state.shape} in mode {state.mode}, {state.model}, on {state.url}/v1",
        f"logs: {state.log_dir}",
        f"tercet status {state.url} | tercet logs router --name {state.name} -f | tercet stop {state.name}",
    ]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
