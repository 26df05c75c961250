"""The processes behind the architectures: started when their turn comes, one set at a time or side by side."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from tercet.bench.sender import Headers
from tercet.bench.server import TargetServer
from tercet.compare import admin
from tercet.compare.architecture import UNKNOWN_MODE, Architecture
from tercet.compare.busy import read_busy
from tercet.compare.plan import place
from tercet.compare.seams import Deploy, Deployment
from tercet.compare.spec import WARM
from tercet.core.errors import UsageError
from tercet.core.topology import Topology
from tercet.http.client import Client
from tercet.launch.progress import Progress
from tercet.report.progress import Narrator

RANK_BYTES = {"tercet": 1_200_000_000, "virtual": 150_000_000}
"""What a rank takes on a CPU with the bundled model; a larger model takes more."""
FOREIGN_RANK_BYTES = 3_500_000_000
"""What vLLM's takes; of others nothing was measured."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an architecture answers. `ours`: started here, so that its caches may be emptied.

    `worker_urls` are its workers' by name, empty for a server that doesn't say. `headers` go with every request.
    """

    url: str
    mode: str
    worker_urls: Mapping[str, str]
    devices: int
    ours: bool
    headers: Headers = ()


class Fleet:
    """Owns the deployments. `note` gets what a reader of the results must know: a part that crashed. `headers` are
    what servers that run elsewhere want with every request (an API key)."""

    def __init__(
        self,
        *,
        keep: str,
        deploy: Deploy,
        client: Client,
        narrator: Narrator,
        note: Callable[[str], None],
        headers: Headers = (),
    ) -> None:
        self._headers = headers
        self._keep = keep
        self._deploy = deploy
        self._client = client
        self._narrator = narrator
        self._note = note
        self._running: dict[Hashable, Deployment] = {}
        self._prepared: set[tuple[Hashable, str]] = set()
        self._remote: dict[str, Endpoint] = {}

    async def serve(self, architecture: Architecture) -> Endpoint:
        """Return where `architecture` answers, in its mode; its processes are started if they aren't running."""
        if architecture.topology is None:
            return await self._server(architecture)
        name = place(architecture)
        if name not in self._running:
            if self._keep != WARM:
                await self.stop()
            self._running[name] = await self._start(architecture.topology, name)
        deployment = self._running[name]
        mode = str(architecture.mode)
        await admin.switch_mode(self._client, deployment.url, mode)
        return Endpoint(deployment.url, mode, deployment.worker_urls, len(architecture.devices or ()), ours=True)

    def unprepared(self, architecture: Architecture) -> bool:
        """Return true once for every architecture and start of its processes: it needs to be warmed up."""
        key = (place(architecture), architecture.label)
        new = key not in self._prepared
        self._prepared.add(key)
        return new

    async def stop(self) -> None:
        """End every deployment."""
        while self._running:
            name, deployment = self._running.popitem()
            self._prepared = {key for key in self._prepared if key[0] != name}
            await deployment.stop()

    async def _server(self, architecture: Architecture) -> Endpoint:
        url = architecture.url
        assert url is not None
        if architecture.mode is not None:
            await admin.switch_mode(self._client, url, str(architecture.mode), self._headers)
        if architecture.label not in self._remote:
            server = TargetServer(self._client, url, headers=self._headers)
            mode = architecture.mode or await server.mode()
            workers = await server.workers()
            devices = architecture.url_devices or sum(workers.values()) or None
            if devices is None:
                raise UsageError(
                    f"how many devices are behind {url} is not known: say --url-devices {architecture.label}=N"
                )
            urls = {f"worker-{i}": worker for i, worker in enumerate(workers)}
            # Behind a router elsewhere they may be out of reach: those are not asked again.
            counting = {worker for worker, _, _ in (await read_busy(self._client, urls)).seconds}
            urls = {name: worker for name, worker in urls.items() if name in counting}
            mode = str(mode or UNKNOWN_MODE)
            self._remote[architecture.label] = Endpoint(url, mode, urls, devices, ours=False, headers=self._headers)
        return self._remote[architecture.label]

    async def _start(self, topology: Topology, name: Hashable) -> Deployment:
        self._require_memory(topology)
        deployment = self._deploy(topology)
        awaited = {"router", *(worker.name for worker in topology.workers)}
        places = ", ".join(sorted({device for worker in topology.workers for device in worker.devices}))
        model = topology.engine.random_weights or topology.model
        text = f"starting {topology.short_form} of {Path(model).name} on {places}"
        with self._narrator.task(text, len(awaited)) as advance:

            def watch(progress: Progress) -> None:
                if progress.state == "ready" and progress.part in awaited:
                    awaited.remove(progress.part)
                    advance()
                self._watch(topology, progress)

            await deployment.start(watch)
        return deployment

    def _watch(self, topology: Topology, progress: Progress) -> None:
        """Pass on what explains a run's failures: a part that crashed under load."""
        if progress.state in ("crashed", "failed", "restarting", "warning"):
            self._narrator.say(f"{progress.part} {progress.state}: {progress.detail}")
        if progress.state in ("crashed", "failed"):
            self._note(f"{progress.part} of {topology.short_form} {progress.state}.")

    def _require_memory(self, topology: Topology) -> None:
        """Raise UsageError where another set of processes beside those running would not fit."""
        if not self._running:
            return
        devices = {device for worker in topology.workers for device in worker.devices}
        if topology.engine.engine != "virtual" and any(device.startswith("cuda") for device in devices):
            raise UsageError("--keep warm: an engine takes a GPU's whole memory for its KV; use --keep turn")
        each = RANK_BYTES.get(topology.engine.engine, FOREIGN_RANK_BYTES)
        free = psutil.virtual_memory().available
        if topology.ranks * each > free:
            raise UsageError(
                f"--keep warm: {topology.short_form} needs about {topology.ranks * each / 1e9:.1f} GB beside what runs "
                f"already, {free / 1e9:.1f} GB are free; use --keep turn"
            )


def named(topology: Topology, label: str) -> Topology:
    """Return the topology with a name that says what it is for, as `tercet status` shows it."""
    slug = "".join(character if character.isalnum() else "-" for character in label.lower())
    return replace(topology, name=f"compare-{slug}"[:40])
