"""Workers for the whole session: they start side by side, as an engine takes seconds to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.worker.processes import TINY, Worker, launch, stop_all, topology, wait_ready

API_KEY = "sk-integration"
VIRTUAL = ("--engine", "virtual", "--gpu", "h100")

Fleet = dict[str, Worker]


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Every worker of the session, started and perhaps not ready yet."""
    logs = tmp_path_factory.mktemp("workers")
    keys = logs / "keys"
    keys.write_text(f"{API_KEY}\n")
    kinds = {
        "whole": TINY,
        "prefill": (*TINY, *VIRTUAL, "--stages", "prefill"),
        "decode": (*TINY, "--stages", "decode"),
        "virtual": (*TINY, *VIRTUAL, "--lease", "1"),
        "ranks": (*TINY, *VIRTUAL, "--devices", "cpu:0,cpu:1", "--api-key-file", str(keys)),
    }
    workers: Fleet = {}
    try:
        for name, arguments in kinds.items():
            workers[name] = launch(logs / f"{name}.log", "--name", name, "--topology-id", topology("fleet"), *arguments)
        yield workers
    finally:
        stop_all(workers.values())


@pytest.fixture(scope="session")
def whole(fleet: Fleet) -> Worker:
    """Prefill and decode, the tiny random model in fp32; hands out tickets for both transports."""
    return wait_ready(fleet["whole"])


@pytest.fixture(scope="session")
def prefill(fleet: Fleet) -> Worker:
    """Prefill alone, on a virtual GPU."""
    return wait_ready(fleet["prefill"])


@pytest.fixture(scope="session", params=["shm", "tcp"])
def decode(request: pytest.FixtureRequest, fleet: Fleet) -> Worker:
    """Decode, reading by one transport."""
    return replace(wait_ready(fleet["decode"]), transport=request.param)


@pytest.fixture(scope="session")
def virtual(fleet: Fleet) -> Worker:
    """A virtual GPU whose leases last a second."""
    return wait_ready(fleet["virtual"])


@pytest.fixture(scope="session")
def ranks(fleet: Fleet) -> Worker:
    """Two virtual ranks behind an API key."""
    worker = wait_ready(fleet["ranks"])
    worker.headers["Authorization"] = f"Bearer {API_KEY}"
    return worker


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where a worker of this test alone writes."""
    return tmp_path / "worker.log"
