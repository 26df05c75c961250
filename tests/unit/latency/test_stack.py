from __future__ import annotations

import pytest

from tercet.core.errors import UsageError
from tercet.latency.stack import STACKS, stack_named


def test_every_default_says_where_it_comes_from() -> None:
    for name, stack in STACKS.items():
        assert len(stack.source) > 10
        assert stack_named(name) is stack
    with pytest.raises(UsageError, match="bare, sglang, trtllm, vllm, vllm-p2pnccl"):
        stack_named("mlx")
