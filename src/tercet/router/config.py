"""Settings of one router; field for field the flags of `tercet router`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf
from pathlib import Path
from ssl import SSLContext
from typing import Any

from tercet.core.errors import UsageError
from tercet.core.stage import ROLE_STAGES, Mode, Stage
from tercet.core.topology import WorkerSpec, check_encode_fallback, default_mode, require_stages
from tercet.dialects.protocol import Dialect
from tercet.dialects.registry import dialect_for
from tercet.http.tls import client_context, server_context
from tercet.media.limits import MediaLimits
from tercet.router.discovery.dns import DnsSource
from tercet.router.discovery.file import FileSource
from tercet.router.discovery.kubernetes import ACCOUNT, Cluster, KubernetesSource
from tercet.router.discovery.source import Source
from tercet.router.named_worker import EventPort, read_worker
from tercet.router.request_log import FORMATS
from tercet.router.tracing import require_otel
from tercet.routing.balancers import balancer_named
from tercet.routing.events import WorkerAdded
from tercet.routing.policy import PPD_THRESHOLD, Policy, check_rank_match, unequal_ranks

FALLBACKS = ("error", "decode")
ENCODE_FALLBACKS = ("error", "local")
MAX_PROCESSES = 64
AT_LEAST_ONE = (
    *("data_parallel_size", "breaker_failures", "health_failures", "max_concurrent", "max_unaccepted_handoffs"),
    *("index_chunks", "max_conversations", "max_body_bytes", "max_answer_bytes", "max_images"),
)
ABOVE_ZERO = (
    *("connect_timeout_s", "first_byte_timeout_s", "encode_timeout_s", "answer_timeout_s", "idle_timeout_s"),
    *("queue_timeout_s", "discovery_interval_s", "breaker_pause_s", "breaker_max_pause_s"),
    *("health_interval_s", "health_timeout_s", "probe_timeout_s"),
)
NOT_NEGATIVE = ("shutdown_grace_s", "drain_timeout_s")
"""Times in seconds, as those above are: 0 waits for nothing."""


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """One router. Times in seconds, sizes in bytes.

    `workers` (prefill and decode), `encode`, `prefill` and `decode` are URLs; `URL#ranks=N` says that a worker has N
    ranks, else it has `data_parallel_size`, else as many as it says; `URL#bootstrap=PORT` (with ranks:
    `#ranks=N,bootstrap=PORT`) where its decode workers find it, for dialects that meet in rooms and for vLLM's
    connectors `mooncake` and, with the port of each end, `p2p-nccl`; `URL#events=PORT` the port at which a vLLM worker
    publishes its KV events, `URL#events-here=PORT` the one to which it brings them on the router's machine. `mode` None
    takes the one that fits the workers; `balancer` None the mode's, `rank_match` None what the dialect's connector
    needs. `first_byte_timeout_s` bounds the wait for a prefill and for the first byte of a stream, `answer_timeout_s`
    that for an answer which isn't streamed, `idle_timeout_s` silence within an answer. `max_unaccepted_handoffs`
    bounds, per decode rank, the requests between their prefill's start and the decode worker's acceptance.
    `health_failures` unanswered checks in a row mean a worker is dead; `breaker_failures` failed requests in a row that
    it, or a pair, must prove itself again: not before `breaker_pause_s`, which doubles up to `breaker_max_pause_s`.
    `max_concurrent` requests may be under way for each rank that answers; `max_queue` more wait, `queue_timeout_s` at
    most. `log_requests` writes a line for each. Traces go to `otlp_endpoint`, if any. `priority_header` lets clients
    without a key say how urgent they are. `hybrid`: A workers answer beside P and D, too. `worker_api_key` is sent to
    the workers. `processes` share the port; each has its share of the bounds on requests.
    """

    mode: Mode | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    processes: int = 1
    workers: tuple[str, ...] = ()
    encode: tuple[str, ...] = ()
    prefill: tuple[str, ...] = ()
    decode: tuple[str, ...] = ()
    data_parallel_size: int | None = None
    rank_match: str | None = None
    dialect: str = "tercet"
    kv_connector: str = "nixl"
    tokenise_once: bool = False
    balancer: str | None = None
    ppd_threshold: int = PPD_THRESHOLD
    prefill_fallback: str = "error"
    encode_fallback: str = "error"
    max_images: int = MediaLimits().max_images
    connect_timeout_s: float = 2.0
    first_byte_timeout_s: float = 60.0
    encode_timeout_s: float = 60.0
    answer_timeout_s: float = 600.0
    idle_timeout_s: float = 30.0
    max_body_bytes: int = 64 * 1024 * 1024
    max_answer_bytes: int = 256 * 1024 * 1024
    max_retries: int = 2
    breaker_failures: int = 5
    breaker_pause_s: float = 1.0
    breaker_max_pause_s: float = 30.0
    max_unaccepted_handoffs: int = 128
    max_concurrent: int = 1024
    max_queue: int = 1024
    queue_timeout_s: float = 30.0
    priority_header: bool = False
    index_chunks: int = 65536
    max_conversations: int = 65536
    health_interval_s: float = 1.0
    health_timeout_s: float = 1.5
    health_failures: int = 2
    probe_timeout_s: float = 60.0
    shutdown_grace_s: float = 10.0
    drain_timeout_s: float = 300.0
    workers_file: str | None = None
    discover_dns: tuple[str, ...] = ()
    discover_kubernetes: tuple[str, ...] = ()
    kubernetes_api: str = Cluster().api
    kubernetes_namespace: str | None = None
    kubernetes_account: str = str(ACCOUNT)
    discovery_interval_s: float = 2.0
    api_keys: tuple[str, ...] = ()
    api_key_file: str | None = None
    worker_api_key: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    worker_ca: str | None = None
    worker_cert: str | None = None
    worker_key: str | None = None
    seed: int = 0
    hybrid: bool = False
    log_format: str = "text"
    log_requests: bool = False
    otlp_endpoint: str | None = None

    def __post_init__(self) -> None:
        """Refuse settings that can't work. Raises UsageError."""
        if not self.host:
            raise UsageError("--host '' would listen on every address: write 127.0.0.1, or 0.0.0.0 if that is meant")
        if self.api_keys and self.api_key_file is not None:
            raise UsageError("give API keys as lines or in a file, not both")
        if self.tls_cert is None and (self.tls_key or self.tls_client_ca):
            raise UsageError("--tls-key and --tls-client-ca need --tls-cert: the certificate that is shown")
        if self.worker_cert is None and self.worker_key:
            raise UsageError("--worker-key needs --worker-cert: the certificate that workers are shown")
        if self.log_format not in FORMATS:
            raise UsageError(f"unknown --log-format {self.log_format!r}: choose {' or '.join(FORMATS)}")
        if self.otlp_endpoint is not None and not self.otlp_endpoint.startswith(("http://", "https://")):
            raise UsageError(f"--otlp-endpoint {self.otlp_endpoint!r}: write http://HOST:4318")
        if self.otlp_endpoint is not None:
            require_otel()
        self.make_dialect()
        check_rank_match(self.rank_match)
        if self.balancer is not None:
            balancer_named(self.balancer)
        if self.prefill_fallback not in FALLBACKS:
            raise UsageError(f"unknown prefill fallback {self.prefill_fallback!r}: choose {' or '.join(FALLBACKS)}")
        if not 1 <= self.processes <= MAX_PROCESSES:
            raise UsageError(f"--workers must be 1 to {MAX_PROCESSES} processes, not {self.processes}")
        for name in AT_LEAST_ONE:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
        for name in (*ABOVE_ZERO, *NOT_NEGATIVE):
            seconds, above = getattr(self, name), name in ABOVE_ZERO
            if not 0 <= seconds < inf or (above and seconds == 0):
                flag, least = name.removesuffix("_s").replace("_", "-"), "above 0" if above else "0 or more"
                raise UsageError(f"--{flag} must be {least}, in seconds, not {seconds:g}")
        if self.ppd_threshold < 0 or self.max_retries < 0 or self.max_queue < 0:
            raise UsageError("--ppd-threshold, --max-retries and --max-queue must not be negative")
        if not self.worker_events() and not self.sources():
            raise UsageError("a router needs workers: name some by --worker, or by --prefill and --decode")
        if not self.sources():
            require_stages(self.start_mode, self._specs())
        if reason := self.unable(self.start_mode):
            raise UsageError(reason)
        if self.encode_fallback not in ENCODE_FALLBACKS:
            choices = " or ".join(ENCODE_FALLBACKS)
            raise UsageError(f"unknown encode fallback {self.encode_fallback!r}: choose {choices}")
        check_encode_fallback(self.encode_fallback, self._specs())
        if reason := self.unequal():
            raise UsageError(reason)
        if self.prefill_fallback == "decode" and not self.make_dialect().decode_alone:
            raise UsageError(f"--prefill-fallback decode: a decode worker of {self.dialect} can't compute a prompt")

    @property
    def scheme(self) -> str:
        """How the router's own URL begins."""
        return "http" if self.tls_cert is None else "https"

    def server_tls(self) -> SSLContext | None:
        """Return what clients are shown and asked for; None without TLS. Raises UsageError."""
        return None if self.tls_cert is None else server_context(self.tls_cert, self.tls_key, self.tls_client_ca)

    def worker_tls(self) -> SSLContext | None:
        """Return whom among workers with https URLs is believed, and what they are shown; None without a setting.
        Raises UsageError."""
        if self.worker_ca is None and self.worker_cert is None:
            return None
        return client_context(self.worker_ca, self.worker_cert, self.worker_key)

    @property
    def start_mode(self) -> Mode:
        """The mode to begin with. Raises UsageError when none fits the workers."""
        if self.mode is None and self.workers_file is not None:
            return Mode.AGGREGATED  # until the file is read
        if self.mode is None and not self.worker_events():
            raise UsageError("name the --mode: which workers there will be is not known yet")
        return self.mode or default_mode(self._specs())

    def to_data(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> RouterConfig:
        """Return what `to_data` was asked of. Raises UsageError."""
        return cls(**{**data, "mode": None if data["mode"] is None else Mode(data["mode"])})

    def sources(self) -> list[Source]:
        """Return where workers are learned of besides. Raises UsageError."""
        cluster = Cluster(self.kubernetes_api.rstrip("/"), self.kubernetes_namespace, Path(self.kubernetes_account))
        return [
            *([FileSource(Path(self.workers_file))] if self.workers_file is not None else []),
            *map(DnsSource, self.discover_dns),
            *(KubernetesSource(text, cluster) for text in self.discover_kubernetes),
        ]

    def unable(self, mode: Mode) -> str | None:
        """Return why the workers' dialect can't run `mode`; None when it can."""
        if mode is Mode.PPD and not self.make_dialect().decode_alone:
            return f"mode ppd needs decode workers that compute prompts: those of {self.dialect} can't; take pd"
        if mode.encodes_apart and not self.make_dialect().encodes:
            return f"mode {mode} needs encode workers: those of {self.dialect} are not spoken to; take pd or aggregated"
        return None

    def policy(self) -> Policy:
        """Return how requests are routed."""
        dialect = self.make_dialect()
        return Policy(
            self.balancer,
            self.ppd_threshold,
            self.prefill_fallback == "decode",
            self.seed,
            dialect.decode_alone,
            self.encode_fallback == "local",
            self.rank_match or dialect.rank_match,
            self.hybrid,
            dialect.one_choice,
        )

    def unequal(self) -> str | None:
        """Return why the ranks that were given for P and D can't be paired, or None."""
        ends = [
            [event.ranks for event in self.worker_events() if event.stages == ROLE_STAGES[letter]] for letter in "PD"
        ]
        known = all(map(self.fixed_ranks, (event.url for event in self.worker_events())))
        return unequal_ranks(self.policy().rank_match, *ends) if known else None

    def bootstrap_ports(self) -> dict[str, int]:
        """Return where workers are found by their peers, by URL. Raises UsageError."""
        named = map(read_worker, (*self.workers, *self.encode, *self.prefill, *self.decode))
        return {worker.url: worker.bootstrap for worker in named if worker.bootstrap}

    def make_dialect(self, ports: Mapping[str, int] | None = None) -> Dialect:
        """Return the workers' dialect, which looks into `ports` for bootstrap ports by URL. Raises UsageError."""
        known = self.bootstrap_ports() if ports is None else ports
        return dialect_for(self.dialect, known, self.kv_connector, self.tokenise_once)

    def event_ports(self) -> dict[str, EventPort]:
        """Return where workers publish their KV events, by URL. Raises UsageError."""
        urls = (*self.workers, *self.prefill, *self.decode)
        return {named.url: named.events for named in map(read_worker, urls) if named.events}

    def worker_events(self) -> list[WorkerAdded]:
        """Return the workers in order. Raises UsageError naming a URL that is none, or that is said twice."""
        events: list[WorkerAdded] = []
        groups = (("A", self.workers), ("E", self.encode), ("P", self.prefill), ("D", self.decode))
        for letter, urls in groups:
            for text in urls:
                named = read_worker(text)
                if any(event.url == named.url for event in events):
                    raise UsageError(f"worker {named.url} is named twice; give each URL once, by its role")
                stages = ROLE_STAGES[letter] | ({Stage.ENCODE} if named.encodes else frozenset())
                events.append(WorkerAdded(named.url, stages, named.ranks or self.data_parallel_size or 1))
        return events

    def fixed_ranks(self, url: str) -> bool:
        """True when the number of a worker's ranks was given, so that its own word isn't asked."""
        return self.data_parallel_size is not None or any(
            named.url == url and named.ranks is not None
            for named in map(read_worker, (*self.workers, *self.encode, *self.prefill, *self.decode))
        )

    def _specs(self) -> tuple[WorkerSpec, ...]:
        return tuple(WorkerSpec(event.url, event.stages, event.ranks) for event in self.worker_events())
