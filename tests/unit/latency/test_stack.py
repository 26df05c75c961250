from __future__ import annotations

from pathlib import Path

import pytest

from tercet.core.errors import UsageError
from tercet.latency.stack import STACKS, StackConstants, read_stack, stack_named, write_stack


@pytest.mark.parametrize("name", ["stack.yaml", "stack.json"])
def test_constants_survive_a_file(tmp_path: Path, name: str) -> None:
    stack = StackConstants(1.3, 20.0, 45.0, image_host_workers=4, source="a test")
    write_stack(stack, tmp_path / name, {"rows": 3})
    assert read_stack(tmp_path / name) == stack


def test_every_default_says_where_it_comes_from() -> None:
    for name, stack in STACKS.items():
        assert len(stack.source) > 10
        assert stack_named(name) is stack
    with pytest.raises(UsageError, match="bare, sglang, trtllm, vllm, vllm-p2pnccl"):
        stack_named("mlx")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scale: 0", "scale is 0"),
        ("speed: 1", "'speed' is no stack constant"),
        ("hop_ms: -1", "hop_ms"),
        ("image_host_workers: 1.5", "whole number"),
        ("- 1", "calibrate"),
        ("{", "can't be read"),
    ],
)
def test_a_bad_file_is_refused_with_the_reason(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UsageError, match=said):
        read_stack(tmp_path / "s.yaml")
    with pytest.raises(UsageError, match="can't be read"):
        read_stack(tmp_path / "missing.yaml")
