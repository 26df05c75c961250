"""What is simulated: workers, what each is made of, and how requests are routed through them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from tercet.core.errors import UsageError
from tercet.core.stage import Mode, Stage, role_letter
from tercet.core.topology import Topology, WorkerSpec, default_mode, parse_short_form, require_stages, with_sight
from tercet.engine.scheduler import SchedulerConfig
from tercet.latency.oracle import ChosenOracle
from tercet.latency.stack import StackConstants
from tercet.routing.policy import Policy

BLOCK_SIZE = 16
MAX_MODEL_LEN = 131_072
LEASE_S = 1e9
"""Whoever waits for a ticket's KV renews its lease: it never ends by itself."""
EMBEDDING_TOKENS = 1 << 20


@dataclass(frozen=True, slots=True)
class EngineCaps:
    """Limits of one rank's engine; the defaults are vLLM's for serving.

    `kv_blocks` 0 takes what the oracle says that fits. `embedding_tokens` bounds the embeddings that it keeps of
    pictures, in tokens; 0 keeps none: every picture is fetched and encoded each time.
    """

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    max_model_len: int = MAX_MODEL_LEN
    block_size: int = BLOCK_SIZE
    kv_blocks: int = 0
    embedding_tokens: int = EMBEDDING_TOKENS

    def scheduler(self, capacity: int) -> SchedulerConfig:
        """Return the scheduler's settings for a device that holds `capacity` tokens of KV."""
        return SchedulerConfig(
            num_blocks=self.kv_blocks or max(capacity // self.block_size, 1),
            block_size=self.block_size,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_model_len=self.max_model_len,
            lease_s=LEASE_S,
        )


@dataclass(frozen=True, slots=True)
class WorkerPool:
    """`count` equal workers of the same stages, each of `ranks` ranks; `device` is one rank, `gpus` how many GPUs that
    is (its tensor parallelism)."""

    stages: frozenset[Stage]
    device: ChosenOracle
    count: int = 1
    ranks: int = 1
    gpus: int = 1
    caps: EngineCaps = field(default_factory=EngineCaps)

    @property
    def letter(self) -> str:
        """The role's letter: E, P, D or A."""
        return role_letter(self.stages)


@dataclass(frozen=True, slots=True)
class FleetSpec:
    """Everything about the serving side of a simulation.

    `stack` is what the real servers add to their devices' time (and the client's pool of connections). `policy` holds
    balancer, ppd threshold and fallbacks, as the router has them. `link_bytes_s` moves KV from one rank to another, in
    each direction; None takes what the devices' GPUs have. `max_unaccepted_handoffs` is the router's setting.
    """

    pools: tuple[WorkerPool, ...]
    mode: Mode
    stack: StackConstants = field(default_factory=StackConstants)
    policy: Policy = field(default_factory=Policy)
    link_bytes_s: float | None = None
    max_unaccepted_handoffs: int = 128

    def __post_init__(self) -> None:
        """Refuse what can't run. Raises UsageError."""
        for pool in self.pools:
            if pool.count < 1 or pool.ranks < 1:
                raise UsageError(f"a pool of {pool.count} workers of {pool.ranks} ranks can't serve")
        if self.link_bytes_s is not None and not self.link_bytes_s > 0:
            raise UsageError(f"a link of {self.link_bytes_s:g} bytes a second moves nothing")
        require_stages(self.mode, self.workers)

    @property
    def workers(self) -> tuple[WorkerSpec, ...]:
        """One entry a worker, named as `tercet serve` names them."""
        counts: dict[str, int] = {}
        found = []
        for pool in self.pools:
            for _ in range(pool.count):
                number = counts.get(pool.letter, 0)
                counts[pool.letter] = number + 1
                found.append(WorkerSpec(f"{pool.letter}{number}", pool.stages, pool.ranks))
        return tuple(found)

    @property
    def gpus(self) -> int:
        """All GPUs together."""
        return sum(pool.count * pool.ranks * pool.gpus for pool in self.pools)

    @property
    def short_form(self) -> str:
        """Return for instance 2E1P1D."""
        return "".join(
            f"{sum(pool.count for pool in self.pools if pool.letter == letter)}{letter}"
            for letter in "EPDA"
            if any(pool.letter == letter for pool in self.pools)
        )

    def but(self, **changes: object) -> FleetSpec:
        """Return the same fleet with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class RankSpec:
    """What each rank of a worker is: a device, of so many `gpus`, and its engine's limits."""

    device: ChosenOracle
    gpus: int = 1
    caps: EngineCaps = field(default_factory=EngineCaps)


def fleet_of(
    workers: str | Iterable[WorkerSpec],
    device: ChosenOracle,
    *,
    mode: Mode | None = None,
    stack: StackConstants | None = None,
    caps: EngineCaps | None = None,
    policy: Policy | None = None,
    gpus: int = 1,
    link_bytes_s: float | None = None,
) -> FleetSpec:
    """Return the fleet of a short form such as `1P1D` or of a topology's workers, all ranks of the same device.

    Where the device sees (`image_tokens`), workers that prefill also encode unless there are encode workers. `mode`
    None takes the one that fits. Raises UsageError.
    """
    specs = parse_short_form(workers) if isinstance(workers, str) else tuple(workers)
    rank = RankSpec(device, gpus, caps or EngineCaps())
    pools = _pools(specs, {spec.name: rank for spec in specs})
    return FleetSpec(
        pools, mode or default_mode(specs), stack or StackConstants(), policy or Policy(), link_bytes_s=link_bytes_s
    )


def fleet_from_topology(
    topology: Topology, ranks: Mapping[str, RankSpec], *, stack: StackConstants | None = None
) -> FleetSpec:
    """Return the fleet that a topology file describes; `ranks` says by name what each worker's ranks are, in one object
    for those that are alike. Raises UsageError."""
    router = topology.router
    policy = Policy(
        router.balancer,
        router.ppd_threshold,
        router.prefill_fallback == "decode",
        encode_locally=router.encode_fallback == "local",
        hybrid=router.hybrid,
    )
    return FleetSpec(_pools(topology.workers, ranks), topology.mode, stack or StackConstants(), policy)


def _pools(specs: tuple[WorkerSpec, ...], ranks: Mapping[str, RankSpec]) -> tuple[WorkerPool, ...]:
    """Return the workers, those that follow one another and are alike in one pool."""
    if any(rank.device.image_tokens for rank in ranks.values()):
        specs = with_sight(specs)
    pools: list[WorkerPool] = []
    last: RankSpec | None = None
    for spec in specs:
        rank = ranks[spec.name]
        if rank is last and (pools[-1].stages, pools[-1].ranks) == (spec.stages, spec.ranks):
            pools[-1] = replace(pools[-1], count=pools[-1].count + 1)
        else:
            pools.append(WorkerPool(spec.stages, rank.device, 1, spec.ranks, rank.gpus, rank.caps))
        last = rank
    return tuple(pools)
