"""The router as a process: puts the parts together, listens, and leaves in good order."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping
from math import ceil

import uvloop
from setproctitle import setproctitle

from tercet.core.api_keys import ApiKey
from tercet.core.errors import RequestError, TercetError, UsageError
from tercet.dialects.request import CHAT_PATH, COMPLETIONS_PATH
from tercet.http.client import Client
from tercet.http.server import Request, Responder, Server
from tercet.router.admin import Admin
from tercet.router.call import Suspect
from tercet.router.checks import OPEN_PATHS, Door, without_key
from tercet.router.config import RouterConfig
from tercet.router.dashboard.pages import HOME, page
from tercet.router.discovery.watch import Discovery
from tercet.router.gate import Gates
from tercet.router.generation import generate
from tercet.router.handoffs import Handoffs
from tercet.router.health import Prober
from tercet.router.key_file import KeyFile
from tercet.router.kv_subscriber import KvSubscriber
from tercet.router.kv_use import KvUse
from tercet.router.live import Live
from tercet.router.members import Members
from tercet.router.metrics import RouterMetrics
from tercet.router.openapi.document import OpenApi
from tercet.router.parts import Parts
from tercet.router.passthrough import METHODS, OTHER_PATHS, pass_through
from tercet.router.request_log import RequestLog, set_up_logs
from tercet.router.retry import RetryPauses
from tercet.router.roster import Roster
from tercet.router.sender import Sender
from tercet.router.tracing import Tracing, provider_to
from tercet.routing.breaker import Breakers
from tercet.routing.events import ModeChanged
from tercet.routing.fleet import FleetState
from tercet.transfer.optional import is_loopback

log = logging.getLogger(__name__)

GENERATION = frozenset({CHAT_PATH, COMPLETIONS_PATH})
PROBED = frozenset({"/health", "/ready"})
"""What is answered without a client certificate: a kubelet has none."""
TRACES_GRACE_S = 2.0
BYTES_PER_TOKEN = 4
"""By which a request is charged whose answer isn't read."""

FILES_EACH = 3
"""What a client's connection may need: itself, and one to each of two workers."""
FEW_CLIENTS = 1024
"""Room for fewer at a time is worth a warning."""

GC_THRESHOLD = 20_000
"""So many more objects made than freed, and the collector looks at the young ones: a few MB."""

Endpoint = Callable[[Request, Responder], Awaitable[None]]


