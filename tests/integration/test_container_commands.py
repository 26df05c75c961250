"""The containers' command lines as the manifests have them, run as processes of this machine: hosts become loopback,
nothing else changes. So the flags, the secret, wildcard binding and the handoff between workers are real."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tercet.core.topology import Topology
from tercet.launch.kubernetes.folder import kubernetes_files
from tests.ports import free_port
from tests.unit.launch.kubernetes.cases import options_for, topology_of

DEADLINE_S = 90.0


def pods(files: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every worker's pod name and container."""
    for text in files.values():
        for each in yaml.safe_load_all(text) if "kind: StatefulSet" in text else ():
            if each["kind"] == "StatefulSet":
                for i in range(each["spec"]["replicas"]):
                    yield f"{each['metadata']['name']}-{i}", each["spec"]["template"]["spec"]["containers"][0]


def router_arguments(files: dict[str, str]) -> str:
    found = (each for each in yaml.safe_load_all(files["router.yaml"]) if each["kind"] == "ConfigMap")
    return str(next(found)["data"]["arguments"])


@contextmanager
def running(topology: Topology, folder: Path) -> Iterator[tuple[dict[str, str], int, dict[str, Path]]]:
    """Run every container; yield the folder's files, the router's port and the logs."""
    options = options_for(topology)
    files = kubernetes_files(topology, options)
    env = {**os.environ, "TERCET_CACHE": str(folder / "cache"), "TERCET_TOPOLOGY_SECRET": secrets.token_hex(32)}
    arguments, port = router_arguments(files), free_port()
    processes: list[subprocess.Popen[bytes]] = []
    logs: dict[str, Path] = {}

    def start(name: str, words: list[str]) -> None:
        logs[name] = folder / f"{name}.log"
        with logs[name].open("wb") as log:
            processes.append(subprocess.Popen([sys.executable, *words], env=env, stdout=log, stderr=log))

    try:
        for name, container in pods(files):
            assert container["command"] == ["python"]
            own = free_port()
            words = [name if word == "$(POD_NAME)" else word for word in container["args"]]
            words[words.index("--port") + 1] = str(own)
            start(name, words)
            host = f"{name}.{name.rpartition('-')[0]}.{options.namespace}.svc:8000"
            assert host in arguments
            arguments = arguments.replace(host, f"127.0.0.1:{own}")
        lines = arguments.splitlines()
        lines[lines.index("--port") + 1] = str(port)
        (folder / "arguments").write_text("\n".join(lines))
        start("router", ["-m", "tercet", "router", f"@{folder / 'arguments'}"])
        yield files, port, logs
        for process in processes:
            assert process.poll() is None, "it ended by itself"
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(60)


CASES = {
    "tercet": ("{name: pd, workers: 1P1D, engine: {random_weights: tiny}}", "P0>D0"),
    "virtual-ranks": (
        "{name: ranks, mode: pd, engine: {engine: virtual, random_weights: tiny},"
        " workers: [{stages: [prefill], ranks: 2}, {stages: [decode], ranks: 2}]}",
        "P0",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_request_crosses_the_containers_as_the_manifests_start_them(tmp_path: Path, case: str) -> None:
    text, route = CASES[case]
    with running(topology_of(text), tmp_path) as (files, port, logs):
        script = tmp_path / "request.py"
        script.write_text(files["request.py"].replace("127.0.0.1:8000", f"127.0.0.1:{port}"))
        end = time.monotonic() + DEADLINE_S
        while True:  # what deploy.sh does
            done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
            if done.returncode == 0 or time.monotonic() > end:
                break
            time.sleep(0.5)
        said = "\n".join(f"{name}: {path.read_text()[-1500:]}" for name, path in logs.items())
        assert done.returncode == 0, f"{done.stderr}\n{said}"
        assert f"answered along {route}" in done.stdout
        assert "'completion_tokens': 4" in done.stdout
