"""Real vLLM workers, as `tercet serve --engine vllm` starts them. Two starts serve nearly all tests: each takes
minutes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tercet.core.errors import UsageError
from tercet.launch.engines.environment import engine_python
from tests.e2e.conftest import Serve, start_serve, stop_serve

READY_TIMEOUT_S = 900.0
LEASE_S = 120
"""Of what P holds for D: two cores shared by all may need 30 s between the legs."""
SMALL = ("--max-model-len", "1024", "--max-num-seqs", "8", "--max-images", "2", "--kv-blocks", "160")
TIMES = ("--lease", f"{LEASE_S}", "--start-timeout", f"{READY_TIMEOUT_S:g}")
VLLM = ("--engine", "vllm", "--dtype", "fp32", *TIMES, *SMALL)
RANKS = """
mode: pd
workers: [{stages: [prefill], ranks: 2}, {stages: [decode], ranks: 2}]
engine: {events: true, cache_reset: true}
router: {tokenise_once: true}
"""


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """The Python that has vLLM: $TERCET_VLLM_PYTHON, else where `tercet engine install vllm` put it."""
    try:
        return str(engine_python("vllm", os.environ.get("TERCET_VLLM_PYTHON")))
    except UsageError as error:
        if os.environ.get("TERCET_CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def stages(vllm_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """One worker of every kind: every mode is a live switch away."""
    folder = tmp_path_factory.mktemp("stages")
    arguments = ("1E1P1D1A", "--mode", "pd", "--model", "smollm2-vision", "--engine-python", vllm_python, *VLLM)
    serve = start_serve(folder, *arguments, timeout_s=READY_TIMEOUT_S)
    yield serve
    stop_serve(serve)


@pytest.fixture(scope="module")
def ranks(vllm_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """P and D of two data-parallel ranks each, which tell what they cache."""
    folder = tmp_path_factory.mktemp("ranks")
    topology = folder / "ranks.yaml"
    topology.write_text(RANKS)
    serve = start_serve(folder, str(topology), "--engine-python", vllm_python, *VLLM, timeout_s=READY_TIMEOUT_S)
    yield serve
    stop_serve(serve)
