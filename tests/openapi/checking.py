"""schemathesis against a real router before virtual GPUs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tercet.router.openapi.document import document
from tests.integration.worker.processes import TINY, Worker, launch, topology, wait_ready, wait_until

VIRTUAL = (*TINY, "--engine", "virtual", "--gpu", "h100", "--max-model-len", "64", "--lease", "5")
STAGES = {"a0": "prefill,decode", "p0": "prefill", "d0": "decode"}
NOBODY = r"^http://127\.9\.9\.9:[1-9][0-9]{3}$"
"""Workers that join while it is tested: an address at which nobody listens."""


@contextmanager
def a_router(folder: Path) -> Iterator[Worker]:
    """Run a router, as a process, before a worker of each role."""
    name = topology("openapi")
    started: list[Worker] = []
    try:
        for part, stages in STAGES.items():
            log = folder / f"{part}.log"
            started.append(launch(log, "--name", part, "--stages", stages, "--topology-id", name, *VIRTUAL))
        a, p, d = (worker.url for worker in started)
        roles = ("--worker", a, "--prefill", p, "--decode", d)
        command = ("-m", "tercet", "router")
        started.append(router := launch(folder / "router.log", "--mode", "pd", *roles, command=command))
        for worker in started:
            wait_ready(worker)
        yield router
    finally:
        for worker in started:
            worker.process.terminate()
        for worker in started:
            worker.stop()


def narrowed(router: Worker) -> dict[str, Any]:
    """Return the router's document with the name of the model that it serves: what matters is behind a name that no
    random text is; and with no worker but at `NOBODY`, none that encodes, which would make modes possible that nobody
    serves."""
    served: dict[str, Any] = router.call("/openapi.json").body
    assert served == document()
    schemas, model = served["components"]["schemas"], router.call("/v1/models").body["data"][0]["id"]
    for name in ("ChatRequest", "CompletionRequest"):
        schemas[name]["properties"]["model"]["enum"] = [model]
    served["paths"]["/v1/models/{id}"]["get"]["parameters"][0]["schema"]["enum"] = [model]
    joining = served["paths"]["/workers"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    joining["properties"]["url"]["pattern"] = NOBODY
    joining["properties"]["role"]["enum"] = ["worker", "prefill", "decode"]
    return served


def check(folder: Path, *arguments: str, timeout_s: float | None = None) -> tuple[int, str]:
    """Run schemathesis; return its exit code and what it said, then whatever the router complained of."""
    with a_router(folder) as router:
        spec = folder / "openapi.json"
        spec.write_text(json.dumps(narrowed(router)))
        command = [str(Path(sys.executable).with_name("schemathesis"))]
        config = ["--config-file", str(Path(__file__).with_name("schemathesis.toml"))]
        run = ["run", str(spec), "--url", router.url, "--no-color", "--continue-on-failure", *arguments]
        done = subprocess.run(
            [*command, *config, *run], cwd=folder, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        wait_until(lambda: router.call("/status").body["in_flight"] == 0, 10, "requests are still under way")
        log = router.log.read_text()
    faults = [line for line in log.splitlines() if "Traceback" in line or " CRITICAL " in line or " ERROR " in line]
    return done.returncode or bool(faults), "\n".join((done.stdout, done.stderr, *faults))
