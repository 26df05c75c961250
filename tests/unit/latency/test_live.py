from __future__ import annotations

from importlib.util import find_spec

import pytest

from tercet.core.errors import UsageError
from tercet.latency.registry import oracle_for

INSTALLED = find_spec("aiconfigurator_core") is not None


@pytest.mark.skipif(INSTALLED, reason="the extra is installed")
def test_without_the_extra_the_error_names_it() -> None:
    with pytest.raises(UsageError, match=r"pip install 'tercet\[aiconfigurator\]'"):
        oracle_for("llama-3.1-8b", "h100", kind="live")


@pytest.mark.skipif(not INSTALLED, reason="needs the extra aiconfigurator")
def test_the_grid_is_what_the_live_oracle_says() -> None:
    live, grid = (oracle_for("qwen3-8b", "h200", "sglang", 2, kind=kind) for kind in ("live", "grid"))
    assert live.source.kind == "live" and "0.12.0" in live.source.summary
    assert live.oracle.prefill(1, 3000, 700) == pytest.approx(grid.oracle.prefill(1, 3000, 700), rel=0.02)
    assert live.oracle.decode(20, 3000) == pytest.approx(grid.oracle.decode(20, 3000), rel=0.02)
    assert live.oracle.decode_run(20, 3000, 50) == pytest.approx(grid.oracle.decode_run(20, 3000, 50), rel=0.02)
    assert live.oracle.mixed(700, 100, 20, 3000) == pytest.approx(grid.oracle.mixed(700, 100, 20, 3000), rel=0.02)
    assert live.oracle.kv_capacity() == grid.oracle.kv_capacity()
    assert live.oracle.kv_bytes(10) == grid.oracle.kv_bytes(10)


@pytest.mark.skipif(not INSTALLED, reason="needs the extra aiconfigurator")
def test_what_the_live_oracle_does_not_know_is_refused() -> None:
    with pytest.raises(UsageError, match="can't predict"):
        oracle_for("nobody/no-model", "h100", kind="live")
    assert oracle_for("Qwen/Qwen3-32B", "h100", kind="live", tp=2).oracle.decode(1, 100) > 3
