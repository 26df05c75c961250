"""`tercet simulate`: a topology under load on hardware that is not here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tercet.cli import device_options as device
from tercet.cli import engine_options as engine
from tercet.cli import traffic_options as flags


def simulate(
    topology: Annotated[
        str, typer.Argument(metavar="TOPOLOGY", help="The file that `tercet serve` takes, or a short form: 1P1D, 4A.")
    ],
    mode: Annotated[
        str | None,
        typer.Option(metavar="MODE", help="aggregated, replicated, pd, ppd, epd, eppd.  [default: the file's]"),
    ] = None,
    model: device.Model = None,
    gpu: device.Gpu = None,
    gpu_spec: device.GpuSpec = None,
    engine_like: device.EngineLike = None,
    tp: device.Tp = None,
    oracle: device.Oracle = "auto",
    memory_share: device.MemoryShare = 0.9,
    stack: device.Stack = None,
    link: device.Link = None,
    max_num_seqs: Annotated[
        int | None, typer.Option(metavar="N", help="Sequences in a batch.  [default: the file's; a short form's 256]")
    ] = None,
    max_num_batched_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens of a step.  [default: the file's; a short form's 8192]")
    ] = None,
    kv_blocks: Annotated[
        int | None, typer.Option(metavar="N", help="KV blocks of a rank; 0: what fits.  [default: the file's, or 0]")
    ] = None,
    balancer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="round_robin, random, least_loaded, power_of_two, consistent_hash, prefix_aware.  [default: the "
            "file's, or the mode's own]",
        ),
    ] = None,
    ppd_threshold: Annotated[
        int | None,
        typer.Option(metavar="TOKENS", help="New tokens from which on a later turn goes through P.  [default: 512]"),
    ] = None,
    hybrid: engine.Hybrid = False,
    workload: flags.Workload = flags.DEFAULT_WORKLOAD,
    dataset: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Replay a file instead: what `tercet bench --dataset` takes.")
    ] = None,
    qps: Annotated[
        str,
        typer.Option(
            metavar="RATE[,RATE...]",
            help="Open loop: requests (turns) a second, one rate after the other.  [default: 1]",
        ),
    ] = "",
    concurrency: Annotated[
        str, typer.Option(metavar="N[,N...]", help="Closed loop: so many conversations at a time.")
    ] = "",
    num_requests: Annotated[
        int | None,
        typer.Option("--num-requests", "--requests", help="Requests (turns) per load.  [default: as tercet bench]"),
    ] = None,
    duration: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Start no conversation after so many virtual seconds.")
    ] = None,
    warmup: Annotated[int, typer.Option(min=0, help="Send so many requests first that nobody measures.")] = 0,
    ramp: Annotated[
        float, typer.Option(metavar="SECONDS", help="Let the load rise for so long; figures are of what follows.")
    ] = 0.0,
    arrivals: Annotated[str, typer.Option(help="poisson, constant, gamma or trace.  [default: as tercet bench]")] = "",
    burstiness: Annotated[float, typer.Option(help="Shape of gamma arrivals: 1 is Poisson.")] = 1.0,
    trace_speed: flags.TraceSpeed = 1.0,
    turns: flags.Turns = 1,
    think: flags.Think = 0.0,
    input_tokens: flags.InputTokens = "",
    output_tokens: flags.OutputTokens = "",
    scale: flags.Scale = 1.0,
    prefix_tokens: flags.PrefixTokens = None,
    prefix_groups: flags.PrefixGroups = None,
    images: flags.Images = "",
    image_size: flags.ImageSize = "",
    image_pool: flags.ImagePool = None,
    seed: flags.Seed = 0,
    lose: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORKER@T[+D]",
            help="Have a worker die T seconds into each load, and come back D seconds later: D1@30, P0@10+20. Repeat "
            "it for more.",
        ),
    ] = None,
    slo: flags.Slo = None,
    percentiles: Annotated[
        str, typer.Option(metavar="P[,P...]", help="Percentiles of the printed latencies.")
    ] = "95,99",
    jobs: Annotated[int, typer.Option("--jobs", "-j", metavar="N", help="Simulate so many loads at once.")] = 1,
    ray: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Simulate the loads on a Ray cluster: auto, or ray://HOST:10001.")
    ] = "",
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results file.")] = Path(
        "results"
    ),
) -> None:
    """Predict what a topology's users would see: TTFT, TPOT, E2E and throughput, on GPUs that are not here.

    The scheduler and the router that serve run on a virtual clock; an oracle says how long the GPU needs for each step,
    and the constants of a stack what real servers add. Nothing is started, no GPU and no model is needed; a minute of
    traffic takes about a second. Prints what `tercet bench` prints and writes the same results file, marked as
    predicted, so that `tercet report` draws both together. docs/planning.md says how near predictions come.

    \b
    Examples:
      tercet simulate 1P1D --model llama-3.1-8b --gpu h100 --workload W1 --qps 2,4,8
      tercet simulate 2A --gpu a100 --turns 3 --think 5 --qps 4 --duration 120 --slo ttft:500 --slo tpot:30
      tercet simulate 2E1P1D --model llava-1.6-mistral-7b --workload images --concurrency 1,8,32
      tercet simulate 1A1P2D --hybrid --mode ppd --turns 4 --qps 12
      tercet simulate topology.yaml --stack stack.yaml --dataset mooncake_trace.jsonl --duration 300
      tercet simulate 2P2D --mode ppd --turns 4 --qps 6 --requests 2000 --lose D1@60+30
    """
    from tercet.cli.loads import dataset_from, loads_from, percentiles_from, requests_from
    from tercet.cli.serving import Hardware
    from tercet.cli.simulating import Asked, run_simulations
    from tercet.core.topology import mode_from_name
    from tercet.results.file import require_writable
    from tercet.results.slo import slo_from_flags
    from tercet.traffic.spec import LoadKind, TrafficSpec

    data, turns = dataset_from(dataset, turns)
    shape = flags.shaped(
        workload,
        scale,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        prefix_tokens=prefix_tokens,
        prefix_groups=prefix_groups,
        images=images,
        image_size=image_size,
        image_pool=image_pool,
        dataset=dataset,
    )
    kind, loads, pattern = loads_from(qps, concurrency, arrivals, data, shape.pictures is not None, trace_speed)
    traffic = TrafficSpec(
        shape,
        qps=loads[0] if kind is LoadKind.QPS else 1.0,
        num_requests=requests_from(num_requests, duration, shape.requests, data),
        turns=turns,
        think_s=think,
        arrivals=pattern,
        seed=seed,
        concurrency=int(loads[0]) if kind is LoadKind.CONCURRENCY else 0,
        duration_s=duration,
        burstiness=burstiness,
        ramp_s=ramp,
        speed=trace_speed,
        dataset=data,
    )
    asked = Asked(
        topology=topology,
        mode=None if mode is None else mode_from_name(mode),
        model=model,
        hardware=Hardware(
            gpu=gpu,
            gpu_spec=gpu_spec,
            engine_like=engine_like,
            tp=tp,
            oracle=oracle,
            memory_share=memory_share,
            stack=stack,
            link_gb_s=link,
            caps={
                "max_num_seqs": max_num_seqs,
                "max_num_batched_tokens": max_num_batched_tokens,
                "kv_blocks": kv_blocks,
            },
        ),
        routing={"balancer": balancer, "ppd_threshold": ppd_threshold, "hybrid": hybrid or None},
        traffic=traffic,
        load_kind=kind,
        loads=loads,
        scale=scale,
        warmup=warmup,
        lose=tuple(lose or ()),
        slo=slo_from_flags(slo or ()),
        percentiles=percentiles_from(percentiles),
        jobs=jobs,
        ray=ray,
        output=output,
    )
    require_writable(output)
    if code := run_simulations(asked):
        raise typer.Exit(code)
