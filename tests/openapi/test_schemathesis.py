"""Whatever the OpenAPI document allows or forbids, no answer is a 5xx, and each is as described."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.openapi.checking import check

SAME_EACH_TIME = "--generation-deterministic"


@pytest.mark.slow
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    code, said = check(tmp_path, "--max-examples", "3", SAME_EACH_TIME, timeout_s=100)
    assert code == 0, said
    made = re.search(r"(\d+) generated", said)
    assert made and int(made[1]) > 500, said
