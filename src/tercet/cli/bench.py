"""`tercet bench`: measured traffic against a server that is already running."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tercet.bench.job import Header
from tercet.bench.plan import Plan
from tercet.cli import traffic_options as flags
from tercet.cli.loads import DEFAULT_QPS, DEFAULT_REQUESTS, dataset_from, loads_from, percentiles_from, requests_from
from tercet.core.errors import UsageError
from tercet.results.slo import slo_from_flags
from tercet.traffic.prompts import PromptForm
from tercet.traffic.spec import LoadKind, TrafficSpec


def bench(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="An OpenAI-compatible server, such as http://127.0.0.1:8000.")
    ],
    workload: flags.Workload = flags.DEFAULT_WORKLOAD,
    dataset: flags.Dataset = None,
    qps: Annotated[
        str,
        typer.Option(
            metavar="RATE[,RATE...]",
            help="Open loop: requests (turns) a second, one rate after the other; no arrival waits for an answer.  "
            f"[default: {DEFAULT_QPS}]",
        ),
    ] = "",
    concurrency: Annotated[
        str,
        typer.Option(
            metavar="N[,N...]",
            help="Closed loop: so many conversations at a time, as fast as answers come, one level after the other.",
        ),
    ] = "",
    num_requests: Annotated[
        int | None,
        typer.Option(
            help="Requests (turns) per load and run, rounded up to whole conversations.  "
            f"[default: {DEFAULT_REQUESTS}, images 200, a trace all; as many as fit with --duration]"
        ),
    ] = None,
    duration: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Start no conversation after so long; those begun end.")
    ] = None,
    runs: Annotated[int, typer.Option(help="Repeat all loads so often, each time with other prompts.")] = 1,
    warmup: Annotated[int, typer.Option(help="Send so many requests first that nobody measures.")] = 0,
    ramp: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="Let the load rise to its level for so long; figures are then of the steady window, from the ramp's "
            "end to the last conversation's start.",
        ),
    ] = 0.0,
    arrivals: Annotated[
        str,
        typer.Option(
            help="poisson, constant, gamma (see --burstiness) or trace.  [default: poisson; trace for a data set with "
            "time stamps when neither these nor a load are named]"
        ),
    ] = "",
    burstiness: flags.Burstiness = 1.0,
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
    model: Annotated[str, typer.Option(help="Model to ask for; by default the first that the server lists.")] = "",
    prompt_format: Annotated[
        str,
        typer.Option(
            help="tokens (token ids: exact lengths), text, or chat (/v1/chat/completions).  [default: tokens where the "
            "server takes them, else chat; chat for pictures and real texts]"
        ),
    ] = "",
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos/--no-ignore-eos", help="Ask for answers of exactly the wanted length.")
    ] = True,
    api_key: Annotated[str, typer.Option(help="Sent as a bearer token; results files don't keep it.")] = "",
    header: Annotated[
        list[str] | None, typer.Option(metavar="'NAME: VALUE'", help="Sent with every request; may be repeated.")
    ] = None,
    extra_body: Annotated[
        str, typer.Option(metavar="JSON", help="Fields added to every request, such as '{\"temperature\": 0.7}'.")
    ] = "",
    show_responses: flags.ShowResponses = 0,
    reset_caches: Annotated[
        bool,
        typer.Option("--reset-caches", help="Empty the server's prefix caches before each run (Tercet, vLLM, SGLang)."),
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds until an answer's first byte.")] = 600.0,
    idle_timeout: Annotated[float, typer.Option(help="Seconds that a begun answer may stand still.")] = 60.0,
    workers: Annotated[int, typer.Option(help="Processes that send; more for loads that one can't keep up with.")] = 1,
    slo: flags.Slo = None,
    percentiles: Annotated[
        str, typer.Option(metavar="P[,P...]", help="Percentiles of the printed latencies.")
    ] = "95,99",
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Model folder whose tokeniser counts the answers again, after each run."),
    ] = None,
    salt: Annotated[
        str,
        typer.Option(
            help="Sets the prompts apart from those of other runs, whose KV the server may still hold. Random "
            "by default; give one to repeat the same prompts."
        ),
    ] = "",
    export: Annotated[
        str, typer.Option(metavar="FORMAT[,FORMAT]", help="Also write vllm (bench serve's JSON) or aiperf files.")
    ] = "",
    output: flags.Output = Path("results"),
) -> None:
    """Measure a running server: TTFT, TPOT, ITL and E2E, throughput, goodput and success, under each load.

    For any OpenAI-compatible server; nothing is started or stopped. Prompts are made to exact lengths, checked against
    the server's usage, and never repeated, so that no run is served from another's cache. Prints the block that `vllm
    bench serve` prints, and writes a results file and every request's timeline (JSON lines). A run whose client was
    late is marked invalid. Ctrl-C keeps what was measured.

    \b
    Examples:
      tercet bench http://127.0.0.1:8000 --qps 1,2,4 --duration 60 --warmup 8
      tercet bench http://127.0.0.1:8000 --workload W1 --scale 0.125 --turns 3 --think 1
      tercet bench http://127.0.0.1:8000 --workload random --input-tokens 256-1024 --concurrency 1,8,32
      tercet bench http://127.0.0.1:8000 --workload images --images 1-8 --output-tokens 16
      tercet bench http://127.0.0.1:8000 --dataset mooncake_trace.jsonl --trace-speed 2 --duration 120
      tercet bench http://127.0.0.1:8000 --qps 8 --slo ttft:500 --slo tpot:30 --percentiles 50,90,99.9
    """
    from tercet.bench.benchmark import Benchmark
    from tercet.cli.measuring import command_line, run_measured
    from tercet.cli.publishing import Wanted, finish_bench
    from tercet.http.address import server_url
    from tercet.report.live import LoadView
    from tercet.report.terminal import console_for_output
    from tercet.results.file import require_writable

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
    wanted_slo = slo_from_flags(slo or ())
    wanted = Wanted(output, wanted_slo, percentiles_from(percentiles), _exports(export))
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
    plan = Plan(
        url=server_url(url).removesuffix("/v1"),
        traffic=traffic,
        load_kind=kind,
        loads=loads,
        salt=salt or _random_salt(),
        runs=runs,
        warmup=warmup,
        workers=workers,
        scale=scale,
        model=model,
        form=_form(prompt_format),
        exact=ignore_eos,
        extra=_extra(extra_body),
        headers=tuple(Header(*each) for each in flags.headers_from(api_key, header or ())),
        reset_caches=reset_caches,
        show_responses=show_responses,
        timeout_s=timeout,
        idle_timeout_s=idle_timeout,
        tokenizer=tokenizer,
        slo=wanted_slo,
    )
    require_writable(output)
    benchmark = Benchmark(plan, LoadView(console_for_output(stderr=True)), command_line())
    outcome = run_measured(benchmark.run())
    results = benchmark.results(stopped_by=outcome.stopped_by) if benchmark.runs else None
    if code := finish_bench(outcome, results, wanted):
        raise typer.Exit(code)


def _form(text: str) -> PromptForm | None:
    try:
        return PromptForm(text) if text else None
    except ValueError:
        raise UsageError(f"--prompt-format {text!r} is unknown: choose {', '.join(PromptForm)}") from None


def _extra(text: str) -> dict[str, Any]:
    try:
        extra = json.loads(text or "{}")
    except ValueError as error:
        raise UsageError(f"--extra-body is not JSON: {error}") from error
    if not isinstance(extra, dict):
        raise UsageError("--extra-body must be a JSON object, such as '{\"temperature\": 0.7}'")
    return extra


def _exports(text: str) -> tuple[str, ...]:
    from tercet.results.export import FORMATS

    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if unknown := [name for name in names if name not in FORMATS]:
        raise UsageError(f"--export {unknown[0]!r} is unknown: choose {', '.join(FORMATS)}")
    return names


def _random_salt() -> str:
    from secrets import token_hex

    return token_hex(4)
