"""`tercet router`: the router alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from tercet.cli import engine_options as flags
from tercet.cli import failure_options as failing
from tercet.cli import sight_options as sight
from tercet.cli.engine_options import first_key
from tercet.core.errors import UsageError
from tercet.core.secret import key_of_workers, take_secret
from tercet.core.stage import Mode
from tercet.core.topology import mode_from_name

URL_FLAGS = (
    *("--worker", "--worker-urls", "--encode", "--prefill", "--decode"),
    *("--discover-dns", "--discover-kubernetes"),
)
BALANCER_ALIASES = {"cache_aware": "prefix_aware"}
"""What the vLLM router calls a balancer that we call otherwise."""


def spread(arguments: list[str]) -> list[str]:
    """Repeat a flag of URLs before each of its values: `--worker-urls A B` is `--worker-urls A --worker-urls B`."""
    result: list[str] = []
    flag = ""
    for argument in arguments:
        if argument.startswith("-"):
            flag = argument if argument in URL_FLAGS else ""
            if not flag:
                result.append(argument)
        elif flag:
            result += [flag, argument]
        else:
            result.append(argument)
    if flag and flag not in result[-2:]:
        result.append(flag)  # no value at all: let the parser say so
    return result


def from_files(arguments: list[str]) -> list[str]:
    """Put the lines of FILE in the place of `@FILE`; empty lines and # comments are skipped. Raises UsageError."""
    result: list[str] = []
    for argument in arguments:
        if argument.startswith("@"):
            try:
                lines = Path(argument[1:]).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"cannot read the arguments in {argument[1:]}: {error}") from error
            result += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        else:
            result.append(argument)
    return result


class Command(TyperCommand):
    """The command, whose flags of URLs take several values after one flag, as the vLLM router's do."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments."""
        parsed: list[str] = super().parse_args(ctx, spread(from_files(args)))
        return parsed


Urls = list[str] | None


