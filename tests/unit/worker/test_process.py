from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tercet.core.errors import UsageError
from tercet.worker.process import parse_device, quota

FIRST = min(os.sched_getaffinity(0))


def test_cores() -> None:
    assert parse_device(f"cpu:{FIRST}").cores == (FIRST,)
    assert parse_device(f"cpu:{FIRST}+{FIRST}").cores == (FIRST,)
    assert parse_device("cpu").cores == tuple(sorted(os.sched_getaffinity(0)))
    assert parse_device("cuda:1").kind == "cuda"


@pytest.mark.parametrize("name", ["gpu:0", "cpu:x", "cpu:0-", "cpu:99999", "cuda:x"])
def test_wrong_devices_are_named(name: str) -> None:
    with pytest.raises(UsageError, match=name.replace("+", r"\+")):
        parse_device(name)


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000", sys.maxsize),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("odd", sys.maxsize),
    ],
)
def test_a_containers_share_of_the_cores(tmp_path: Path, text: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert quota(tmp_path / "cpu.max") == cores
    assert quota(tmp_path / "none") == sys.maxsize
