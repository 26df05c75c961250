"""The shared segments of a deployment whose processes are being killed."""

from __future__ import annotations

from tercet.transfer.pool import SHM_DIR, sweep


def sweep_all(topology_id: str) -> bool:
    """Remove the segments that no living process holds; return whether none is left.

    A killed process holds its segment until the kernel has torn its memory down: ask again until this is true.
    """
    sweep(topology_id)
    return not any(SHM_DIR.glob(f"tercet.{topology_id}.*"))
