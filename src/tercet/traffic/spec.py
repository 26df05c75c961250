"""One run's traffic, and the conversations it is made of."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import blake2b
from itertools import islice, repeat

from tercet.core.errors import UsageError
from tercet.traffic.arrivals import Arrivals, arrivals
from tercet.traffic.conversation import Conversation, Shared, TokenRange, TurnSpec
from tercet.traffic.pictures import PictureMaker
from tercet.traffic.prompts import PromptForm, Prompts
from tercet.traffic.reading import Reading
from tercet.traffic.scripts import BLOCK_TOKENS, Dataset, Script
from tercet.traffic.workload import Workload


class LoadKind(StrEnum):
    """What a load counts: turns a second (open loop), or conversations under way (closed loop)."""

    QPS = "qps"
    CONCURRENCY = "concurrency"


@dataclass(frozen=True, slots=True)
class TrafficSpec:
    """One run's traffic. `qps` counts turns: conversations arrive at qps / turns, so that turns flow at qps on average.
    A data set's conversations have turns of their own, `turns` at most: their mean counts then.

    (A conversation's later turns follow its own answers, so a slow server sees them later, never fewer of them.)
    `concurrency` above 0 makes the loop closed: so many conversations at a time, and `qps` counts for nothing.
    `num_requests` counts turns too; the last conversation is completed, so it is rounded up to whole conversations; 0
    is as many as start within `duration_s`. During `ramp_s` the load rises to its level. A `dataset` takes the place of
    the workload's lengths; with `Arrivals.TRACE` also of the rate, `speed` times as fast as its time stamps.
    """

    workload: Workload
    qps: float
    num_requests: int
    turns: int = 1
    think_s: float = 0.0
    arrivals: Arrivals = Arrivals.POISSON
    seed: int = 0
    concurrency: int = 0
    duration_s: float | None = None
    burstiness: float = 1.0
    ramp_s: float = 0.0
    speed: float = 1.0
    dataset: Dataset | None = None

    def __post_init__(self) -> None:
        """Refuse traffic that can't be sent. Raises UsageError."""
        if self.turns < 1:
            raise UsageError(f"--turns {self.turns} is out of range: a conversation has at least one turn")
        if self.duration_s is not None and not 0 < self.duration_s < math.inf:
            raise UsageError(f"--duration {self.duration_s:g} is out of range: give seconds above 0")
        if self.num_requests < 0 or not (self.num_requests or self.duration_s):
            raise UsageError(f"--num-requests {self.num_requests} is out of range: send at least one request")
        if not 0 <= self.think_s < math.inf:
            raise UsageError(f"--think {self.think_s} is out of range: a pause lasts 0 seconds or more")
        if self.concurrency < 0:
            raise UsageError(f"--concurrency {self.concurrency} is out of range: give 1 or more")
        if not self.concurrency and not 0 < self.qps < math.inf:
            raise UsageError(f"--qps {self.qps} is out of range: give a number above 0")
        if not 0 <= self.ramp_s < math.inf:
            raise UsageError(f"--ramp {self.ramp_s} is out of range: give 0 seconds or more")
        if not 0 < self.speed < math.inf:
            raise UsageError(f"--trace-speed {self.speed} is out of range: give a number above 0, where 1 is real time")
        if not 0 < self.burstiness < math.inf:
            raise UsageError(f"--burstiness {self.burstiness} is out of range: give a number above 0, 1 is Poisson")
        if self.burstiness != 1 and self.arrivals is not Arrivals.GAMMA:
            raise UsageError(f"--burstiness {self.burstiness:g} shapes gamma arrivals alone: add --arrivals gamma")
        if self.speed != 1 and self.arrivals is not Arrivals.TRACE:
            raise UsageError(f"--trace-speed {self.speed:g} is of a trace that is replayed by its time stamps, alone")
        if self.arrivals is Arrivals.TRACE and not (self.dataset and self.dataset.timed) and not self.concurrency:
            raise UsageError('--arrivals trace needs a --dataset whose every line has a "timestamp"')

    @property
    def load_kind(self) -> LoadKind:
        """What `load` counts."""
        return LoadKind.CONCURRENCY if self.concurrency else LoadKind.QPS

    @property
    def load(self) -> float:
        """The load's level."""
        return float(self.concurrency or self.qps)

    def at(self, kind: LoadKind, load: float) -> TrafficSpec:
        """Return the same traffic under another load."""
        if kind is LoadKind.CONCURRENCY:
            return replace(self, concurrency=int(load))
        return replace(self, concurrency=0, qps=load)

    @property
    def name(self) -> str:
        """What results call it: the workload, or the kind of its data set."""
        return self.workload.name if self.dataset is None else self.dataset.kind

    @property
    def shares_prefixes(self) -> bool:
        """True when first turns may find their prefix, or their pictures, in a cache that was empty before the run."""
        pictures = self.workload.pictures
        return (
            self.dataset is not None or self.workload.prefix_tokens > 0 or (pictures is not None and pictures.pool > 0)
        )

    @property
    def needed_form(self) -> PromptForm:
        """The form that prompts need: token ids have exact lengths, but pictures and real texts go into chats."""
        texts = self.dataset is not None and not all(script.made_up for script in self.dataset.scripts)
        return PromptForm.CHAT if texts or self.workload.pictures is not None else PromptForm.TOKENS

    @property
    def num_conversations(self) -> int:
        """Conversations in the run; 0 when only its duration bounds them."""
        if self.dataset is None:
            return -(-self.num_requests // self.turns)
        wanted, there = self.dataset.conversations_for(self.num_requests), len(self.dataset.scripts)
        once = self.dataset.kind == "trace" or (self.arrivals is Arrivals.TRACE and not self.concurrency)
        return min(wanted or there, there) if once else wanted

    @property
    def requests(self) -> int:
        """Turns of all conversations of the run; 0 when only its duration bounds them."""
        count = self.num_conversations
        return count * self.turns if self.dataset is None else self.dataset.turns_in(count)

    @property
    def mean_turns(self) -> float:
        """Turns of a conversation."""
        if self.dataset is None:
            return float(self.turns)
        sent = min(self.num_conversations or len(self.dataset.scripts), len(self.dataset.scripts))
        return self.dataset.turns_in(sent) / sent

    @property
    def most_pictures(self) -> int:
        """Return how many pictures a conversation brings at most."""
        if self.dataset is not None:
            return max(sum(turn.images for turn in script.turns) for script in self.dataset.scripts)
        return 0 if self.workload.pictures is None else self.workload.pictures.high

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence, as far as it is known: the last turn's prompt and answer."""
        if self.dataset is not None:
            return max(sum(t.input_tokens + t.output_tokens for t in s.turns) for s in self.dataset.scripts)
        return self.turns * (self.workload.input_tokens + self.workload.output_tokens)

    @property
    def longest_taken(self) -> int:
        """Tokens of the longest sequence, of real texts as many as they are taken for without a tokeniser."""
        if self.dataset is not None:
            return max(sum(t.new_tokens + t.output_tokens for t in s.turns) for s in self.dataset.scripts)
        return self.longest


def shorter(traffic: TrafficSpec) -> str:
    """Say how conversations that grow too long become shorter."""
    if traffic.dataset is not None:
        return "leave the longest conversations out of the data set"
    return "lower --turns, --scale or the workload"


Talk = Conversation | Reading
"""Either kind of conversation."""


def conversations(
    spec: TrafficSpec, *, salt: str, tokens: TokenRange, prompts: Prompts | None = None
) -> tuple[Talk, ...]:
    """Return a run's conversations in order of arrival. Equal arguments give equal conversations.

    `salt` names the run: another salt gives other tokens and other arrivals, so no run is served from another's cache.
    The number is bounded by `num_requests` or, in an open loop, by the duration. Raises UsageError.
    """
    return tuple(iter_conversations(spec, salt=salt, tokens=tokens, prompts=prompts))


def iter_conversations(
    spec: TrafficSpec, *, salt: str, tokens: TokenRange, prompts: Prompts | None = None
) -> Iterator[Talk]:
    """Yield them one by one: in a closed loop that only a duration bounds there is no end.

    `prompts` None: token ids, or chats where only those will do, to a server that takes Tercet's fields.
    """
    maker = _Maker(spec, salt, tokens, prompts or Prompts(spec.needed_form))
    made = (maker.conversation(i, start) for i, start in enumerate(_starts(spec, salt)))
    return islice(made, spec.num_conversations) if spec.num_conversations else made


def _starts(spec: TrafficSpec, salt: str) -> Iterator[float]:
    """Yield when conversations start. In a closed loop the arrival is when it may start at the earliest: at once."""
    if spec.concurrency:
        return repeat(0.0)
    if spec.arrivals is Arrivals.TRACE and spec.dataset is not None:
        starts = iter([(script.at_s or 0.0) / spec.speed for script in spec.dataset.scripts])
    else:
        key = _key(f"{spec.seed}\0{salt}")
        rate = spec.qps / spec.mean_turns
        starts = arrivals(spec.arrivals, rate, key, burstiness=spec.burstiness, ramp_s=spec.ramp_s)
    end = math.inf if spec.duration_s is None else spec.duration_s
    return _before(starts, end)


def _before(starts: Iterator[float], end: float) -> Iterator[float]:
    for start in starts:
        if start >= end:
            return
        yield start


class _Maker:
    """Makes conversation i of a run."""

    def __init__(self, spec: TrafficSpec, salt: str, tokens: TokenRange, prompts: Prompts) -> None:
        self._spec = spec
        self._salt = salt
        self._tokens = tokens
        self._prompts = prompts
        pictures = spec.workload.pictures
        if pictures is not None and prompts.form is not PromptForm.CHAT:
            raise UsageError("pictures need --prompt-format chat")
        self._pictures = pictures
        self._painter = PictureMaker(pictures.width, pictures.height) if pictures is not None else None

    def conversation(self, i: int, start: float) -> Talk:
        dataset = self._spec.dataset
        name = f"{self._salt}-c{i}"
        rng = random.Random(_key(f"{self._spec.seed}\0{self._salt}\0{i}"))
        if dataset is None:
            return self._drawn(i, name, start, rng)
        script = dataset.scripts[i % len(dataset.scripts)]
        return self._traced(name, start, script) if script.made_up else self._read(name, start, script)

    def _drawn(self, i: int, name: str, start: float, rng: random.Random) -> Conversation:
        workload = self._spec.workload
        turns = tuple(
            TurnSpec(workload.inputs.draw(rng), workload.outputs.draw(rng), self._spec.think_s)
            for _ in range(self._spec.turns)
        )
        group = f"group {i % workload.prefix_groups}"
        shared = (Shared(group, workload.prefix_tokens),) if workload.prefix_tokens else ()
        pictures = self._show(i, rng)
        return Conversation(
            name, self._spec.seed, self._salt, start, turns, self._tokens, self._prompts, shared, pictures
        )

    def _show(self, i: int, rng: random.Random) -> tuple[str, ...]:
        if self._pictures is None or self._painter is None:
            return ()
        number = rng.randint(self._pictures.low, self._pictures.high)
        if self._pictures.pool:
            offset = i * self._pictures.high
            names = [f"pool {(offset + k) % self._pictures.pool}" for k in range(number)]
        else:
            names = [f"{i} {k}" for k in range(number)]
        return tuple(self._painter.data_uri(f"{self._spec.seed}\0{self._salt}\0{name}") for name in names)

    def _traced(self, name: str, start: float, script: Script) -> Conversation:
        """Return a trace's request: blocks with equal hash ids hold equal tokens."""
        turns = tuple(TurnSpec(t.input_tokens, t.output_tokens, self._spec.think_s) for t in script.turns)
        left = script.turns[0].input_tokens
        shared = []
        for block in script.hash_ids:
            if left <= 0:
                break
            shared.append(Shared(f"block {block}", min(BLOCK_TOKENS, left)))
            left -= BLOCK_TOKENS
        return Conversation(name, self._spec.seed, self._salt, start, turns, self._tokens, self._prompts, tuple(shared))

    def _read(self, name: str, start: float, script: Script) -> Reading:
        turns = tuple(TurnSpec(0, turn.output_tokens, self._spec.think_s) for turn in script.turns)
        return Reading(name, self._salt, start, script, turns, self._prompts)


def _key(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
