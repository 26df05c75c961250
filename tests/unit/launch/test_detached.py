from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tercet.core.errors import UsageError
from tercet.launch.detached import DetachedSpec, start_detached
from tercet.launch.progress import Progress
from tercet.launch.topology_file import parse_topology


def spec(tmp_path: Path, text: str) -> DetachedSpec:
    return DetachedSpec(parse_topology(text, "t"), tmp_path / "run", tmp_path / "logs", None, False, 7.5)


@pytest.mark.parametrize(
    "text",
    [
        "{workers: 1P1D, mode: ppd, engine: {random_weights: tiny, lease: 2}, router: {port: 0, api_key_file: /k}}",
        "{workers: 1A, model: /models/\U0001f600, router: {queue_timeout: 0.00001}}",
    ],
)
def test_a_spec_survives_the_pipe(text: str, tmp_path: Path) -> None:
    sent = spec(tmp_path, text)
    assert DetachedSpec.from_json(sent.to_json()) == sent


def test_a_busy_port_is_a_usage_error_here_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Progress] = []
    (tmp_path / "yaml.py").write_text("raise SystemExit('planted')\n")  # in the folder that it is started in
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} \\(router\\) is in use"):
            start_detached(spec(tmp_path, f"{{workers: 1A, router: {{port: {port}}}}}"), told.append)
    assert told == []
    assert not (tmp_path / "run").exists()
