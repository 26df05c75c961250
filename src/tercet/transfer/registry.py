"""The known transports, best first. A new one is a file of its own and one entry here."""

from __future__ import annotations

from collections.abc import Sequence

from tercet.core.errors import UsageError
from tercet.transfer.shm import SHM
from tercet.transfer.tcp import TCP
from tercet.transfer.transport import Transport

TRANSPORTS: tuple[Transport, ...] = (SHM, TCP)
AUTO = "auto"


def chosen(names: Sequence[str]) -> tuple[Transport, ...]:
    """Return the transports called `names`, in that order; "auto" means all. Raises UsageError for unknown ones."""
    known = {transport.name: transport for transport in TRANSPORTS}
    found: dict[str, Transport] = {}
    for name in names:
        if name == AUTO:
            found |= {other: transport for other, transport in known.items() if other not in found}
        elif name in known:
            found.setdefault(name, known[name])
        else:
            raise UsageError(f"unknown transport {name!r}: choose {AUTO}, {' or '.join(known)}")
    if not found:
        raise UsageError(f"no transport given: choose {AUTO}, {' or '.join(known)}")
    return tuple(found.values())
