"""One rank on a virtual clock: the real scheduler, and an oracle's time for every step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Protocol

from tercet.core.sampling import SampledToken
from tercet.core.stage import Stage
from tercet.engine.limits import SchedulerConfig
from tercet.engine.scheduler import Scheduler
from tercet.engine.sequence import Batch, Fetch, Output, Sequence, State
from tercet.engine.virtual_executor import step_ms
from tercet.latency.oracle import LatencyOracle
from tercet.sim.clock import Clock
from tercet.sim.encoding import EncodeQueue
from tercet.sim.token_times import TokenTimes

TOKEN = SampledToken(0)
"""What every step samples: lengths decide, not tokens."""

Watch = Callable[[float, Batch], None]
"""Told (seconds, batch) at the beginning of every step."""


class Job(Protocol):
    """Whoever waits for a sequence; told as soon as something happened to it."""

    def first(self, sequence: Sequence) -> None:
        """Its first token is out, and more are to come."""

    def held(self, sequence: Sequence) -> None:
        """It is prefilled, and its KV kept for another engine."""

    def ended(self, sequence: Sequence) -> None:
        """Its last token is out."""


class Engine:
    """A rank: steps while there is something to do; decode steps without events in between are committed together.

    `fetch_s(sequence)` answers how long a ticket's KV is on its way, before the engine takes it in, which stalls it for
    `stall_s(sequence)`, and `reachable(sequence)` whether it could be read. `watch` sees every step, and has
    every step be a single one; so does `stretch()`, which answers how much longer a step takes that begins now.
    """

    def __init__(
        self,
        clock: Clock,
        oracle: LatencyOracle,
        config: SchedulerConfig,
        *,
        fetch_s: Callable[[Sequence], float],
        reachable: Callable[[Sequence], bool],
        encoding: EncodeQueue | None = None,
        stall_s: Callable[[Sequence], float] = lambda _: 0.0,
        times: TokenTimes | None = None,
        watch: Watch | None = None,
        stretch: Callable[[], float] | None = None,
    ) -> None:
        self.scheduler = Scheduler(config)
        self.busy_s = dict.fromkeys(Stage, 0.0)
        self.steps = self.leapt = 0
        self.encoding = encoding
        self.times = times
        self.alive = True
        self._clock, self._oracle, self._stall_s, self._watch = clock, oracle, stall_s, watch
        self._fetch_s, self._reachable = fetch_s, reachable
        self._stretch = stretch
        self._jobs: dict[str, Job] = {}
        self._arrived: deque[Fetch] = deque()
        self._busy = self._telling = False
        self._leap: tuple[float, int, float, int, float] | None = None
        self._turn = 0
        """Counts leaps: the end of one that was broken off is recognised by its number."""

    @property
    def busy(self) -> bool:
        """True while it computes."""
        return self._busy

    @property
    def decoding(self) -> bool:
        """True while any sequence is decoding."""
        return any(sequence.output_len > 0 for sequence in self.scheduler.running)

    def add(self, sequence: Sequence, job: Job) -> None:
        """Queue a sequence. Raises RequestError when it can never fit."""
        self._settle()
        self.scheduler.add(sequence)
        self._jobs[sequence.id] = job
        self._kick()

    def release(self, sequence_id: str) -> None:
        """Let go of what is held for another engine."""
        if self.alive:
            self._settle()
            self.scheduler.release(sequence_id)
            self._kick()

    def cancel(self, sequence_id: str) -> None:
        """Forget a sequence, whatever its state."""
        if self.alive:
            self._settle()
            self._jobs.pop(sequence_id, None)
            self.scheduler.cancel(sequence_id)
            self._kick()

    def encode(self, key: str | None, tokens: int, done: Callable[[], None]) -> None:
        """Queue a picture; `done` is called when its embeddings are there."""
        assert self.encoding is not None
        if self.encoding.ask(key, tokens, done):
            self._settle()
            self._kick()

    def die(self) -> None:
        """Lose everything at once; who waits for it is not told."""
        self.alive, self._leap = False, None
        self._turn += 1
        self._jobs.clear()

    # --- steps ---

    def _kick(self) -> None:
        """Begin whatever is next, unless something is under way."""
        if self._busy or self._telling or not self.alive:
            return
        while self._arrived:
            stall_s = self._stall_s(self._arrived[0].sequence)
            if stall_s:
                self._busy = True
                self._clock.after(stall_s, self._stalled)
                return
            self._take(self._arrived.popleft())
        now = self._clock.now
        if self.encoding is not None and (batch := self.encoding.begin(bool(self._jobs))):
            seconds = self._stretched(self._oracle.encode(batch) / 1e3)
            self._busy = True
            self.busy_s[Stage.ENCODE] += seconds
            self._clock.after(seconds, self._encoded)
            return
        scheduler = self.scheduler
        if self._watch is None and self._stretch is None and (steps := scheduler.uneventful_steps()) > 1:
            count, total = scheduler.decodes
            context = total / count
            seconds = self._oracle.decode_run(count, context, steps) / 1e3
            self._busy = True
            self._leap = (now, count, context, steps, seconds)
            self._turn += 1
            self._clock.after(seconds, self._leap_over, self._turn)
            return
        self._schedule(now)

    def _schedule(self, now: float) -> None:
        scheduler = self.scheduler
        plan = scheduler.schedule_round(now) if self._watch is None else scheduler.schedule(now)
        for fetch in plan.fetches:
            self._clock.at(now + self._fetch_s(fetch.sequence), self._fetched, fetch)
        if plan.batch.num_tokens:
            self._step(plan.batch, now, self._stretched(step_ms(self._oracle, plan.batch) / 1e3))

    def _stretched(self, seconds: float) -> float:
        return seconds if self._stretch is None else seconds * self._stretch()

    def _step(self, batch: Batch, now: float, seconds: float) -> None:
        self._busy = True
        self.steps += 1
        if self._watch is not None:
            self._watch(now, batch)
        self._clock.at(max(now + seconds, self._clock.now), self._stepped, batch, seconds)

    def _stepped(self, batch: Batch, seconds: float) -> None:
        if not self.alive:
            return
        self._busy = False
        self._count(batch, seconds)
        if self.times is not None:
            self.times.step(self._clock.now)
        sampled = [TOKEN if chunk.samples else None for chunk in batch.chunks]
        self._tell(self.scheduler.step_done(batch, sampled, self._clock.now))
        self._kick()

    def _count(self, batch: Batch, seconds: float) -> None:
        prompt, total = 0, batch.decodes
        for _, _, length, _ in batch.chunks:
            total += length
            if length > 1:
                prompt += length
        self.busy_s[Stage.PREFILL] += seconds * prompt / total
        self.busy_s[Stage.DECODE] += seconds * (total - prompt) / total

    # --- leaps ---

    def _leap_over(self, turn: int) -> None:
        if turn != self._turn or self._leap is None:
            return
        start, _, _, steps, seconds = self._leap
        self._leap = None
        self._busy = False
        self._commit(start, steps, seconds)
        self._kick()

    def _settle(self) -> None:
        """Break a leap off: commit the steps that are over, and make the one under way an ordinary one."""
        if self._leap is None:
            return
        start, count, context, steps, seconds = self._leap
        self._leap = None
        self._turn += 1
        run_ms = self._oracle.decode_run
        elapsed_ms = (self._clock.now - start) * 1e3
        done = min(int(steps * elapsed_ms / (seconds * 1e3)), steps - 1) if seconds > 0 else steps - 1
        ran = run_ms(count, context, done) if done else 0.0
        while done and ran > elapsed_ms:
            done -= 1
            ran = run_ms(count, context, done) if done else 0.0
        after = run_ms(count, context, done + 1)
        while done < steps - 1 and after <= elapsed_ms:
            done, ran = done + 1, after
            after = run_ms(count, context, done + 1)
        if done:
            self._commit(start, done, ran / 1e3)
        began = start + ran / 1e3
        self._step(self.scheduler.schedule_round(began).batch, began, (after - ran) / 1e3)

    def _commit(self, start: float, steps: int, seconds: float) -> None:
        self.scheduler.advance(steps)
        self.steps += steps
        self.leapt += steps
        self.busy_s[Stage.DECODE] += seconds
        if self.times is not None:
            self.times.steps(start, steps, seconds)

    # --- what comes from elsewhere ---

    def _fetched(self, fetch: Fetch) -> None:
        if not self.alive:
            return
        self._settle()
        self._arrived.append(fetch)
        self._kick()

    def _stalled(self) -> None:
        if not self.alive:
            return
        self._busy = False
        self._take(self._arrived.popleft())
        self._kick()

    def _take(self, fetch: Fetch) -> None:
        sequence = fetch.sequence
        scheduler = self.scheduler
        told = scheduler.remote_ready if self._reachable(sequence) else scheduler.remote_failed
        self._tell(told(sequence.id, self._clock.now))

    def _encoded(self) -> None:
        if not self.alive:
            return
        self._busy = False
        assert self.encoding is not None
        self._telling = True
        for done in self.encoding.end():
            done()
        self._telling = False
        self._kick()

    def _tell(self, outputs: Seq[Output]) -> None:
        jobs = self._jobs
        self._telling = True  # what comes in meanwhile waits for the next step
        for sequence, _, reason in outputs:
            if reason is not None:
                job = jobs.pop(sequence.id, None)
                if job is not None:
                    job.ended(sequence)
            elif len(sequence.tokens) == sequence.prompt_len + 1:
                if sequence.state is State.HELD:
                    jobs.pop(sequence.id).held(sequence)
                else:
                    jobs[sequence.id].first(sequence)
        self._telling = False
