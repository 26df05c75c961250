from __future__ import annotations

from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest

from tercet.cli.engine_options import first_key, read_keys
from tercet.cli.main import build_app
from tercet.core.errors import UsageError
from tercet.core.stage import Stage
from tercet.launch.commands import TercetCommands
from tercet.launch.devices import assign_devices
from tercet.launch.engines.builtin import worker_config
from tercet.launch.placement import Placement
from tercet.launch.topology_file import parse_topology
from tercet.worker.config import WorkerConfig


def test_every_setting_has_its_flag() -> None:
    from tercet.cli.worker import worker

    flags = set(signature(worker).parameters)
    named = {"lease_s": "lease", "api_keys": "api_key_file", "media_timeout_s": "media_timeout"}
    missing = {field.name for field in fields(WorkerConfig) if named.get(field.name, field.name) not in flags}
    assert missing <= {"max_body_bytes"}


def test_a_virtual_worker_imitates_the_gpu_that_help_names(monkeypatch: pytest.MonkeyPatch) -> None:
    import tercet.worker.front

    seen: list[WorkerConfig] = []

    def run(config: WorkerConfig, *, grace_s: float) -> int:
        seen.append(config)
        return 0

    monkeypatch.setattr(tercet.worker.front, "run", run)
    for more in (["--gpu", "a100"], []):
        with pytest.raises(SystemExit):
            build_app(["worker"])(["worker", "--engine", "virtual", *more])
    with pytest.raises(SystemExit):
        build_app(["worker"])(["worker"])
    assert [config.gpu for config in seen] == ["a100", "h100", None]


def test_a_worker_has_as_many_ranks_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import tercet.worker.front

    seen: list[WorkerConfig] = []

    def run(config: WorkerConfig, *, grace_s: float) -> int:
        seen.append(config)
        return 0

    monkeypatch.setattr(tercet.worker.front, "run", run)
    for flags in ([], ["--data-parallel-size", "2"], ["--devices", "cpu:0,cpu:1", "--data-parallel-size", "3"]):
        with pytest.raises(SystemExit):
            build_app(["worker"])(["worker", *flags])
    assert [config.devices for config in seen] == [("cpu:0",), ("cpu:0", "cpu:0"), ("cpu:0", "cpu:1", "cpu:0")]
    with pytest.raises(UsageError, match="--data-parallel-size 1 leaves devices idle: --devices names 2"):
        build_app(["worker"])(["worker", "--devices", "cpu:0,cpu:1", "--data-parallel-size", "1"])


def test_what_the_launcher_writes_the_command_reads_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import tercet.worker.front

    seen: list[WorkerConfig] = []

    def run(config: WorkerConfig, *, grace_s: float) -> int:
        seen.append(config)
        return 0

    monkeypatch.setattr(tercet.worker.front, "run", run)
    text = """
workers: [{stages: [decode], ranks: 2, port: 8101}, {stages: [prefill], port: 8102}]
devices: [cpu:0]
mode: ppd
engine: {engine: virtual, gpu: h100, gpu_slowdown: 1.1, dtype: fp32, block_size: 8, kv_blocks: 99, lease: 2.5,
         max_num_seqs: 7, max_num_batched_tokens: 128, max_model_len: 1024, transport: tcp, random_weights: tiny}
"""
    topology, _ = assign_devices(parse_topology(text, "t"))
    placement = Placement(topology, "id-1", cache_dir=Path("/cache"))
    for worker in topology.workers:
        argv = list(TercetCommands().worker(placement, worker).argv)
        assert argv[1:4] == ["-m", "tercet", "worker"]
        with pytest.raises(SystemExit):
            build_app(["worker"])(argv[3:])
        assert seen[-1] == worker_config(placement, worker)
    assert seen[0].stages == {Stage.DECODE}
    assert seen[0].devices == ("cpu:0", "cpu:0")
    assert (seen[1].port, seen[1].lease_s, seen[1].topology_id) == (8102, 2.5, "id-1")


def test_the_routers_command_line_names_every_worker_by_its_role() -> None:
    topology = parse_topology(
        "workers: [{stages: [decode], ranks: 2, port: 1}, {stages: [prefill], port: 2}, "
        "{stages: [prefill, decode], port: 3}]\nrouter: {port: 9, balancer: random, api_key_file: /k}",
        "t",
    )
    argv = list(TercetCommands().router(Placement(topology, "id")))
    assert argv[1:4] == ["-m", "tercet", "router"]
    pairs = dict(zip(argv[4::2], argv[5::2], strict=True))
    assert pairs["--decode"] == "http://127.0.0.1:1#ranks=2"
    assert pairs["--prefill"] == "http://127.0.0.1:2"
    assert pairs["--worker"] == "http://127.0.0.1:3"
    assert (pairs["--mode"], pairs["--port"], pairs["--balancer"]) == ("pd", "9", "random")
    assert pairs["--api-key-file"] == "/k"


def test_a_secret_is_never_on_a_command_line() -> None:
    topology, _ = assign_devices(parse_topology("{workers: 1A, devices: [cpu:0]}", "t"))
    argv = TercetCommands().worker(Placement(topology, "id"), topology.workers[0]).argv
    assert not any("secret" in text.lower() for text in argv)


def test_key_files(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\nkey-1\n\n key-2 \n")
    assert read_keys(path) == ("key-1", "key-2")
    assert read_keys(None) == ()
    path.write_text("# none\n")
    with pytest.raises(UsageError, match="holds no key"):
        read_keys(path)
    with pytest.raises(UsageError, match="cannot read"):
        read_keys(tmp_path / "absent")
    with pytest.raises(UsageError, match=r"cannot read --worker-api-key-file .*absent: No such file"):
        first_key(tmp_path / "absent", "--worker-api-key-file")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="it is no text"):
        read_keys(path)
