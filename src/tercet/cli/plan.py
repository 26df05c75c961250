"""`tercet plan`: which architecture a number of GPUs should have for a traffic."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from tercet.cli import device_options as device
from tercet.cli import traffic_options as flags


def plan(
    gpus: Annotated[
        int | None, typer.Option(metavar="N", help="GPUs to use, all of them.  [default: 8; the file's with --from]")
    ] = None,
    model: device.Model = None,
    gpu: device.Gpu = None,
    gpu_spec: device.GpuSpec = None,
    engine_like: device.EngineLike = None,
    tp: Annotated[
        str, typer.Option(metavar="N[,N...]", help="GPUs of one rank to try.  [default: 1,2,4,8 where the model fits]")
    ] = "",
    modes: Annotated[
        str, typer.Option(metavar="MODE[,MODE...]", help="Try these only.  [default: all that can matter]")
    ] = "",
    oracle: device.Oracle = "auto",
    memory_share: device.MemoryShare = 0.9,
    stack: device.Stack = None,
    link: device.Link = None,
    from_results: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RESULTS",
            help="Plan for the machine that this file of `tercet bench`, `tercet compare` or vLLM measured.",
        ),
    ] = None,
    max_num_seqs: Annotated[int, typer.Option(min=1, metavar="N", help="Sequences in a batch.")] = 256,
    max_num_batched_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Tokens of a step.")] = 8192,
    workload: flags.Workload = flags.DEFAULT_WORKLOAD,
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace",
            "--dataset",
            metavar="FILE",
            help="Plan for a recorded traffic: as `tercet bench --dataset`.",
        ),
    ] = None,
    qps: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            help="Open loop: requests (turns) a second.  [default: the trace's own; else the most that is borne]",
        ),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Closed loop: so many conversations at a time.")
    ] = None,
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
    slo: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC:MS",
            help="What a good answer keeps: ttft:500, tpot:30, e2e:4000; repeat it. Without any, the mean E2E decides.",
        ),
    ] = None,
    tie: Annotated[
        float, typer.Option(min=0, max=100, metavar="PERCENT", help="Figures nearer than this are a tie.")
    ] = 10.0,
    price: Annotated[
        float | None, typer.Option(min=0, metavar="PRICE", help="Of a GPU's hour: adds the cost of a million tokens.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, metavar="N", help="Processes.  [default: one a core]")
    ] = None,
    ray: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Simulate on a Ray cluster: auto, or ray://HOST:10001.")
    ] = "",
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for what is written.")] = Path(
        "results"
    ),
) -> None:
    """Rank architectures for a model, GPUs and a traffic: replicas, P/D, PPD or encoders apart, by goodput per GPU.

    Every way to use all GPUs is bounded by arithmetic, the promising ones are simulated with the scheduler and the
    router that serve, the best of them under many loads and with other arrivals. Says which to take and by how much it
    is ahead, or that it is a tie; what it bears; and which assumption would change the choice. Writes the recommended
    topology, for `tercet serve` and `tercet compare`, and a chart. Nothing is started, no GPU is needed.
    docs/planning.md says how near predictions come to measurements.

    \b
    Examples:
      tercet plan --model llama-3.1-8b --gpu h100 --gpus 8 --workload W2 --qps 8 --slo ttft:500 --slo tpot:20
      tercet plan --model llama-3.1-70b --gpu h200 --gpus 8 --turns 5 --think 10 --qps 4 --slo tpot:30 --price 2.5
      tercet plan --model qwen2.5-vl-7b --gpu a100 --gpus 6 --workload images --concurrency 32
      tercet plan --gpus 4 --trace mooncake_trace.jsonl --slo ttft:2000 --slo tpot:50
      tercet plan --from results/tercet-bench-20260101T120000Z.json --gpus 2 --workload W1 --scale 0.125 --qps 1
    """
    from tercet.cli.planning import Asked, run_plan

    asked = Asked(
        gpus=gpus,
        model=model,
        gpu=gpu,
        gpu_spec=gpu_spec,
        engine_like=engine_like or "vllm",
        tp=tp,
        modes=modes,
        oracle=oracle,
        memory_share=memory_share,
        stack=stack,
        link_gb_s=link,
        from_results=from_results,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        shape=flags.shaped(
            workload,
            scale,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            prefix_tokens=prefix_tokens,
            prefix_groups=prefix_groups,
            images=images,
            image_size=image_size,
            image_pool=image_pool,
            dataset=trace,
        ),
        trace=trace,
        qps=qps,
        concurrency=concurrency,
        turns=turns,
        think_s=think,
        seed=seed,
        slo=tuple(slo or ()),
        tie_margin=tie / 100,
        price=price,
        jobs=jobs or len(os.sched_getaffinity(0)),
        ray=ray,
        output=output,
    )
    if code := run_plan(asked):
        raise typer.Exit(code)
