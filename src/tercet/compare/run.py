"""One comparison: every block in its turn on the same devices, and the results document of what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime

from tercet.bench.run import traffic_record
from tercet.compare import admin
from tercet.compare.answers import check_answers
from tercet.compare.measure import measure, stop_note
from tercet.compare.seams import Deploy, Deployment, Drive
from tercet.compare.spec import Block, CompareSpec, check_devices, plan_blocks, topology_for, used_devices
from tercet.compare.verdict import judge
from tercet.core.errors import TercetError
from tercet.core.stage import Mode
from tercet.core.topology import Topology
from tercet.http.client import Client
from tercet.launch.devices import resolve_devices
from tercet.launch.progress import Progress
from tercet.report.progress import Narrator
from tercet.results.document import ArchitectureRecord, Results
from tercet.results.environment import installed_versions, this_machine
from tercet.results.record import RequestRecord, RunRecord
from tercet.results.summary import summarise
from tercet.traffic.conversation import TokenRange
from tercet.traffic.spec import TrafficSpec, conversations

KNOWS_THE_CAPITAL = "smollm2-135m"
"""The bundled model, which answers the question about the capital of France with Paris in every mode."""

WARM_UP_OUTPUT = 8
"""Tokens of a warm-up answer: enough for every code path, few enough to be quick."""


class Comparison:
    """Runs a CompareSpec. `run` may be cancelled or fail half-way: `results` then holds what was measured until then.

    Prompts depend on the seed alone, so a repeated command sends the same: every topology starts with empty caches.
    """

    def __init__(
        self, spec: CompareSpec, *, deploy: Deploy, drive: Drive, narrator: Narrator, command: Sequence[str]
    ) -> None:
        self.spec = spec
        self.runs: list[RunRecord] = []
        self.notes: list[str] = []
        self.capital: dict[str, str] = {}
        self._deploy = deploy
        self._drive = drive
        self._say = narrator.say
        self._narrator = narrator
        self._command = tuple(command)
        self._created_at = datetime.now(UTC)
        self._topologies = self._assigned()
        self._running: tuple[Topology, Deployment] | None = None
        self._warm: set[Mode] = set()
        self._model = admin.ServedModel(spec.model, None, None)

    def _assigned(self) -> dict[Mode, Topology]:
        topologies = {mode: resolve_devices(topology_for(self.spec, mode))[0] for mode in self.spec.modes}
        check_devices(list(topologies.values()), allow_unequal=self.spec.allow_unequal)
        return topologies

    async def run(self) -> None:
        """Run every block. Raises TercetError when a topology does not start or does not answer at all."""
        blocks = plan_blocks(self.spec, f"s{self.spec.traffic.seed}")
        client = Client()
        try:
            for block in blocks:
                mode = Mode(block.mode)
                deployment = await self._serve(mode)
                await admin.switch_mode(client, deployment.url, block.mode)
                if mode not in self._warm:
                    await self._warm_up(client, deployment, mode)
                await admin.forget_everything(client, deployment.url, deployment.worker_urls)
                await self._measure(deployment, block, len(blocks))
        finally:
            await client.close()
            await self._stop()

    async def _serve(self, mode: Mode) -> Deployment:
        """Return a deployment that can serve `mode`: the running one where only the mode differs, else a new one."""
        wanted = self._topologies[mode]
        if self._running is not None and replace(self._running[0], mode=mode) == wanted:
            return self._running[1]
        await self._stop()
        deployment = self._deploy(wanted)
        self._running = (wanted, deployment)
        awaited = {"router", *(worker.name for worker in wanted.workers)}
        places = ", ".join(used_devices(wanted))
        text = f"starting {wanted.short_form} of {self.spec.model_label} on {places}"
        with self._narrator.task(text, len(awaited)) as advance:

            def watch(progress: Progress) -> None:
                if progress.state == "ready" and progress.part in awaited:
                    awaited.remove(progress.part)
                    advance()
                self._watch(progress)

            await deployment.start(watch)
        return deployment

    def _watch(self, progress: Progress) -> None:
        """Pass on what a reader must know: a part that crashed under load explains a run's failures."""
        if progress.state in ("crashed", "failed", "restarting", "warning"):
            self._say(f"{progress.part} {progress.state}: {progress.detail}")
        if progress.state in ("crashed", "failed"):
            where = f" of {self._running[0].short_form}" if self._running else ""
            self.notes.append(f"{progress.part}{where} {progress.state}.")

    async def _stop(self) -> None:
        running, self._running = self._running, None
        self._warm.clear()
        if running is not None:
            await running[1].stop()

    async def _warm_up(self, client: Client, deployment: Deployment, mode: Mode) -> None:
        """Send short conversations down every path of a mode, and one known question. Raises TercetError on failure."""
        self._model = await admin.served_model(client, deployment.url)
        spec = self.spec.traffic
        admin.require_room(self._model, spec)
        shape = replace(spec.workload, output_tokens=min(spec.workload.output_tokens, WARM_UP_OUTPUT))
        turns = min(spec.turns, 2)
        count = len(deployment.worker_urls) * turns
        warm_up = TrafficSpec(shape, qps=1000.0, num_requests=count, turns=turns, seed=spec.seed)
        records: list[RequestRecord] = []
        with self._narrator.task(f"{mode}: warming up", count) as advance:

            def on_record(record: RequestRecord) -> None:
                records.append(record)
                advance()

            await self._drive(
                deployment.url,
                conversations(warm_up, salt=f"warm-{mode}-{len(self.runs)}", tokens=self._tokens()),
                model=self._model.id,
                cache_salt=None,
                on_record=on_record,
            )
        if failures := [record.error for record in records if not record.ok]:
            raise TercetError(f"mode {mode} can't serve this workload: {failures[0]}")
        if self._knows_the_capital() and mode not in self.capital:
            self.capital[mode] = await admin.ask_capital(client, deployment.url, self._model.id)
        self._warm.add(mode)

    def _knows_the_capital(self) -> bool:
        engine = self.spec.engine
        return self.spec.model == KNOWS_THE_CAPITAL and engine.engine == "tercet" and engine.random_weights is None

    def _tokens(self) -> TokenRange:
        return TokenRange.for_vocabulary(self._model.vocab_size)

    async def _measure(self, deployment: Deployment, block: Block, total: int) -> None:
        rate = f"{block.qps:g} requests/s, run {block.run + 1}/{self.spec.runs}"
        await measure(
            self._drive,
            self._narrator,
            block,
            self.spec.traffic_at(block.qps),
            url=deployment.url,
            model=self._model.id,
            tokens=self._tokens(),
            cache_salt=f"{block.salt}-{block.mode}",
            text=f"[{block.order + 1}/{total}] {block.mode}, {rate}",
            keep=self.runs.append,
            server_is_ours=True,
        )

    def results(self, *, stopped_by: str = "") -> Results:
        """Return the document of what was measured so far; `stopped_by` says what kept it from being all."""
        spec, runs = self.spec, tuple(self.runs)
        devices = {mode.value: len(used_devices(topology)) for mode, topology in self._topologies.items()}
        return Results(
            kind="compare",
            created_at=self._created_at.isoformat(timespec="seconds"),
            command=self._command,
            versions=installed_versions(),
            machine=this_machine(),
            model=spec.model_label,
            seed=spec.traffic.seed,
            traffics=(traffic_record(spec.traffic, spec.scale),),
            architectures=tuple(_architecture_record(topology) for topology in self._topologies.values()),
            runs=runs,
            summaries=summarise(runs, devices),
            verdicts=judge(runs, turns=spec.traffic.turns, devices=devices),
            answers=check_answers(runs, self.capital, must_agree=spec.engine.dtype == "fp32"),
            notes=(*self.notes, *stop_note(stopped_by)),
            interrupted=bool(stopped_by),
        )


def _architecture_record(topology: Topology) -> ArchitectureRecord:
    router = asdict(topology.router)
    router.pop("api_key_file", None)
    return ArchitectureRecord(
        label=topology.mode,
        mode=topology.mode,
        short_form=topology.short_form,
        workers={worker.name: worker.devices for worker in topology.workers},
        devices=len(used_devices(topology)),
        engine=asdict(topology.engine),
        router=router,
    )
