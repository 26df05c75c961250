"""What the optional transports need of this machine, found out without loading any of it."""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path

from tercet.core.errors import MissingExtraError, UsageError

MOONCAKE_LIBRARIES = {
    "libibverbs.so.1": "libibverbs1",
    "librdmacm.so.1": "librdmacm1",
    "libnuma.so.1": "libnuma1",
}
"""What mooncake's wheel links to and does not bring, and Debian's package of each."""

RDMA_DEVICES = Path("/sys/class/infiniband")


def require(name: str) -> None:
    """Raise UsageError, saying what to install, when transport `name` cannot run here. The others always can."""
    if name in ("nixl", "mooncake") and find_spec(name) is None:
        raise MissingExtraError(name, f"transport {name}")
    if name == "mooncake":
        missing = [package for library, package in MOONCAKE_LIBRARIES.items() if not _loads(library)]
        if missing:
            raise UsageError(f"transport mooncake needs system libraries: apt-get install {' '.join(missing)}")


def runs_here(name: str) -> bool:
    """Return whether transport `name` can run here."""
    try:
        require(name)
    except UsageError:
        return False
    return True


def has_rdma() -> bool:
    """Return whether this machine has a device that reads another machine's memory."""
    return RDMA_DEVICES.is_dir() and any(RDMA_DEVICES.iterdir())


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a server bound to `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
