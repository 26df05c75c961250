"""Becomes another program that the kernel kills when the launcher dies.

Run as `python -I -S child.py LAUNCHER_PID PROGRAM ARG...`. Standard library only, so that it costs some ten ms.
The death signal survives exec. It is tied to the launcher's *thread* that started this process: its event loop's.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Ask for the death signal, then become the program. Ends with 1 when the launcher is dead already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != int(argv[1]):
        sys.exit(1)
    os.execvp(argv[2], argv[2:])


if __name__ == "__main__":
    main(sys.argv)
