"""What one benchmark does: which loads, how often, and how requests are written."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tercet.bench.job import Header
from tercet.bench.tally import Tally
from tercet.core.errors import UsageError
from tercet.results.slo import Slo
from tercet.traffic.prompts import PromptForm
from tercet.traffic.spec import LoadKind, TrafficSpec

MAX_WORKERS = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """Every load of `loads`, `runs` times, against the server at `url`; `traffic` is sent under each.

    `scale` is for the record: the workload is scaled already. `model` "" asks for the first that the server lists.
    `salt` sets the prompts apart from those the server saw before. `form` None is found out. `exact` asks for answers
    of exactly the wanted length. `warmup` requests go ahead, unmeasured. `workers` processes share each load.
    `tokenizer` is a model folder to count the answers' texts with, after each run. So many answers of each run are
    shown as `show_responses` says.
    """

    url: str
    traffic: TrafficSpec
    load_kind: LoadKind
    loads: tuple[float, ...]
    salt: str
    runs: int = 1
    warmup: int = 0
    workers: int = 1
    scale: float = 1.0
    model: str = ""
    form: PromptForm | None = None
    exact: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)
    headers: tuple[Header, ...] = ()
    reset_caches: bool = False
    timeout_s: float = 600.0
    idle_timeout_s: float = 60.0
    tokenizer: Path | None = None
    slo: Slo | None = None
    show_responses: int = 0

    def __post_init__(self) -> None:
        """Refuse what can't be done. Raises UsageError."""
        if not self.loads or len(set(self.loads)) < len(self.loads):
            raise UsageError(f"--{self.load_kind} needs one or more different loads, for instance 1,2,4")
        for load in self.loads:
            self.traffic.at(self.load_kind, load)  # the last one, too, is refused before the first is measured
        if self.runs < 1:
            raise UsageError(f"--runs {self.runs} is out of range: give 1 or more")
        if self.warmup < 0:
            raise UsageError(f"--warmup {self.warmup} is out of range: give 0 or more")
        if not 1 <= self.workers <= MAX_WORKERS:
            raise UsageError(f"--workers {self.workers} is out of range: give 1 to {MAX_WORKERS}")
        if self.timeout_s <= 0 or self.idle_timeout_s <= 0:
            raise UsageError("--timeout and --idle-timeout are seconds above 0")


class Display(Protocol):
    """Shows a person what is happening; `tercet.report.live.LoadView` is one."""

    def say(self, text: str) -> None:
        """Tell one line."""

    def running(self, text: str, total: int | None, tally: Tally) -> AbstractContextManager[None]:
        """Enter to show how far a load is: `tally` of `total` requests (None: nobody knows)."""