def router(
    mode: Annotated[
        str | None,
        typer.Option(
            metavar="MODE", help="aggregated, replicated, pd, ppd, epd, eppd.  [default: what the workers are for]"
        ),
    ] = None,
    worker: Annotated[
        Urls, typer.Option("--worker", "--worker-urls", metavar="URL...", help="Workers that prefill and decode.")
    ] = None,
    encode: Annotated[Urls, typer.Option(metavar="URL...", help="Encode workers.")] = None,
    prefill: Annotated[Urls, typer.Option(metavar="URL...", help="Prefill workers.")] = None,
    decode: Annotated[Urls, typer.Option(metavar="URL...", help="Decode workers.")] = None,
    workers_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="YAML: workers, each with url and role, and the mode; read again on change."),
    ] = None,
    discover_dns: Annotated[
        Urls, typer.Option(metavar="ROLE=NAME:PORT", help="A worker at each address of that name.")
    ] = None,
    discover_kubernetes: Annotated[
        Urls, typer.Option(metavar="ROLE:PORT=SELECTOR", help="The running pods that a label selector names.")
    ] = None,
    kubernetes_api: Annotated[
        str | None, typer.Option(metavar="URL", help="The API server.  [default: that of the cluster it runs in]")
    ] = None,
    kubernetes_namespace: Annotated[
        str | None, typer.Option(metavar="NAME", help="The pods' namespace.  [default: that of its own pod]")
    ] = None,
    kubernetes_account: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Its token, namespace and ca.crt.  [default: where a pod finds its own]"),
    ] = None,
    discovery_interval: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Between two looks for workers.  [default: 2]")
    ] = None,
    pd_disaggregation: Annotated[
        bool, typer.Option("--pd-disaggregation", "--vllm-pd-disaggregation", help="The same as --mode pd.")
    ] = False,
    data_parallel_size: Annotated[
        int | None,
        typer.Option(
            "--data-parallel-size",
            "--intra-node-data-parallel-size",
            metavar="N",
            help="Ranks of every worker; URL#ranks=N says it of one.  [default: what the worker says]",
        ),
    ] = None,
    dialect: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What the workers speak: tercet, vllm, sglang, trtllm.  [default: tercet]"),
    ] = None,
    balancer: Annotated[
        str | None,
        typer.Option(
            "--balancer",
            "--policy",
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
    kv_connector: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="What hands KV on between vLLM workers: nixl, mooncake or p2p-nccl.  [default: nixl]"
        ),
    ] = None,
    tokenise_once: flags.TokeniseOnce = False,
    hybrid: flags.Hybrid = False,
    rank_match: flags.RankMatch = None,
    prefill_fallback: Annotated[
        str | None,
        typer.Option(metavar="WHAT", help="When no P answers: error, or decode (D does it).  [default: error]"),
    ] = None,
    encode_fallback: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="When no E answers: error, or local (who prefills does it; see #encode).  [default: error]",
        ),
    ] = None,
    max_images: Annotated[int | None, typer.Option(metavar="N", help="Pictures in one request.  [default: 32]")] = None,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Address to listen on.  [default: 127.0.0.1]")
    ] = None,
    port: Annotated[
        int | None, typer.Option(metavar="N", help="Port to listen on.  [default: 8000]", min=0, max=65535)
    ] = None,
    processes: failing.Processes = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Accept only requests with one of these keys: see `tercet keys`."),
    ] = None,
    worker_api_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The key that the workers want, in the first line.  [default: of TERCET_TOPOLOGY_SECRET]",
        ),
    ] = None,
    tls_cert: flags.TlsCert = None,
    tls_key: flags.TlsKey = None,
    tls_client_ca: flags.TlsClientCa = None,
    worker_ca: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Authority (PEM) of https workers.  [default: those of this machine]"),
    ] = None,
    worker_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificate chain (PEM) to show to https workers.")
    ] = None,
    worker_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its key (PEM).  [default: in the file of --worker-cert]")
    ] = None,
    connect_timeout: failing.ConnectTimeout = None,
    first_byte_timeout: failing.FirstByteTimeout = None,
    encode_timeout: failing.EncodeTimeout = None,
    answer_timeout: failing.AnswerTimeout = None,
    idle_timeout: failing.IdleTimeout = None,
    max_body_bytes: Annotated[
        int | None, typer.Option(metavar="N", help="Longest request, in bytes.  [default: 67108864]")
    ] = None,
    max_answer_bytes: Annotated[
        int | None, typer.Option(metavar="N", help="Longest prefill answer, in bytes.  [default: 268435456]")
    ] = None,
    max_retries: failing.MaxRetries = None,
    breaker_failures: failing.BreakerFailures = None,
    max_concurrent: failing.MaxConcurrent = None,
    max_queue: failing.MaxQueue = None,
    queue_timeout: failing.QueueTimeout = None,
    priority_header: failing.PriorityHeader = False,
    breaker_pause: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Before a worker taken out is probed; doubles with every failed probe.  [default: 1]",
        ),
    ] = None,
    breaker_max_pause: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="The longest such pause.  [default: 30]")
    ] = None,
    max_unaccepted_handoffs: Annotated[
        int | None,
        typer.Option(metavar="N", help="Per decode rank: requests between prefill and acceptance.  [default: 128]"),
    ] = None,
    index_chunks: Annotated[
        int | None, typer.Option(metavar="N", help="Prefix chunks remembered per rank.  [default: 65536]")
    ] = None,
    max_conversations: Annotated[
        int | None, typer.Option(metavar="N", help="Conversations remembered.  [default: 65536]")
    ] = None,
    health_interval: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Between health checks.  [default: 1]")
    ] = None,
    health_timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="For a health check.  [default: 1.5]")
    ] = None,
    health_failures: Annotated[
        int | None,
        typer.Option(metavar="N", help="Unanswered checks in a row that mean a worker is dead.  [default: 2]"),
    ] = None,
    probe_timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="For the request that proves a worker or a pair ready.  [default: 60]"),
    ] = None,
    shutdown_grace: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="For requests in flight when it is asked to end.  [default: 10]"),
    ] = None,
    drain_timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="For requests in flight at a worker that leaves.  [default: 300]"),
    ] = None,
    log_format: sight.LogFormat = None,
    log_requests: sight.LogRequests = False,
    otlp_endpoint: sight.OtlpEndpoint = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Of everything drawn at random.  [default: 0]")] = None,
) -> None:
    """Start the router in front of workers that run already: one OpenAI-compatible URL for all of them.

    A flag of URLs takes several, or may be repeated; URL#encode is a worker of another role that encodes pictures too,
    URL#events=PORT a vLLM worker that publishes KV events there.
    @FILE stands for arguments in a file, one a line.
    Change the mode while it serves: POST /mode/NAME. Flags of vLLM's router work too: --worker-urls, --policy,
    --pd-disaggregation, --intra-node-data-parallel-size.

    \b
    Examples:
      tercet router --worker http://127.0.0.1:8001 http://127.0.0.1:8002
      tercet router --mode ppd --prefill http://10.0.0.1:8001 --decode http://10.0.0.2:8001 http://10.0.0.3:8001
      tercet router --encode http://e0:8001 http://e1:8001 --prefill http://p:8001 --decode http://d:8001
      tercet router --dialect sglang --prefill http://p:30000#bootstrap=8998 --decode http://d:30000
      tercet router --dialect vllm --pd-disaggregation --prefill http://p:8000 --decode http://d:8000
    """
    from tercet.router.app import run
    from tercet.router.config import RouterConfig

    files = {
        "api_key_file": api_key_file,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "tls_client_ca": tls_client_ca,
        "worker_ca": worker_ca,
        "workers_file": workers_file,
        "kubernetes_account": kubernetes_account,
        "worker_cert": worker_cert,
        "worker_key": worker_key,
    }
    given: dict[str, Any] = {
        "mode": _mode(mode, pd_disaggregation),
        "host": host,
        "port": port,
        "processes": processes,
        "data_parallel_size": data_parallel_size,
        "dialect": dialect,
        "balancer": None if balancer is None else BALANCER_ALIASES.get(balancer, balancer),
        "ppd_threshold": ppd_threshold,
        "hybrid": hybrid or None,
        "kv_connector": kv_connector,
        "tokenise_once": tokenise_once or None,
        "rank_match": rank_match,
        "prefill_fallback": prefill_fallback,
        "encode_fallback": encode_fallback,
        "max_images": max_images,
        "encode_timeout_s": encode_timeout,
        "connect_timeout_s": connect_timeout,
        "first_byte_timeout_s": first_byte_timeout,
        "answer_timeout_s": answer_timeout,
        "idle_timeout_s": idle_timeout,
        "max_body_bytes": max_body_bytes,
        "max_answer_bytes": max_answer_bytes,
        "max_retries": max_retries,
        "breaker_failures": breaker_failures,
        "max_concurrent": max_concurrent,
        "max_queue": max_queue,
        "queue_timeout_s": queue_timeout,
        "priority_header": priority_header or None,
        "breaker_pause_s": breaker_pause,
        "breaker_max_pause_s": breaker_max_pause,
        "max_unaccepted_handoffs": max_unaccepted_handoffs,
        "index_chunks": index_chunks,
        "max_conversations": max_conversations,
        "health_interval_s": health_interval,
        "health_timeout_s": health_timeout,
        "health_failures": health_failures,
        "probe_timeout_s": probe_timeout,
        "shutdown_grace_s": shutdown_grace,
        "drain_timeout_s": drain_timeout,
        "kubernetes_api": kubernetes_api,
        "kubernetes_namespace": kubernetes_namespace,
        "discovery_interval_s": discovery_interval,
        "seed": seed,
        "log_format": log_format,
        "log_requests": log_requests or None,
        "otlp_endpoint": otlp_endpoint,
        **{name: None if path is None else str(path.absolute()) for name, path in files.items()},
    }
    config = RouterConfig(
        workers=tuple(worker or ()),
        encode=tuple(encode or ()),
        prefill=tuple(prefill or ()),
        decode=tuple(decode or ()),
        discover_dns=tuple(discover_dns or ()),
        discover_kubernetes=tuple(discover_kubernetes or ()),
        worker_api_key=_worker_key(worker_api_key_file, guarded=api_key_file is not None),
        **{field: value for field, value in given.items() if value is not None},
    )
    raise typer.Exit(run(config))


def _worker_key(path: Path | None, *, guarded: bool) -> str | None:
    """Return what the workers want: of the file, else of the topology's secret, where clients need a key too."""
    secret = take_secret()
    given = first_key(path, "--worker-api-key-file")
    return key_of_workers(secret) if given is None and secret is not None and guarded else given


def _mode(name: str | None, pd_disaggregation: bool) -> Mode | None:
    if not pd_disaggregation:
        return None if name is None else mode_from_name(name)
    if name not in (None, "pd", "ppd"):
        raise UsageError(f"--pd-disaggregation and --mode {name} contradict each other: give one of them")
    return Mode.PD if name is None else mode_from_name(name)
