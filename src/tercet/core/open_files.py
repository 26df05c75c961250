"""How many files a process may have open: each connection is one."""

from __future__ import annotations

import errno
import resource
from contextlib import suppress

WANTED = 65_536
RESERVED = 128
"""For all but connections: logs, libraries, sockets of its own."""
FEWEST = 16
OWN_LACK = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What keeps a connection from being made that is not the other side's fault."""


def allow_open_files() -> None:
    """Let this process, and those that it starts, open as many files as they need, if the hard limit allows it. The
    soft limit is 1,024 on most systems, for the sake of old programs, and would be reached by 400 clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # as some sandboxes have it: less is what there was before
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def room_for_connections(files_each: int) -> int:
    """Return how many connections this process has room for that need so many files each."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = WANTED if soft == resource.RLIM_INFINITY else soft
    return max(FEWEST, (files - RESERVED) // files_each)
