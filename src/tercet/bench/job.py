"""One run, described so that any process can do its share of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from tercet.bench.drive import send_all
from tercet.bench.health import Vitals
from tercet.bench.load import OnResult
from tercet.bench.tally import Tally
from tercet.traffic.conversation import TokenRange
from tercet.traffic.prompts import Prompts
from tercet.traffic.spec import Talk, TrafficSpec, iter_conversations


@dataclass(frozen=True, slots=True)
class Header:
    """One HTTP header that every request carries."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Job:
    """One run against one server: everything but when it starts. `keep_text`: answers' texts are wanted too."""

    url: str
    model: str
    traffic: TrafficSpec
    salt: str
    tokens: TokenRange
    prompts: Prompts
    headers: tuple[Header, ...] = ()
    timeout_s: float = 600.0
    idle_timeout_s: float = 60.0
    keep_text: bool = False

    def talks(self, share: int, shares: int) -> Iterator[Talk]:
        """Return every `shares`-th conversation from number `share` on: together all, each once."""
        every = iter_conversations(self.traffic, salt=self.salt, tokens=self.tokens, prompts=self.prompts)
        return islice(every, share, None, shares)

    def concurrency(self, share: int, shares: int) -> int | None:
        """Return how many conversations at a time one share keeps under way; None in an open loop."""
        whole, rest = divmod(self.traffic.concurrency, shares)
        return whole + (share < rest) if self.traffic.concurrency else None


def prepare(job: Job, *, share: int = 0, shares: int = 1) -> Iterable[Talk]:
    """Return one share's conversations, made before the run wherever they end: making them must not disturb it."""
    endless = job.traffic.concurrency and not job.traffic.num_conversations
    talks = job.talks(share, shares)
    return talks if endless else list(talks)


async def run_job(
    job: Job,
    talks: Iterable[Talk],
    origin_ns: int,
    on_result: OnResult,
    tally: Tally,
    *,
    share: int = 0,
    shares: int = 1,
) -> Vitals:
    """Do one share of a job, whose `talks` were prepared, from `origin_ns` on. Cancelled, it cuts what is under way."""
    closed = job.traffic.concurrency > 0
    return await send_all(
        job.url,
        talks,
        model=job.model,
        origin_ns=origin_ns,
        on_result=on_result,
        cache_salt=None,
        concurrency=job.concurrency(share, shares),
        ramp_s=job.traffic.ramp_s if closed else 0.0,
        until_s=job.traffic.duration_s if closed else None,
        headers=tuple((header.name, header.value) for header in job.headers),
        timeout_s=job.timeout_s,
        idle_timeout_s=job.idle_timeout_s,
        tally=tally,
    )
