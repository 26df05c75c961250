"""What to compare: architectures, workloads, loads, and by what rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tercet.compare.architecture import Architecture
from tercet.compare.metrics import DEFAULT_PRIMARY, primary_metrics
from tercet.core.errors import UsageError
from tercet.core.topology import Topology
from tercet.results.document import Method
from tercet.results.slo import Slo
from tercet.traffic.spec import LoadKind, TrafficSpec

DEFAULT_BLOCKS = 5
DEFAULT_TIE_MARGIN = 0.03
TURN = "turn"
WARM = "warm"


@dataclass(frozen=True, slots=True)
class CompareSpec:
    """One comparison: every architecture under every traffic at every load, `blocks` times.

    `scale` is for the record: the workloads of `traffics` are scaled already. `keep` "warm" keeps every topology
    running beside the others, "turn" one at a time. `probe`: measure how prefill disturbs decode, too. Of
    the first block, so many answers are shown as `show_responses` says. `slo` is what goodput asks for. `headers` are
    sent to the servers that are named by URL, and kept nowhere. Comparisons of one `salt` (and seed) send the same
    conversations.
    """

    architectures: tuple[Architecture, ...]
    traffics: tuple[TrafficSpec, ...]
    load_kind: LoadKind
    loads: tuple[float, ...]
    scale: float = 1.0
    blocks: int = DEFAULT_BLOCKS
    primary: tuple[str, ...] = DEFAULT_PRIMARY
    tie_margin: float = DEFAULT_TIE_MARGIN
    keep: str = TURN
    allow_unequal: bool = False
    probe: bool = True
    show_responses: int = 0
    slo: Slo | None = None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    salt: str = ""

    def __post_init__(self) -> None:
        """Refuse what can't be compared. Raises UsageError."""
        if not self.architectures:
            raise UsageError("nothing to compare: name --modes, for instance replicated,pd,ppd, or some --arch")
        _different([each.label for each in self.architectures], "--modes and --arch name an architecture twice: {}")
        _different([traffic.name for traffic in self.traffics], "--workload names one twice: {}")
        _different([f"{load:g}" for load in self.loads], "--qps and --concurrency need different loads, not twice {}")
        if not self.loads or not self.traffics:
            raise UsageError("a comparison needs a workload and a load, for instance --workload W1 --qps 0.5,1")
        if not 1 <= self.blocks <= 1000:
            raise UsageError(f"--blocks {self.blocks} is out of range: 3 or more give verdicts, 5 is the default")
        if not 0 <= self.tie_margin < 1:
            raise UsageError(f"--tie-margin {self.tie_margin:g} is out of range: 0.03 calls up to three percent a tie")
        if self.keep not in (TURN, WARM):
            raise UsageError(f"--keep {self.keep!r} is unknown: choose {TURN} or {WARM}")
        if self.headers and not any(each.url for each in self.architectures):
            raise UsageError(
                "--api-key and --header are for servers that --arch names by URL: those that are started here need none"
            )
        primary_metrics(self.primary, self.traffics[0].turns, self.slo)
        for each in self.architectures:
            self._check(each)

    def _check(self, each: Architecture) -> None:
        topology = each.topology
        if topology is None:
            return
        longest = max(traffic.longest for traffic in self.traffics)
        if longest > topology.engine.max_model_len:
            raise UsageError(
                f"the --max-model-len {topology.engine.max_model_len} of {each.label} is too short: conversations grow "
                f"to {longest} tokens"
            )
        first = next(other.topology for other in self.architectures if other.topology is not None)
        if _model(topology) != _model(first):
            raise UsageError(
                f"the architectures serve different models ({_model(first)} and {_model(topology)}): give one --model"
            )

    @property
    def model(self) -> str | None:
        """What results call the model; None when only the servers know."""
        return next((_model(each.topology) for each in self.architectures if each.topology is not None), None)

    @property
    def seed(self) -> int:
        """The seed of all conversations, arrivals and orders."""
        return self.traffics[0].seed

    @property
    def method(self) -> Method:
        """How its results are judged."""
        return Method(self.blocks, self.primary, self.tie_margin, self.keep, self.allow_unequal)

    def cells(self) -> Iterator[TrafficSpec]:
        """Yield every traffic at every load."""
        for traffic in self.traffics:
            for load in self.loads:
                yield traffic.at(self.load_kind, load)


def _model(topology: Topology) -> str:
    shape = topology.engine.random_weights
    return topology.model if shape is None else f"random weights of {shape}"


def _different(names: Sequence[str], complaint: str) -> None:
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise UsageError(complaint.format(", ".join(twice)))
