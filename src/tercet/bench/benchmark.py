"""One benchmark of one running server: every load in its turn, and the results document of what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from time import perf_counter_ns

from tercet.bench.children import Children
from tercet.bench.drive import LEAD_NS, quiet_memory
from tercet.bench.health import judge
from tercet.bench.job import Job, prepare, run_job
from tercet.bench.plan import Display, Plan
from tercet.bench.result import RequestResult
from tercet.bench.run import run_record, shown, traffic_record, unsteady_notes
from tercet.bench.server import ServedModel, TargetServer
from tercet.bench.tally import Tally
from tercet.core.errors import TercetError, UsageError
from tercet.http.client import Client
from tercet.results.document import ArchitectureRecord, Results
from tercet.results.environment import installed_versions, this_machine
from tercet.results.record import ClientHealth, RequestRecord, RunRecord
from tercet.results.summary import summarise
from tercet.text.tokenizer import Tokenizer, load_tokenizer
from tercet.traffic.conversation import TokenRange
from tercet.traffic.prompts import PromptForm, Prompts
from tercet.traffic.spec import LoadKind, TrafficSpec, shorter

SERVER = "server"
"""What results call a server that doesn't tell its mode."""

WARM_UP_AT_ONCE = 8


class Benchmark:
    """Carries a Plan out. `run` may be cancelled or fail half-way: `results` then holds what was measured by then."""

    def __init__(self, plan: Plan, display: Display, command: Sequence[str]) -> None:
        self.plan = plan
        self.runs: list[RunRecord] = []
        self.notes: list[str] = []
        self._display = display
        self._command = tuple(command)
        self._created_at = datetime.now(UTC)
        self._model = ServedModel(plan.model)
        self._prompts = Prompts()
        self._tokenizer = _tokenizer(plan)
        self._devices: int | None = None

    async def run(self) -> None:
        """Measure. Raises TercetError when the server can't be reached, lists no model or takes no request."""
        plan = self.plan
        client = Client()
        headers = tuple((header.name, header.value) for header in plan.headers)
        server = TargetServer(client, plan.url, headers=headers, timeout_s=plan.timeout_s, salt=plan.salt)
        try:
            self._model = await server.model(plan.model)
            mode = await server.mode() or SERVER
            self._devices = sum((await server.workers()).values()) or None
            require_room(self._model, plan.traffic)
            self._prompts = await server.prompts(
                self._model, _form(plan), turns=plan.traffic.turns, exact=plan.exact, extra=plan.extra
            )
            self._tell_form()
            await self._warm_up()
            for order, (block, traffic, salt) in enumerate(self._blocks()):
                if plan.reset_caches:
                    await server.reset_caches()
                await self._measure(mode, order, block, traffic, salt)
        finally:
            await client.close()

    def _blocks(self) -> Iterator[tuple[int, TrafficSpec, str]]:
        for block in range(self.plan.runs):
            for i, load in enumerate(self.plan.loads):
                yield block, self.plan.traffic.at(self.plan.load_kind, load), f"{self.plan.salt}-r{block}-q{i}"

    def _tell_form(self) -> None:
        form = {
            PromptForm.TOKENS: "token ids at /v1/completions",
            PromptForm.TEXT: "text at /v1/completions",
            PromptForm.CHAT: "chats at /v1/chat/completions",
        }[self._prompts.form]
        exact = "" if self._prompts.exact else "; answers may be shorter than asked (no ignore_eos)"
        self.notes.append(f"Prompts went as {form}{exact}.")
        self._display.say(f"{self.plan.url} serves {self._model.id}; prompts go as {form}{exact}")

    async def _warm_up(self) -> None:
        """Send some requests of the workload's shape that nobody measures. Raises TercetError when one fails."""
        if not self.plan.warmup:
            return
        traffic = replace(
            self.plan.traffic, num_requests=self.plan.warmup, concurrency=WARM_UP_AT_ONCE, duration_s=None, ramp_s=0.0
        )
        records: list[RequestRecord] = []
        job = replace(self._job(traffic, f"{self.plan.salt}-warm"), keep_text=False)
        await self._drive(job, f"warming up with {traffic.requests} requests", records, [], 1)
        if failures := [record.error for record in records if not record.ok]:
            raise TercetError(f"{len(failures)} of {len(records)} requests failed while warming up: {failures[0]}")

    async def _measure(self, mode: str, order: int, block: int, traffic: TrafficSpec, salt: str) -> None:
        plan = self.plan
        total = len(plan.loads) * plan.runs
        at = f"{traffic.load:g} requests/s" if traffic.load_kind is LoadKind.QPS else f"{traffic.load:g} at once"
        run = f", run {block + 1}/{plan.runs}" if plan.runs > 1 else ""
        started = datetime.now(UTC)
        records: list[RequestRecord] = []
        texts: list[str] = []
        health: ClientHealth | None = None
        try:
            text = f"[{order + 1}/{total}] {traffic.name}, {at}{run}"
            health = await self._drive(self._job(traffic, salt), text, records, texts, plan.workers)
        finally:
            if records:
                record = run_record(
                    traffic,
                    architecture=mode,
                    mode=mode,
                    block=block,
                    order=order,
                    salt=salt,
                    started=started,
                    records=self._counted(records, texts),
                    health=health,
                    overhead=self._prompts.first_overhead,
                )
                self.runs.append(record)
                answered = [(each, said) for each, said in zip(records, texts, strict=True) if each.ok]
                for each, said in answered[: plan.show_responses]:
                    self._display.say(shown(f"turn {each.turn} of {each.conversation}", said))
                for reason in record.invalid_reasons:
                    self._display.say(f"INVALID: {reason}")

    def _job(self, traffic: TrafficSpec, salt: str) -> Job:
        plan = self.plan
        return Job(
            url=plan.url,
            model=self._model.id,
            traffic=traffic,
            salt=salt,
            tokens=TokenRange.for_vocabulary(self._model.vocab_size),
            prompts=self._prompts,
            headers=plan.headers,
            timeout_s=plan.timeout_s,
            idle_timeout_s=plan.idle_timeout_s,
            keep_text=self._tokenizer is not None or plan.show_responses > 0,
        )

    async def _drive(
        self, job: Job, text: str, records: list[RequestRecord], texts: list[str], workers: int
    ) -> ClientHealth:
        """Do a job, in this process or in several; `records` and `texts` get what is over as soon as it is."""
        tally = Tally()
        total = job.traffic.requests or None

        def keep(record: RequestRecord, said: str) -> None:
            records.append(record)
            texts.append(said)

        with self._display.running(text, total, tally):
            if workers > 1:
                shared = await Children(job, workers, keep, tally).run(LEAD_NS)
                return judge(records, shared, closed=job.traffic.concurrency > 0)
            talks = prepare(job)
            with quiet_memory():
                origin_ns = perf_counter_ns() + LEAD_NS

                def on_result(result: RequestResult) -> None:
                    keep(result.record(origin_ns), result.text if job.keep_text else "")

                vitals = await run_job(job, talks, origin_ns, on_result, tally)
            return judge(records, (vitals,), closed=job.traffic.concurrency > 0)

    def _counted(self, records: Sequence[RequestRecord], texts: Sequence[str]) -> list[RequestRecord]:
        """Count the answers' texts with the tokeniser that was named, if one was."""
        if self._tokenizer is None:
            return list(records)
        tokenizer = self._tokenizer
        return [
            replace(record, retokenized_tokens=len(tokenizer.encode(text)) if record.ok else None)
            for record, text in zip(records, texts, strict=True)
        ]

    def results(self, *, stopped_by: str = "") -> Results:
        """Return the document of what was measured so far; `stopped_by` says what kept it from being all."""
        runs = tuple(self.runs)
        sent = traffic_record(self.plan.traffic.at(self.plan.load_kind, self.plan.loads[0]), self.plan.scale)
        sent = sent.with_slo(self.plan.slo)
        stopped = (f"Stopped early by {stopped_by}: only what was measured until then is here.",) if stopped_by else ()
        unknown = (
            f"its router counts {self._devices} ranks, taken for devices; its other load is not known here"
            if self._devices
            else "its devices and its other load are not known here"
        )
        return Results(
            kind="bench",
            created_at=self._created_at.isoformat(timespec="seconds"),
            command=self._command,
            versions=installed_versions(),
            machine=this_machine(),
            model=self._model.id,
            seed=self.plan.traffic.seed,
            traffics=(sent,),
            architectures=tuple(
                ArchitectureRecord(mode, mode, "", {}, self._devices or 1, {}, {}, self.plan.url)
                for mode in dict.fromkeys(run.mode for run in runs)
            ),
            runs=runs,
            summaries=summarise(runs, {run.mode: self._devices or 1 for run in runs}),
            verdicts=(),
            answers=None,
            notes=(
                f"Measured against {self.plan.url}; {unknown}.",
                *self.notes,
                *unsteady_notes(self.plan.traffic.ramp_s, runs),
                *stopped,
            ),
            interrupted=bool(stopped_by),
        )


def require_room(model: ServedModel, traffic: TrafficSpec) -> None:
    """Raise UsageError when a conversation outgrows what the model takes."""
    if model.max_model_len is not None and traffic.longest > model.max_model_len:
        raise UsageError(
            f"conversations grow to {traffic.longest} tokens, {model.id} takes {model.max_model_len}: "
            f"{shorter(traffic)}"
        )


def _form(plan: Plan) -> PromptForm | None:
    """Return the form to use, None to find it out. Raises UsageError where the traffic can't have the one asked for."""
    needed = plan.traffic.needed_form
    if needed is PromptForm.TOKENS or plan.form is PromptForm.CHAT:
        return plan.form
    dataset = plan.traffic.dataset
    plain = dataset is not None and not any(script.turns[0].messages for script in dataset.scripts)
    if plan.form is None:
        return needed
    if plan.form is PromptForm.TEXT and plain:
        return plan.form
    raise UsageError(f"--prompt-format {plan.form}: pictures and chat messages go as chat, real texts as text or chat")


def _tokenizer(plan: Plan) -> Tokenizer | None:
    return None if plan.tokenizer is None else load_tokenizer(plan.tokenizer)
