"""`tercet compare`: the same conversations through every architecture on the same devices, and a verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tercet.cli import comparing
from tercet.cli import engine_options as engine_flags
from tercet.cli import traffic_options as flags
from tercet.cli.comparing import DEFAULT_QPS, split
from tercet.cli.loads import dataset_from, requests_from
from tercet.core.errors import UsageError
from tercet.core.topology import mode_from_name
from tercet.traffic.arrivals import Arrivals

DEFAULT_MODES = "replicated,pd,ppd"
DEFAULT_WORKLOAD = "W1"
DEFAULT_SCALE = 0.125
DEFAULT_TURNS = 2
DEFAULT_REQUESTS = 16
ALL_WORKLOADS = "W1,W2,W3,W4"

PRESETS: dict[str, dict[str, object]] = {
    "demo": {
        "modes": DEFAULT_MODES,
        "workload": "64/64",
        "qps": "1",
        "turns": 3,
        "num_requests": 9,
        "blocks": 3,
        "keep": "warm",
        "scale": 1.0,
        "seed": 1,
    },
}
"""Named sets of flags; a flag given beside `--preset` wins."""


def _apply_preset(context: typer.Context, name: str) -> str:
    if name and name not in PRESETS:
        raise UsageError(f"unknown preset {name!r}: choose {', '.join(PRESETS)}")
    context.default_map = {**(context.default_map or {}), **PRESETS.get(name, {})}
    return name


def compare(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE...]", help="Results files, for --merge alone.")
    ] = None,
    modes: Annotated[
        str,
        typer.Option(
            metavar="MODE[,MODE...]",
            help="aggregated, replicated, pd, ppd: each on two workers (2A or 1P1D), named after itself; epd, eppd "
            "with an encoder beside (1E1P1D).  "
            f"[default: {DEFAULT_MODES}, without --arch]",
        ),
    ] = "",
    arch: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL=SOURCE[#MODE]",
            help="Something else to compare, as often as wanted: a short form (pd=1P3D), a topology file "
            "(big=topology.yaml), a running server (now=http://host:8000). #MODE names the mode, where LABEL or the "
            "file doesn't.",
        ),
    ] = None,
    url_devices: Annotated[
        str,
        typer.Option(
            metavar="LABEL=N[,...]", help="How many devices are behind a server; a Tercet router's are counted."
        ),
    ] = "",
    api_key: Annotated[
        str, typer.Option(help="Sent as a bearer token to servers named by URL; results files don't keep it.")
    ] = "",
    header: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'NAME: VALUE'",
            help="Sent with every request to servers named by URL, and not kept; may be repeated.",
        ),
    ] = None,
    workload: Annotated[
        str,
        typer.Option(
            metavar="NAME[,NAME...]",
            help="W1 (512 tokens in / 256 out), W2 (4096/128), W3 (256/1024), W4 (8192/64), 'all' of these, or your "
            "own such as 2048/32; per turn, before --scale. images (64/500): one of 3 pictures with each.  "
            f"[default: {DEFAULT_WORKLOAD}, without --dataset]",
        ),
    ] = "",
    dataset: flags.Dataset = None,
    trace_speed: flags.TraceSpeed = 1.0,
    qps: Annotated[
        str,
        typer.Option(
            metavar="RATE[,RATE...]",
            help="Open loop: requests (turns) a second, whatever becomes of them.  "
            f"[default: {DEFAULT_QPS}; the rate of a data set that has time stamps]",
        ),
    ] = "",
    concurrency: Annotated[
        str,
        typer.Option(
            metavar="N[,N...]",
            help="Closed loop instead: so many conversations at a time.  "
            f"[default, with pictures: {flags.IMAGE_LOADS}]",
        ),
    ] = "",
    turns: Annotated[
        int | None,
        typer.Option(
            help="Turns of a conversation. Each adds the workload's input tokens to all that was said before.  "
            f"[default: {DEFAULT_TURNS}, with pictures or a trace 1]"
        ),
    ] = None,
    num_requests: Annotated[
        int | None,
        typer.Option(
            help="Requests (turns) per run and load; rounded up to whole conversations.  "
            f"[default: {DEFAULT_REQUESTS}, images 200, a trace all]"
        ),
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Start conversations for so long at each load, not --num-requests."),
    ] = None,
    scale: flags.Scale = DEFAULT_SCALE,
    seed: flags.Seed = 0,
    salt: Annotated[
        str,
        typer.Option(
            help="Sets the conversations apart from those of other comparisons; what is to be merged needs the same "
            "one.  [default: random where a server is named by URL, which may hold earlier prompts; else none]"
        ),
    ] = "",
    blocks: Annotated[
        int,
        typer.Option(
            help="Repeat everything so often, in another order and with other prompts; the unit of statistics. Fewer "
            "than 3 give figures without a verdict."
        ),
    ] = 5,
    primary: Annotated[
        str,
        typer.Option(
            metavar="METRIC[,...]",
            help="Metrics that a winner may be named for: ttft, ttft_turn1, ttft_later, ttft_p99, tpot, e2e, e2e_p99, "
            "throughput; goodput with --slo. Fewer make surer.",
        ),
    ] = "ttft,throughput",
    slo: flags.Slo = None,
    tie_margin: Annotated[float, typer.Option(help="Differences up to this share are a tie, however sure.")] = 0.03,
    keep: Annotated[
        str,
        typer.Option(
            help="turn: start topologies in turn, each alone. warm: keep all running side by side, idle but for one."
        ),
    ] = "turn",
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="Also measure how a long prompt disturbs running answers.")
    ] = True,
    show_responses: flags.ShowResponses = 0,
    images: flags.Images = "",
    image_size: flags.ImageSize = "",
    image_pool: flags.ImagePool = None,
    think: flags.Think = 0.0,
    arrivals: flags.ArrivalPattern = "",
    burstiness: flags.Burstiness = 1.0,
    model: engine_flags.Model = None,
    random_weights: engine_flags.RandomWeights = None,
    cache_dir: engine_flags.CacheDir = None,
    engine: engine_flags.ServedEngine = None,
    gpu: engine_flags.Gpu = None,
    gpu_slowdown: engine_flags.GpuSlowdown = None,
    dtype: engine_flags.Dtype = None,
    transport: engine_flags.Transport = None,
    embedding_cache_bytes: engine_flags.EmbeddingCacheBytes = None,
    max_num_seqs: engine_flags.ServedMaxNumSeqs = None,
    max_num_batched_tokens: engine_flags.ServedMaxNumBatchedTokens = None,
    max_model_len: Annotated[
        int | None, typer.Option(help="Longest prompt plus answer.  [default: the conversations' need, at least 4096]")
    ] = None,
    devices: Annotated[
        str, typer.Option(metavar="DEVICE[,DEVICE...]", help="What every topology runs on, such as cpu:0,cpu:1.")
    ] = "",
    allow_unequal: Annotated[
        bool,
        typer.Option(
            "--allow-unequal",
            help="Allow unequal devices; throughput is then per device. --modes aggregated is then one worker (1A).",
        ),
    ] = False,
    ppd_threshold: Annotated[
        int | None,
        typer.Option(help="ppd sends a later turn to P when it brings this many uncached tokens.  [default: 512]"),
    ] = None,
    hybrid: engine_flags.Hybrid = False,
    resume: Annotated[
        str,
        typer.Option(
            metavar="FILE|auto",
            help="Go on with a comparison that was stopped or killed: its journal, or the latest of this very "
            "comparison in --output (none: begin).",
        ),
    ] = "",
    merge: Annotated[
        bool,
        typer.Option(
            "--merge",
            help="Measure nothing: join the FILEs, or with 'auto' the latest of every architecture in --output.",
        ),
    ] = False,
    output: flags.Output = Path("results"),
    preset: Annotated[
        str,
        typer.Option(
            is_eager=True,
            callback=_apply_preset,
            help="'demo': three modes of SmolLM2 on two cores in a few minutes. Other flags still count.",
        ),
    ] = "",
) -> None:
    """Measure architectures against each other on the same devices, and say which wins.

    Every block drives the same seeded conversations through every architecture, in random order. Answers are checked,
    and per load and metric there is a winner, a tie, or too much noise to tell; over several loads, where one takes
    over from another. One JSON results file keeps every request's timeline. Ctrl-C stops everything and keeps what was
    measured; --resume auto goes on.

    \b
    Examples:
      tercet compare --preset demo
      tercet compare --modes replicated,ppd --workload W1,W3 --scale 0.125 --turns 4 --qps 0.25,0.5,1
      tercet compare --arch pd=1P1D --arch replicated=2A --arch tuned=topology.yaml --concurrency 1,4,16
      tercet compare --engine virtual --gpu h100 --scale 1 --workload all --qps 1,2,4,8,16 --keep warm
      tercet compare --arch old=http://10.0.0.1:8000 --arch new=http://10.0.0.2:8000 --url-devices old=8,new=8
      tercet compare --modes aggregated,pd,epd --workload images --allow-unequal --num-requests 24 --concurrency 1,4
      tercet compare --dataset mooncake_trace.jsonl --trace-speed 2 --engine virtual --gpu h100 --num-requests 200
      tercet compare --resume auto --preset demo
      tercet compare --merge results/monday.json results/tuesday.json
    """
    from tercet.compare.architecture import of_mode, parse_architecture
    from tercet.compare.request import Settings, ready
    from tercet.compare.spec import CompareSpec
    from tercet.results.slo import slo_from_flags
    from tercet.traffic.spec import TrafficSpec

    limits = slo_from_flags(slo or ())
    if merge:
        raise typer.Exit(comparing.merge(files or [], output, allow_unequal, split(primary), tie_margin, limits))
    if files:
        raise UsageError(f"{files[0]!r} is no flag: results files are for --merge")
    if dataset is not None and (workload or scale != DEFAULT_SCALE or images or image_size or image_pool is not None):
        raise UsageError("--dataset takes the place of --workload, its --scale and its pictures: give one of them")
    workload = workload or DEFAULT_WORKLOAD
    shapes = [
        flags.shaped(name, scale, images=images, image_size=image_size, image_pool=image_pool)
        for name in split(ALL_WORKLOADS if workload == "all" else workload)
    ]
    if not shapes:
        raise UsageError("--workload names none: write for instance W1, or W1,2048/32")
    pictures = any(shape.pictures is not None for shape in shapes)
    turns = (1 if pictures else DEFAULT_TURNS) if turns is None else turns
    data, turns = dataset_from(dataset, turns)
    pattern = comparing.parse_arrivals(arrivals, data, loaded=bool(qps or concurrency))
    traffics = tuple(
        TrafficSpec(
            shape,
            1.0,
            requests_from(None if duration else num_requests, duration, shape.requests or DEFAULT_REQUESTS, data),
            turns,
            think,
            pattern,
            seed,
            duration_s=duration,
            burstiness=burstiness,
            speed=trace_speed,
            dataset=data,
        )
        for shape in shapes
    )
    kind, loads = comparing.parse_loads(qps, concurrency, pictures=pictures)
    if data is not None and pattern is Arrivals.TRACE:
        loads = (data.rate(trace_speed),)
    wanted = [
        of_mode(mode_from_name(name), alone=allow_unequal) for name in split(modes or ("" if arch else DEFAULT_MODES))
    ]
    wanted += [parse_architecture(text) for text in arch or ()]
    settings = {
        "model": model,
        "engine": engine,
        "gpu": gpu,
        "gpu_slowdown": gpu_slowdown,
        "dtype": dtype,
        "transport": transport,
        "embedding_cache_bytes": embedding_cache_bytes,
        "random_weights": random_weights,
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": max_num_batched_tokens,
        "max_model_len": max_model_len,
        "ppd_threshold": ppd_threshold,
        "hybrid": hybrid or None,
        "devices": split(devices) or None,
    }
    longest = max(traffic.longest_taken for traffic in traffics)
    seen = any(traffic.most_pictures for traffic in traffics)
    spec = CompareSpec(
        architectures=ready(
            wanted,
            Settings(settings, longest, comparing.parse_url_devices(url_devices), allow_unequal, seen),
        ),
        traffics=traffics,
        load_kind=kind,
        loads=loads,
        scale=scale,
        blocks=blocks,
        primary=split(primary),
        tie_margin=tie_margin,
        keep=keep,
        allow_unequal=allow_unequal,
        probe=probe,
        show_responses=show_responses,
        slo=limits,
        headers=flags.headers_from(api_key, header or ()),
        salt=salt,
    )
    if code := comparing.run(spec, output, cache_dir, resume):
        raise typer.Exit(code)
