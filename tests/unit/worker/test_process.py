from __future__ import annotations

import os

import pytest

from tercet.core.errors import UsageError
from tercet.worker.process import parse_device

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
