"""One comparison: every step in its turn, and the results document of what was measured."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from secrets import token_hex
from typing import Any

from tercet.bench.benchmark import require_room
from tercet.bench.run import traffic_record
from tercet.bench.sender import Sender
from tercet.bench.server import ServedModel, TargetServer
from tercet.bench.tally import Tally
from tercet.compare import admin, interference
from tercet.compare.answers import check_answers
from tercet.compare.architecture import UNKNOWN_MODE, Architecture
from tercet.compare.derive import derived
from tercet.compare.fleet import Endpoint, Fleet
from tercet.compare.journal import Journal
from tercet.compare.measure import Run, measure, stop_note
from tercet.compare.plan import Step, plan
from tercet.compare.seams import Deploy, Drive
from tercet.compare.spec import CompareSpec
from tercet.core.errors import TercetError, UsageError
from tercet.http.client import Client
from tercet.launch.topology_file import topology_to_dict
from tercet.report.figures import load_text
from tercet.report.progress import Narrator
from tercet.results.codec import encode
from tercet.results.document import ArchitectureRecord, Results
from tercet.results.environment import installed_versions, this_machine
from tercet.results.record import RequestRecord, RunRecord
from tercet.traffic.conversation import TokenRange
from tercet.traffic.pictures import Pictures
from tercet.traffic.prompts import PromptForm, Prompts
from tercet.traffic.spec import TrafficSpec, conversations

KNOWS_THE_CAPITAL = "smollm2-135m"
"""The bundled model, which answers the question about the capital of France with Paris in every mode."""

WARM_UP_OUTPUT = 8
"""Tokens of a warm-up answer: enough for every code path, few enough to be quick."""

LONG_PROMPT = 512
"""Tokens of the prompt whose interference with running answers is probed; more where the workloads send longer ones."""


INEXACT = (
    "The server knows no ignore_eos: answers end where the model ends them, so that architectures may have written "
    "answers of different lengths."
)

RETRIES = 2
"""How often a run whose client was late (it measured itself, not the server) is measured again, from empty caches."""


class Comparison:
    """Runs a CompareSpec. `run` may be cancelled or fail half-way: `results` then holds what was measured until then.

    What is finished is kept in `journal`, and what that holds already is not measured again. Prompts depend on the seed
    and the journal's nonce alone; what sets them apart in the cache of a running server, which stays, on the sitting.
    """

    def __init__(
        self,
        spec: CompareSpec,
        *,
        deploy: Deploy,
        drive: Drive,
        narrator: Narrator,
        journal: Journal,
        command: Sequence[str],
    ) -> None:
        self.spec = spec
        self.journal = journal
        self._unfinished: list[RunRecord] = []
        self._drive = drive
        self._narrator = narrator
        self._command = tuple(command)
        self._client = Client()
        self._fleet = Fleet(
            keep=spec.keep,
            deploy=deploy,
            client=self._client,
            narrator=narrator,
            note=journal.note,
            headers=spec.headers,
        )
        self._model = ServedModel(spec.model or "")
        self._prompts: Prompts | None = None
        self._records = {each.label: _expected_record(each) for each in spec.architectures}
        self._sitting = token_hex(4)

    @property
    def runs(self) -> tuple[RunRecord, ...]:
        """What was measured so far, in order of running."""
        return tuple(sorted((*self.journal.kept.runs, *self._unfinished), key=lambda run: run.order))

    async def run(self) -> None:
        """Run every step that is not in the journal. Raises TercetError when an architecture can't be had at all."""
        steps = plan(self.spec, str(self.journal.header["nonce"]))
        done = {(r.architecture, r.workload, r.load_kind, r.load, r.block) for r in self.journal.kept.runs}
        try:
            await self._meet_servers()
            for step in steps:
                if step.key not in done:
                    await self._step(step, len(steps))
        finally:
            await self._fleet.stop()
            await self._client.close()

    async def _meet_servers(self) -> None:
        """Learn what runs behind the URLs. Raises UsageError when their devices aren't equal, or not known."""
        for architecture in self.spec.architectures:
            if architecture.url is not None:
                endpoint = await self._fleet.serve(architecture)
                self._records[architecture.label] = architecture.record(endpoint.mode, endpoint.devices)
        counts = {label: record.devices for label, record in self._records.items() if record is not None}
        if not self.spec.allow_unequal and len(set(counts.values())) > 1:
            listing = ", ".join(f"{label} {count}" for label, count in counts.items())
            raise UsageError(f"unequal numbers of devices ({listing}): pass --allow-unequal for figures per device")

    async def _step(self, step: Step, total: int) -> None:
        architecture = step.architecture
        endpoint = await self._fleet.serve(architecture)
        if self._fleet.unprepared(architecture):
            await self._prepare(architecture, endpoint)
        late: RunRecord | None = None
        for attempt in range(1 + RETRIES):
            try:
                record = await self._measure(step, endpoint, total)
            except BaseException:  # an interrupt, too: what was measured late is kept, and measured anew when continued
                if late is not None:
                    self._unfinished.append(late)
                raise
            again = endpoint.ours and attempt < RETRIES and record is not None and record.client.saturated
            if record is not None and not again:
                self.journal.run(record)
            if not again:
                return
            late = record
            self._narrator.say(f"the client was late: {architecture.label} meets the same conversations again")

    async def _measure(self, step: Step, endpoint: Endpoint, total: int) -> RunRecord | None:
        """Run a step once; None when nothing came of it. What is cut short is kept apart."""
        architecture = step.architecture
        kept: list[RunRecord] = []

        def keep(record: RunRecord) -> None:
            (kept if record.complete else self._unfinished).append(record)

        if endpoint.ours:
            await admin.forget_everything(self._client, endpoint.url)
        load = load_text(str(step.traffic.load_kind), step.traffic.load)
        where = f"{step.traffic.name}, {load}" if len(self.spec.traffics) > 1 else load
        run = Run(
            architecture=architecture.label,
            mode=endpoint.mode,
            traffic=step.traffic,
            block=step.block,
            order=step.order,
            salt=step.salt,
            url=endpoint.url,
            model=self._model.id,
            tokens=self._tokens(),
            prompts=self._prompts or Prompts(),
            cache_salt=_plain(f"{step.salt}-{architecture.label}{self._apart(endpoint)}"),
            worker_urls=endpoint.worker_urls,
            ours=endpoint.ours,
            headers=endpoint.headers,
            show_responses=0 if step.block else self.spec.show_responses,
        )
        text = f"[{step.order + 1}/{total}] {architecture.label}, {where}, block {step.block + 1}/{self.spec.blocks}"
        await measure(run, text, client=self._client, drive=self._drive, narrator=self._narrator, keep=keep)
        return kept[0] if kept else None

    async def _prepare(self, architecture: Architecture, endpoint: Endpoint) -> None:
        """Warm an architecture up down every path, and ask it what is asked once. Raises TercetError on failure."""
        salt = f"{self.journal.header['nonce']}-{architecture.label}"
        server = TargetServer(self._client, endpoint.url, headers=endpoint.headers, salt=salt)
        model = await server.model("")
        if self._model.id and architecture.url is not None and model.id != self._model.id:
            self.journal.note(f"{architecture.label} serves {model.id}, others {self._model.id}.")
        self._model = model
        for traffic in self.spec.traffics:
            require_room(self._model, traffic)
        if self._prompts is None and any(each.needed_form is PromptForm.CHAT for each in self.spec.traffics):
            # Found out once: every architecture gets the same prompts.
            turns = max(traffic.turns for traffic in self.spec.traffics)
            self._prompts = await server.prompts(self._model, PromptForm.CHAT, turns=turns, exact=True, extra={})
            if not self._prompts.exact and INEXACT not in self.journal.kept.notes:
                self.journal.note(INEXACT)
        await self._warm_up(architecture, endpoint)
        kept = self.journal.kept
        if _knows_the_capital(architecture) and architecture.label not in kept.capital:
            self.journal.capital(
                architecture.label, await admin.ask_capital(self._client, endpoint.url, self._model.id)
            )
        if self.spec.probe and architecture.label not in {found.architecture for found in kept.interference}:
            await self._probe(architecture, endpoint)

    async def _warm_up(self, architecture: Architecture, endpoint: Endpoint) -> None:
        """Send short conversations of the shortest workload down every path."""
        spec = min(self.spec.traffics, key=lambda traffic: traffic.workload.input_tokens)
        workload = spec.workload
        # Not a data set's own pictures, which are to be new to the runs.
        pictures = workload.pictures or (Pictures() if spec.most_pictures else None)
        output = min(workload.output_tokens, WARM_UP_OUTPUT)
        shape = replace(workload, output_tokens=output, output_low=0, pictures=pictures, name="warm-up")
        turns = min(spec.turns, 2)
        count = max(1, len(endpoint.worker_urls)) * turns
        warm_up = TrafficSpec(shape, qps=1000.0, num_requests=count, turns=turns, seed=spec.seed)
        records: list[RequestRecord] = []
        with self._narrator.task(f"{architecture.label}: warming up", count) as advance:

            def on_record(record: RequestRecord) -> None:
                records.append(record)
                advance()

            salt = f"{self.journal.header['nonce']}-warm-{architecture.label}-{len(self.runs)}"
            await self._drive(
                endpoint.url,
                conversations(warm_up, salt=salt, tokens=self._tokens(), prompts=self._prompts),
                model=self._model.id,
                cache_salt=_plain(salt),
                on_record=on_record,
                headers=endpoint.headers,
            )
        if failures := [record.error for record in records if not record.ok]:
            raise TercetError(f"{architecture.label} can't serve this workload: {failures[0]}")

    async def _probe(self, architecture: Architecture, endpoint: Endpoint) -> None:
        longest = max(LONG_PROMPT, *(traffic.workload.input_tokens for traffic in self.spec.traffics))
        if self._model.max_model_len is not None:
            longest = max(1, min(longest, self._model.max_model_len - interference.STREAM_TOKENS))
        with self._narrator.task(
            f"{architecture.label}: a prompt of {longest} tokens amid running answers", 1
        ) as advance:

            def sender(tally: Tally) -> Sender:
                return Sender(self._client, endpoint.url, headers=endpoint.headers, tally=tally)

            try:
                found = await interference.probe(
                    sender,
                    model=self._model.id,
                    label=architecture.label,
                    salt=f"{self.journal.header['nonce']}-probe-{architecture.label}{self._apart(endpoint)}",
                    tokens=self._tokens(),
                    prompt_tokens=longest,
                    seed=self.spec.seed,
                )
            except TercetError as error:
                self.journal.note(f"How prefill disturbs decode was not measured of {architecture.label}: {error}.")
            else:
                self.journal.interference(found)
            advance()

    def _apart(self, endpoint: Endpoint) -> str:
        """Return what sets this sitting's requests apart from those that an interrupted one sent a server.

        Its caches are not emptied, and the conversations of a run that is measured anew must be those of its block.
        """
        return "" if endpoint.ours else f"-{self._sitting}"

    def _tokens(self) -> TokenRange:
        return TokenRange.for_vocabulary(self._model.vocab_size)

    def results(self, *, stopped_by: str = "") -> Results:
        """Return the document of what was measured so far; `stopped_by` says what kept it from being all."""
        spec, runs, kept = self.spec, self.runs, self.journal.kept
        exact = all(each.exact for each in spec.architectures)
        raw = Results(
            kind="compare",
            created_at=str(self.journal.header["created_at"]),
            command=self._command,
            versions=installed_versions(),
            machine=this_machine(),
            model=spec.model or self._model.id,
            seed=spec.seed,
            traffics=tuple(
                traffic_record(traffic.at(spec.load_kind, spec.loads[0]), spec.scale).with_slo(spec.slo)
                for traffic in spec.traffics
            ),
            architectures=tuple(self._records[each.label] or _unseen(each) for each in spec.architectures),
            runs=runs,
            summaries=(),
            verdicts=(),
            answers=check_answers(runs, kept.capital, must_agree=exact),
            interference=tuple(kept.interference),
            notes=(*kept.notes, *stop_note(stopped_by)),
            interrupted=bool(stopped_by),
        )
        return derived(raw, spec.method)


