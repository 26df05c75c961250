"""Fuzz one parser: `python -m tests.fuzz requests 300` for five minutes; `answers` is the other.

Further arguments go to libFuzzer (`-seed=1`, a folder that collects a corpus). Prints the number of executions; an
input that shows a fault is left in `crash-...`, to be run again as the last argument.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["tercet.http"]):
    from tests.fuzz.corpus import seeds
    from tests.fuzz.targets import TARGETS


def main(arguments: list[str]) -> None:
    """Fuzz until the time is over or a fault shows."""
    if len(arguments) < 2 or arguments[0] not in TARGETS or not arguments[1].isdigit():
        sys.exit(f"usage: python -m tests.fuzz {'|'.join(TARGETS)} SECONDS [libFuzzer's arguments]")
    name, seconds, *rest = arguments
    with tempfile.TemporaryDirectory() as folder:
        for i, seed in enumerate(seeds(name)):
            Path(folder, f"{i:03}").write_bytes(seed)
        argv = [sys.argv[0], f"-max_total_time={seconds}", "-max_len=4096", "-verbosity=1", *rest, folder]
        atheris.Setup(argv, TARGETS[name])
        atheris.Fuzz()  # ends the process


main(sys.argv[1:])
