"""A topology as processes of this machine."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from tercet.core.errors import UsageError
from tercet.core.secret import SECRET_VARIABLE, key_of_workers
from tercet.core.topology import Topology, WorkerSpec
from tercet.http.client import Client
from tercet.http.tls import unverified_context
from tercet.launch.change import Change, change_of, merged
from tercet.launch.commands import Commands, TercetCommands, workers_file
from tercet.launch.devices import resolve_devices
from tercet.launch.door import check_door
from tercet.launch.engines.registry import engine_commands
from tercet.launch.keeper import Keeper
from tercet.launch.model import shown_model, with_stages
from tercet.launch.part import BACKOFF_S, Part, PartSpec, start_all
from tercet.launch.placement import Placement
from tercet.launch.ports import PortReservation, ports_of
from tercet.launch.probe import until_drained
from tercet.launch.process import OWN_MODULES
from tercet.launch.progress import OnProgress, Progress, heard_or_not
from tercet.launch.reload import LOOK_S, Reload
from tercet.launch.segments import sweep_all
from tercet.launch.source import Asked
from tercet.launch.state import RunDir, RunState, default_log_dir, default_run_root, open_log, write_private
from tercet.transfer.pool import sweep

SECRET_BYTES = 32
WORKERS_FILE = "workers.yaml"
LEAVE_S = 310.0
"""How long a worker that leaves is waited for: somewhat longer than the router does."""
GRACE_S = 5.0
CLEAR_TIMEOUT_S = 10.0
"""How long killed processes may hold their shared segments."""


def _ignore(_progress: Progress) -> None:
    """Tell nobody."""


class LocalDeployment:
    """Starts a topology's workers and router here, watches over them, and leaves nothing behind.

    Use it in one event loop, as a context manager or by `start` and `stop`; for another deployment make another one.
    `start_timeout_s` bounds each part's start (None: what the engine needs). With `restart`, crashed parts start again,
    waiting `backoff_s` between. `asked` is the file that the topology came from, if it did: what changes there
    from now on is followed as far as it can be.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        run_root: Path | None = None,
        log_dir: Path | None = None,
        cache_dir: Path | None = None,
        restart: bool = True,
        start_timeout_s: float | None = None,
        grace_s: float = GRACE_S,
        backoff_s: Sequence[float] = BACKOFF_S,
        commands: Commands | None = None,
        asked: Asked | None = None,
    ) -> None:
        self.topology = topology
        self._sees = False
        self._reload = None if asked is None else Reload(asked, self.become, self._refuse)
        self._as_asked = topology
        self.name = topology.name
        self.warnings: list[str] = []
        self._run_root = run_root or default_run_root()
        self._given_log_dir = log_dir.absolute() if log_dir else None
        self._cache_dir = cache_dir
        self._restart = restart
        self._start_timeout_s = start_timeout_s or engine_commands(topology.engine.engine).start_timeout_s
        self._grace_s = grace_s
        self._backoff_s = backoff_s
        self._commands: Commands = commands or TercetCommands()
        self._client = Client(tls=unverified_context())  # it asks its own children only
        self._on_progress: OnProgress = _ignore
        self._ports = PortReservation()
        self._placement = Placement(topology, "")
        self._run_dir: RunDir | None = None
        self._keeper: Keeper | None = None
        self._workers: list[Part] = []
        self._router: Part | None = None
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._following: set[asyncio.Task[None]] = set()
        self._starting: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._started_at, self._secret = 0.0, secrets.token_bytes(SECRET_BYTES)
        self._workers_key = None if topology.router.api_key_file is None else key_of_workers(self._secret)

    @property
    def url(self) -> str:
        """The router's URL, once started."""
        return self._placement.router_url

    @property
    def worker_urls(self) -> dict[str, str]:
        """Each worker's URL by its name, once started."""
        return {worker.name: self._placement.worker_url(worker) for worker in self.topology.workers}

    @property
    def log_dir(self) -> Path:
        """Where NAME.log of every part lies."""
        return self._given_log_dir or default_log_dir(self.name)

    async def start(self, on_progress: OnProgress | None = None) -> None:
        """Start everything and return when the router is ready; `on_progress` is told of every state until the end.

        Raises UsageError (a busy port, an unknown device) before anything runs, LaunchError when a part does not come
        up; either way, and when cancelled, nothing is left.
        """
        self._on_progress = heard_or_not(on_progress or _ignore)
        self._starting = asyncio.create_task(self._start())
        try:
            await self._starting
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        self._started_at = time.time()
        self._sees = self._commands.sees(self.topology, self._cache_dir)
        self._as_asked = with_stages(self.topology, self._sees)
        assigned, self.warnings = resolve_devices(self._as_asked)
        self.topology = self._reserve_ports(assigned)
        asked, held = ports_of(assigned), ports_of(self.topology)
        self._run_dir = run_dir = RunDir.claim(self._run_root, self.topology.name, asked, held)
        self.name = run_dir.name
        self._placement = Placement(
            self.topology,
            run_dir.topology_id,
            cache_dir=self._cache_dir,
            run_path=run_dir.path,
            side_ports=self._reserve_side_ports(self.topology, self.topology.workers),
        )
        # Built before anything runs: a setting that can't work ends here.
        workers = [self._worker_part(self._placement, worker) for worker in self.topology.workers]
        argv = self._router_argv(self._placement)
        router = PartSpec("router", argv, self.url, restarted_path="/health", key=self._workers_key)
        self._tell_router(self._placement)
        self._publish("starting")
        for warning in self.warnings:
            self._on_progress(Progress("deployment", "warning", warning))
        sweep()  # what any launcher left whose keeper was killed too
        log = open_log(self.log_dir)
        try:
            self._keeper = keeper = await Keeper.start(run_dir.topology_id, run_dir.path, log)
        finally:
            os.close(log)
        self._workers = [self._part(spec, keeper) for spec in workers]
        await start_all(self._workers)
        self._router = self._part(router, keeper)
        await self._router.start()
        self._publish("ready")
        self._watch(*self._workers, self._router)
        if self._reload is not None:
            self._follow(self._reload.watch())
        self._on_progress(Progress("deployment", "ready", self.url))

    async def become(self, wanted: Topology) -> None:
        """Start the workers that are new in `wanted`, have those leave that it lacks, and take over its mode and
        deadlines. Raises UsageError for what can't change while it runs, LaunchError for a worker that does not start:
        nothing has changed then."""
        with self._ports.kept_if_all_is_well():
            await self._become(wanted)

    async def _become(self, wanted: Topology) -> None:
        wanted = with_stages(wanted, self._sees)
        change = change_of(self._as_asked, wanted)
        assert self._keeper is not None and self._router is not None
        if busy := {worker.name for worker in change.added} & {part.spec.name for part in self._workers}:
            raise UsageError(f"{', '.join(sorted(busy))}: one of that name is still leaving; take another")
        placement = self._placed(wanted, change)
        named = {worker.name for worker in change.added}
        argv = self._router_argv(placement)
        parts = [
            self._part(self._worker_part(placement, worker), self._keeper)
            for worker in placement.topology.workers
            if worker.name in named
        ]
        if parts:
            await start_all(parts)
        try:
            self._tell_router(placement)  # before anything is taken over: there may be no room for it
        except UsageError:
            await asyncio.gather(*(part.end(self._grace_s) for part in parts))
            raise
        left = {name: self.worker_urls[name] for name in change.removed}
        self._as_asked, self.topology, self._placement = wanted, placement.topology, placement
        self._workers += parts
        self._watch(*parts)
        self._router.spec = replace(self._router.spec, argv=argv)
        with suppress(UsageError):
            self._publish("ready")
        for name, url in left.items():
            self._follow(self._let_go(name, url))

    def _placed(self, wanted: Topology, change: Change) -> Placement:
        """Return where everything is once `wanted` runs: what is here stays where it is."""
        assigned, _ = resolve_devices(merged(self.topology, wanted))
        topology = self._with_ports(assigned)
        side_ports = {**self._placement.side_ports, **self._reserve_side_ports(topology, change.added)}
        return replace(self._placement, topology=topology, side_ports=side_ports)

    async def _let_go(self, name: str, url: str) -> None:
        """End a worker once the router has drained it."""
        await until_drained(self._client, self.url, url, LEAVE_S, self._workers_key)
        self._watchers.pop(name).cancel()
        part = next(part for part in self._workers if part.spec.name == name)
        await part.end(self._grace_s)
        self._workers.remove(part)
        self._ports.give_back((urlsplit(url).port or 0, *self._placement.side_ports.get(name, ())))
        self._on_progress(Progress(name, "stopped"))

    def _refuse(self, why: str) -> None:
        self._on_progress(Progress("deployment", "warning", why))
        with suppress(UsageError):  # no room for it: the log has it
            self._tell_router(self._placement, why)

    def _tell_router(self, placement: Placement, refused: str = "") -> None:
        if self._reload is not None and self._run_dir is not None:
            write_private(self._run_dir.path / WORKERS_FILE, workers_file(placement, refused))

    def _router_argv(self, placement: Placement) -> tuple[str, ...]:
        argv = tuple(self._commands.router(placement))
        if self._reload is None:
            return argv
        return (*argv, "--workers-file", f"{placement.run_path}/{WORKERS_FILE}", "--discovery-interval", f"{LOOK_S:g}")

    def _watch(self, *parts: Part) -> None:
        for part in parts:
            self._watchers[part.spec.name] = asyncio.create_task(part.watch(self._restart))

    def _follow(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._following.add(task)
        task.add_done_callback(self._followed)

    def _followed(self, task: asyncio.Task[None]) -> None:
        self._following.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._on_progress(Progress("deployment", "warning", f"the topology file is followed no more: {fault!r}"))

    def _worker_part(self, placement: Placement, worker: WorkerSpec) -> PartSpec:
        process = self._commands.worker(placement, worker)
        path = process.ready_path
        for name, text in process.files.items():
            Path(name).write_text(text, encoding="utf-8")
        env = dict(process.env)
        key = self._workers_key
        if key is not None and process.key_variable is not None:
            env[process.key_variable] = key
        if key is not None and process.key_file is not None:
            write_private(Path(process.key_file), f"api-key: {key}\n")
        return PartSpec(worker.name, process.argv, placement.worker_url(worker), path, path, env, key)

    def _part(self, spec: PartSpec, keeper: Keeper) -> Part:
        env = {**os.environ, SECRET_VARIABLE: self._secret.hex(), "PYTHONUNBUFFERED": "1", **OWN_MODULES}
        return Part(
            spec,
            log_dir=self.log_dir,
            env={**env, **spec.env},
            keeper=keeper,
            client=self._client,
            on_progress=self._on_progress,
            start_timeout_s=self._start_timeout_s,
            backoff_s=self._backoff_s,
        )

    def _reserve_ports(self, topology: Topology) -> Topology:
        """Reserve every port before anything starts; workers without one get those after the router's."""
        router = topology.router
        check_door(self._run_root, router)
        port = self._ports.take(router.host, router.port, "router", "--port") if router.port else 0
        port = port or self._ports.find(router.host, 0)
        return self._with_ports(replace(topology, router=replace(router, port=port)))

    def _with_ports(self, topology: Topology) -> Topology:
        """Reserve the ports of the workers that are not here yet."""
        host, first = self._placement.host, topology.router.port + 1
        here = {part.spec.name for part in self._workers}
        workers = []
        for worker in topology.workers:
            if worker.name in here:
                pass
            elif worker.port:
                self._ports.take(host, worker.port, worker.name, "its `port` in the topology file, for instance")
            else:
                worker = replace(worker, port=self._ports.find(host, first))
            workers.append(worker)
        return replace(topology, workers=tuple(workers))

    def _reserve_side_ports(self, topology: Topology, workers: Iterable[WorkerSpec]) -> dict[str, tuple[int, ...]]:
        counts = {worker.name: self._commands.side_ports(topology, worker) for worker in workers}
        return {name: self._ports.find_run(self._placement.host, count) for name, count in counts.items() if count}

    def _publish(self, phase: str) -> None:
        if self._run_dir is not None:
            topology = self.topology
            self._run_dir.write(
                RunState(
                    name=self.name,
                    topology_id=self._run_dir.topology_id,
                    pid=os.getpid(),
                    phase=phase,
                    url=self.url,
                    shape=topology.short_form,
                    mode=str(topology.mode),
                    model=shown_model(topology),
                    log_dir=str(self.log_dir),
                    started_at=self._started_at,
                    workers=tuple(self.worker_urls.items()),
                )
            )

    async def wait(self) -> None:
        """Return when the deployment is stopped. Raises LaunchError when the router crashed and may not restart."""
        router = self._watchers.get("router")
        if router is not None and self._stopping is None:
            # A worker that may not restart stays down; the router goes on without it.
            await asyncio.wait([router])
            if not router.cancelled():
                router.result()

    async def stop(self) -> None:
        """End everything and return when nothing is left: the router first, then the workers. Safe to call twice."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())
        # Cancelling the one who waits must not leave half of it running.
        await asyncio.shield(self._stopping)

    def kill(self) -> None:
        """Make a `stop` under way stop being patient."""
        for part in (self._router, *self._workers):
            if part is not None:
                part.kill()

    async def _stop(self) -> None:
        if self._keeper is not None:
            with suppress(UsageError):  # a full disk must not keep the end from being orderly
                self._publish("stopping")
            self._on_progress(Progress("deployment", "stopping"))
        busy = [task for task in (self._starting, *self._watchers.values(), *self._following) if task is not None]
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        if self._router is not None:
            await self._router.end(self._grace_s)
        await asyncio.gather(*(part.end(self._grace_s) for part in self._workers))
        if self._run_dir is not None:
            await _clear(self._run_dir.topology_id)
        if self._keeper is not None:
            await self._keeper.dismiss()
        await self._client.close()
        self._ports.close()
        if self._run_dir is not None:
            self._run_dir.release()
        if self._keeper is not None:
            self._on_progress(Progress("deployment", "stopped"))

    async def __aenter__(self) -> LocalDeployment:
        """Start; see `start`."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        await self.stop()


async def _clear(topology_id: str) -> None:
    for _ in range(round(CLEAR_TIMEOUT_S / 0.05)):
        if sweep_all(topology_id):
            return
        await asyncio.sleep(0.05)