class Router:
    """One router. `start` listens and begins to watch the workers; `close` ends both."""

    def __init__(self, config: RouterConfig) -> None:
        fleet = self._make_fleet(config)
        for event in config.worker_events():
            fleet.apply(event)
        fleet.apply(ModeChanged(config.start_mode))
        live = Live.of(config)
        client = self._make_client(config)
        sender, metrics = Sender(client, live, config.max_answer_bytes), RouterMetrics()
        ports = config.bootstrap_ports()
        self.parts = Parts(
            config,
            live,
            config.make_dialect(ports),
            fleet,
            client,
            sender,
            Handoffs(config.max_unaccepted_handoffs, sender.control, metrics),
            metrics,
            Door(KeyFile(config.api_keys, config.api_key_file), config.worker_api_key, here=is_loopback(config.host)),
            self._make_breakers(config),
            Gates(fleet, metrics, live, config.processes),
            RetryPauses(config.seed),
            ports,
            RequestLog(config.log_format) if config.log_requests else None,
            None if config.otlp_endpoint is None else Tracing(provider_to(config.otlp_endpoint)),
        )
        fleet.on_change = self.parts.gates.follow_fleet
        self.prober = Prober(self.parts)
        self.suspect: Suspect = self.prober.suspect
        self._kv = KvSubscriber(fleet, config.event_ports())
        self.roster = Roster(self.parts, self.prober, self._kv, self._settle)
        self._server = Server(
            self.handle,
            host=config.host,
            port=config.port,
            max_body_bytes=config.max_body_bytes,
            tls=config.server_tls(),
            files_each=FILES_EACH,
            reuse_port=config.processes > 1,
            before_long=self._before_long,
        )
        self._asks_certificate = config.tls_client_ca is not None
        self._kv_use = KvUse(self.parts)
        admin = Admin(self.parts, self.prober, self.roster, self._kv_use, self._processes)
        members = Members(self.parts, self.roster)
        self._discovery = Discovery(config.sources(), self.parts, self.roster, admin.change_mode)
        self._endpoints: dict[str, dict[str, Endpoint]] = {
            "/health": {"GET": admin.health},
            "/ready": {"GET": admin.ready},
            "/metrics": {"GET": admin.metrics},
            "/metrics/clear": {"POST": admin.clear_metrics},
            "/mode": {"GET": admin.mode},
            "/status": {"GET": admin.status},
            "/requests": {"GET": admin.requests},
            "/workers": {"POST": members.add},
            "/conversations/clear": {"POST": admin.clear_conversations},
            "/cache/reset": {"POST": admin.reset_cache},
            "/v1/models": {"GET": admin.models},
            "/openapi.json": {"GET": OpenApi().send},
            HOME: {"GET": page},
        }
        self._families: dict[str, dict[str, Endpoint]] = {
            "/mode/{name}": {"POST": admin.set_mode},
            "/workers/{id}": {"DELETE": members.remove},
            "/v1/models/{id}": {"GET": admin.model},
            HOME + "/{file}": {"GET": page},
        }
        self._prefixes = [(path.partition("{")[0], methods) for path, methods in self._families.items()]

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._server.port

    @property
    def routes(self) -> set[tuple[str, str]]:
        """Every method with its path, whose variable part is in braces."""
        own = {
            (method, path)
            for path, methods in (*self._endpoints.items(), *self._families.items())
            for method in methods
        }
        passed = {(method, OTHER_PATHS) for method in METHODS}
        return own | passed | {("POST", CHAT_PATH), ("POST", COMPLETIONS_PATH)}

    async def start(self) -> None:
        """Listen, then watch the workers. Raises UsageError when the port is taken or the address isn't ours."""
        try:
            await self._server.start()
        except OSError as error:
            raise no_port(self.parts.config, error) from error
        room = self._server.limits.max_connections
        if room < FEW_CLIENTS:
            log.warning("at most %d clients at a time: this process may have too few files open (ulimit -Hn)", room)
        self._watch()

    def _watch(self) -> None:
        """Begin to watch the workers."""
        self.prober.start()
        self._kv.start()
        self._discovery.start()

    def _make_fleet(self, config: RouterConfig) -> FleetState:
        return FleetState(index_chunks=config.index_chunks, max_conversations=config.max_conversations)

    def _make_client(self, config: RouterConfig) -> Client:
        return Client(connect_timeout_s=config.connect_timeout_s, tls=config.worker_tls())

    def _make_breakers(self, config: RouterConfig) -> Breakers:
        return Breakers(config.breaker_failures, config.breaker_pause_s, config.breaker_max_pause_s)

    async def _settle(self) -> None:
        """Return when every process knows what this one does."""

    def _processes(self) -> list[dict[str, object]]:
        """Return what there is to say of the processes that serve requests."""
        fleet, gates = self.parts.fleet, self.parts.gates
        load = {"in_flight": fleet.in_flight, "waiting": gates.waiting}
        return [{"process": 0, "pid": os.getpid(), **load, "starts": 1, "ready": True}]

    async def close(self, grace_s: float) -> None:
        """Stop listening, let answers under way end for up to `grace_s` seconds, release what is left, close
        everything."""
        await self._server.close(grace_s)
        await self._discovery.close()
        await self.roster.close()
        await self.prober.close()
        await self._kv.close()
        await self._kv_use.close()
        await self.parts.handoffs.close(min(grace_s, 5.0))
        await self.parts.client.close()
        if self.parts.tracing is not None:
            await self.parts.tracing.close(min(grace_s, TRACES_GRACE_S))

    async def handle(self, request: Request, responder: Responder) -> None:
        """Answer one HTTP request; a RequestError becomes an OpenAI error object with the request's id."""
        door = self.parts.door
        headers = [("X-Request-Id", door.request_id(request.headers))]
        key: ApiKey | None = None
        asks, generation = request.path in GENERATION and request.method == "POST", False
        try:
            if not asks or not door.open or self._asks_certificate:
                key = self._enter(request, responder)
            generation = asks
            if generation:
                await generate(self.parts, request, responder, headers, self.suspect, key)
            else:
                await self._dispatch(request, responder, headers, key)
        except RequestError as error:
            if responder.started:
                raise
            wait_s = 1 if error.status == 503 and error.retry_after_s is None else error.retry_after_s
            if wait_s is not None:
                headers.append(("Retry-After", str(ceil(wait_s))))
            await responder.send(error.status, json.dumps(error.body()).encode(), headers=headers)
        finally:
            if self.parts.log is not None and not generation and request.path not in OPEN_PATHS:
                name = None if key is None else key.name
                self.parts.log.answered(request, headers[0][1], name, responder.status)

    def _enter(self, request: Request, responder: Responder) -> ApiKey | None:
        """Return the key that a request came with, None where none is needed. Raises RequestError."""
        if self._asks_certificate:  # else nobody looks for its connection, which another process may have
            _ask_certificate(request.path, responder.transport)
        return self.parts.door.check(request.method, request.path, request.headers)

    def _before_long(self, method: str, path: str, headers: Mapping[str, str], transport: asyncio.Transport) -> None:
        """Refuse what will be refused before its long body is here: a stranger's would fill the memory. Raises
        RequestError."""
        if self._asks_certificate:
            _ask_certificate(path, transport)
        self.parts.door.check(method, path, headers)
        if without_key(path):
            raise RequestError(413, f"{path} takes no body", code="request_too_large")

    def _methods(self, path: str) -> dict[str, Endpoint] | None:
        """Return what answers at a path of the router's own, None for others."""
        methods = self._endpoints.get(path)
        return methods or next((found for start, found in self._prefixes if path.startswith(start)), None)

    async def _dispatch(
        self, request: Request, responder: Responder, headers: list[tuple[str, str]], key: ApiKey | None
    ) -> None:
        path, door = request.path, self.parts.door
        if path in GENERATION:
            raise _no_method(request, ("POST",), headers)
        methods = self._methods(path)
        if methods is not None:
            endpoint = methods.get("GET" if request.method == "HEAD" else request.method)
            if endpoint is None:
                raise _no_method(request, methods, headers)
            await endpoint(request, responder)
        elif path.startswith("/v1/"):
            if request.method not in METHODS and request.method != "HEAD":
                raise _no_method(request, METHODS, headers)
            quota = door.enter(key)
            try:
                await pass_through(self.parts, request, responder, headers, self.suspect)
            finally:
                if quota is not None:
                    quota.leave(len(request.body) // BYTES_PER_TOKEN)
        else:
            raise RequestError(404, f"no such path: {path}")


def _ask_certificate(path: str, transport: asyncio.Transport) -> None:
    """Raise RequestError 403 for who shows no certificate."""
    if path not in PROBED and not transport.get_extra_info("peercert"):
        raise RequestError(403, "a client certificate is needed", code="client_certificate_needed")


def no_port(config: RouterConfig, error: OSError) -> UsageError:
    """Return why the router can't listen."""
    why = "the port is in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
    return UsageError(f"can't listen on {config.host}:{config.port}: {why}; choose another --port, or --host")


def _no_method(request: Request, methods: Collection[str], headers: list[tuple[str, str]]) -> RequestError:
    """Return the refusal of a method, and have the answer say which there are."""
    allowed = ", ".join((*methods, "HEAD") if "GET" in methods else methods)
    headers.append(("Allow", allowed))
    return RequestError(405, f"{request.method} {request.path}: use {allowed}", code="method_not_allowed")


async def serve(config: RouterConfig) -> int:
    """Run a router until SIGINT or SIGTERM; a second one ends it at once. Raises UsageError."""
    stop, hurry = on_signals()
    router = Router(config)
    try:
        await router.start()
        collect_less()
        log.info("router listens on %s://%s:%d, mode %s", config.scheme, config.host, router.port, config.start_mode)
        await stop.wait()
        log.info("stopping")
    finally:
        await close(router, config.shutdown_grace_s, hurry)
    return 0


def on_signals() -> tuple[asyncio.Event, asyncio.Event]:
    """Return what SIGINT or SIGTERM sets from now on: the first one, and a second."""
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    return stop, hurry


async def close(router: Router, grace_s: float, hurry: asyncio.Event) -> None:
    """End a router within `grace_s`, or at once when `hurry` is set."""
    closing = asyncio.create_task(router.close(grace_s))
    hurried = asyncio.create_task(hurry.wait())
    await asyncio.wait({closing, hurried}, return_when=asyncio.FIRST_COMPLETED)
    hurried.cancel()
    if not closing.done():
        closing.cancel()
        await asyncio.wait({closing})
        await router.close(0.0)


def collect_less() -> None:
    """Have the garbage collector look less often, and not at what was made for good: next to nothing of a request
    refers to itself, and looking for it took a tenth of the router's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)


def run(config: RouterConfig) -> int:
    """Run a router, in this process or with several; return its exit code."""
    setproctitle("tercet router")
    set_up_logs(config.log_format)
    try:
        if config.processes > 1:
            from tercet.router.processes.family import serve_many

            return int(uvloop.run(serve_many(config)))
        code: int = uvloop.run(serve(config))
        return code
    except TercetError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
