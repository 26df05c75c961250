"""The known transports, fastest first (benchmarks/transports). A new one is a file of its own and one entry here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tercet.core.errors import UsageError
from tercet.transfer.optional import has_rdma, is_loopback, require, runs_here
from tercet.transfer.shm import SHM
from tercet.transfer.tcp import TCP
from tercet.transfer.transport import Transport

AUTO = "auto"


def _nixl() -> Transport:
    from tercet.transfer.nixl import NIXL

    return NIXL


def _mooncake() -> Transport:
    from tercet.transfer.mooncake import MOONCAKE

    return MOONCAKE


_TRANSPORTS: dict[str, Callable[[], Transport]] = {
    "shm": lambda: SHM,
    "nixl": _nixl,
    "tcp": lambda: TCP,
    "mooncake": _mooncake,
}
NAMES = tuple(_TRANSPORTS)


def automatic(host: str) -> tuple[str, ...]:
    """Return what "auto" means for a worker bound to `host`, best first.

    A worker that only its own machine reaches needs no more than `shm`, and `tcp` for peers that see another /dev/shm.
    Elsewhere `nixl` comes in between where it is installed and there is RDMA for it: without, it is slower than `tcp`.
    Never `mooncake`: it opens a port to everybody that needs no secret.
    """
    if not is_loopback(host) and has_rdma() and runs_here("nixl"):
        return ("shm", "nixl", "tcp")
    return ("shm", "tcp")


def check(name: str) -> None:
    """Raise UsageError when no transport is called `name`, or when it cannot run on this machine."""
    if name != AUTO and name not in _TRANSPORTS:
        raise UsageError(f"unknown transport {name!r}: choose {AUTO}, {', '.join(NAMES[:-1])} or {NAMES[-1]}")
    require(name)


def chosen(names: Sequence[str], host: str) -> tuple[Transport, ...]:
    """Return the transports called `names`, in that order; "auto" as for `host`. Raises UsageError as `check`."""
    found: dict[str, Transport] = {}
    for name in names:
        for each in automatic(host) if name == AUTO else (name,):
            if each not in found:
                check(each)
                found[each] = _TRANSPORTS[each]()
    if not found:
        raise UsageError(f"no transport given: choose {AUTO} or {', '.join(NAMES)}")
    return tuple(found.values())
