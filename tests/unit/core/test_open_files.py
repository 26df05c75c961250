from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from tercet.core.open_files import FEWEST, RESERVED, WANTED, room_for_connections

SAY = """
import resource
from tercet.core.open_files import allow_open_files, room_for_connections
allow_open_files()
print(*resource.getrlimit(resource.RLIMIT_NOFILE), room_for_connections(3))
"""


def _said(soft: int, hard: int) -> list[int]:
    process = subprocess.run(
        [sys.executable, "-c", SAY],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
    )
    return [int(word) for word in process.stdout.split()]


def test_as_many_as_the_hard_limit_allows_and_never_fewer() -> None:
    assert _said(64, 500) == [500, 500, (500 - RESERVED) // 3]
    assert _said(500, 500)[:2] == [500, 500]
    assert _said(60, 60) == [60, 60, FEWEST]


def test_no_more_than_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert room_for_connections(1) == WANTED - RESERVED