def plan_of(spec: CompareSpec) -> dict[str, Any]:
    """Return what makes a comparison the same one: a journal goes on only under an equal plan."""
    architectures: dict[str, Any] = {
        each.label: {"mode": each.mode, "url": each.url, "url_devices": each.url_devices}
        if each.topology is None
        else topology_to_dict(each.topology)
        for each in spec.architectures
    }
    return {
        "architectures": architectures,
        "traffics": [_plan_of(traffic) for traffic in spec.traffics],
        "load_kind": spec.load_kind,
        "loads": list(spec.loads),
        "blocks": spec.blocks,
        "primary": list(spec.primary),
        "tie_margin": spec.tie_margin,
        "keep": spec.keep,
        "probe": spec.probe,
        **({"salt": spec.salt} if spec.salt else {}),
    }


def _plan_of(traffic: TrafficSpec) -> dict[str, Any]:
    """Return a traffic with its data set by fingerprint: a journal's header is no place for a whole file."""
    plan: dict[str, Any] = encode(traffic)
    return plan if traffic.dataset is None else {**plan, "dataset": traffic.dataset.fingerprint}


def _expected_record(architecture: Architecture) -> ArchitectureRecord | None:
    devices = architecture.devices
    return None if devices is None else architecture.record(str(architecture.mode), len(devices))


def _unseen(architecture: Architecture) -> ArchitectureRecord:
    return architecture.record(str(architecture.mode or UNKNOWN_MODE), architecture.url_devices or 1)


def _knows_the_capital(architecture: Architecture) -> bool:
    topology = architecture.topology
    if topology is None:
        return False
    engine = topology.engine
    return topology.model == KNOWS_THE_CAPITAL and engine.engine in ("tercet", "vllm") and engine.random_weights is None


def _plain(salt: str) -> str:
    """Return a salt that vLLM takes, too: a workload's 96/8 and a label's blanks are replaced."""
    return re.sub(r"[^\w.-]", "-", salt)[-128:]
