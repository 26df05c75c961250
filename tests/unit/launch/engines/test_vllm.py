from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tercet.core.errors import UsageError
from tercet.core.topology import Topology, WorkerSpec
from tercet.launch.commands import TercetCommands
from tercet.launch.devices import assign_devices
from tercet.launch.engines.vllm import SITE, arguments_of, check, environment_of
from tercet.launch.placement import Placement
from tercet.launch.topology_file import parse_topology

DEVICES = "devices: ['cpu:0-1', 'cpu:2+4']"


def placed(text: str, engine: str = "", **side_ports: tuple[int, ...]) -> Placement:
    topology, _ = assign_devices(parse_topology(f"{{engine: {{engine: vllm{engine}}}, {text}}}", "t"))
    ports = {name.replace("_", "-"): numbers for name, numbers in side_ports.items()}
    return Placement(topology, "id", run_path=Path("/run/x"), side_ports=ports)


def worker_of(placement: Placement, name: str) -> WorkerSpec:
    return next(worker for worker in placement.topology.workers if worker.name == name)


def said(placement: Placement, name: str, *, sees: bool = False) -> dict[str, Any]:
    """Return the flags of a worker with their values, JSON read; True for those without."""
    words = arguments_of(placement, worker_of(placement, name), Path("/model"), sees=sees)
    flags: dict[str, Any] = {}
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--"):
            flags[word] = True if following.startswith("--") else following
            if str(flags[word]).startswith("{"):
                flags[word] = json.loads(following)
    return flags


@pytest.mark.parametrize(
    ("workers", "name", "kv_role", "ec_role"),
    [
        ("1A", "worker-0", None, None),
        ("2A", "worker-1", None, None),
        ("1P1D", "prefill-0", "kv_producer", None),
        ("1P1D", "decode-0", "kv_consumer", None),
        ("1E1P1D", "encode-0", None, "ec_producer"),
        ("1E1P1D", "prefill-0", "kv_producer", "ec_consumer"),
        ("1E1P1D", "decode-0", "kv_consumer", None),
        ("1E1A", "worker-0", None, "ec_consumer"),
    ],
)
def test_each_workers_part_in_handing_over(workers: str, name: str, kv_role: str | None, ec_role: str | None) -> None:
    flags = said(placed(f"workers: {workers}, {DEVICES}"), name)
    kv, ec = flags.get("--kv-transfer-config"), flags.get("--ec-transfer-config")
    assert (kv and kv["kv_role"], ec and ec["ec_role"]) == (kv_role, ec_role)
    if kv:
        assert (kv["kv_connector"], kv["kv_buffer_device"]) == ("NixlConnector", "cpu")
        assert kv["kv_connector_extra_config"] == {"kv_lease_duration": 30}
    if ec:
        assert ec["ec_connector_extra_config"] == {"shared_storage_path": "/run/x/embeddings"}
    alone = name == "encode-0"
    assert ("--mm-encoder-only" in flags, "--no-enable-prefix-caching" in flags) == (alone, alone)


def test_settings_become_flags() -> None:
    text = "workers: 1A, model: smollm2-135m, devices: ['cpu:0']"
    placement = placed(text)
    flags = said(placement, "worker-0")
    assert (flags["--model"], flags["--served-model-name"]) == ("/model", "smollm2-135m")
    assert (flags["--dtype"], flags["--max-model-len"], flags["--enforce-eager"]) == ("bfloat16", "4096", True)
    assert flags["--block-size"] == "32", "vLLM's CPU kernels take multiples of 32"
    assert "--data-parallel-size" not in flags and "--limit-mm-per-prompt" not in flags
    assert said(placement, "worker-0", sees=True)["--limit-mm-per-prompt"] == {"image": 32}


def test_ranks_have_cores_and_side_channels_of_their_own() -> None:
    placement = placed(f"workers: [{{stages: [prefill, decode], ranks: 2}}], {DEVICES}")
    env = environment_of(placement, worker_of(placement, "worker-0"), "/mine")
    assert env["VLLM_CPU_OMP_THREADS_BIND"] == "0-1|2,4"
    assert env["PYTHONPATH"] == f"{SITE}:/mine"
    assert said(placement, "worker-0")["--data-parallel-size"] == "2"
    placement = placed("workers: 1P1D, devices: ['cpu:0']", prefill_0=(700, 701), decode_0=(702,))
    for name, port in (("prefill-0", "700"), ("decode-0", "702")):
        env = environment_of(placement, worker_of(placement, name), "")
        assert (env["VLLM_NIXL_SIDE_CHANNEL_PORT"], env["PYTHONPATH"]) == (port, str(SITE))


def test_a_rank_of_several_gpus() -> None:
    text = "workers: [{stages: [prefill, decode], ranks: 2}], devices: ['cuda:0+1', 'cuda:2+3']"
    placement = placed(text, ", tensor_parallel: 2")
    worker = worker_of(placement, "worker-0")
    flags = said(placement, "worker-0")
    assert (flags["--tensor-parallel-size"], flags["--data-parallel-size"]) == ("2", "2")
    assert environment_of(placement, worker, "")["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"


def test_on_gpus_nothing_is_said_of_cores() -> None:
    placement = placed("workers: [{stages: [prefill], devices: ['cuda:2', 'cuda:3']}, {stages: [decode]}], "
                       "devices: ['cuda:0']")  # fmt: skip
    worker = worker_of(placement, "prefill-0")
    env = environment_of(placement, worker, "")
    assert env["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert not any("CPU" in name or name == "PYTHONPATH" for name in env)
    flags = said(placement, "prefill-0")
    assert "--enforce-eager" not in flags and "kv_buffer_device" not in flags["--kv-transfer-config"]


@pytest.mark.parametrize(
    ("engine", "complaint"),
    [
        ("random_weights: tiny", "--random-weights"),
        ("gpu: h100", "--gpu"),
        ("transport: shm", "--transport shm"),
        ("tensor_parallel: 2", "tensor_parallel is for GPUs"),
        ("transport: mooncake", "--transport mooncake"),
        ("kv_connector: mooncake", "--kv-connector mooncake: vllm's needs GPUs"),
    ],
)
def test_settings_without_a_word_in_vllm_are_refused(engine: str, complaint: str) -> None:
    topology = parse_topology(f"{{workers: [{{stages: [prefill], devices: [cpu]}}, {{stages: [decode]}}], "
                              f"engine: {{engine: vllm, {engine}}}}}", "t")  # fmt: skip
    with pytest.raises(UsageError, match=complaint):
        check(topology, topology.workers[0])


def test_each_workers_gpus_are_counted_by_its_own_tensor_parallelism() -> None:
    placement = placed("workers: [{stages: [prefill], devices: ['cuda:0+1'], engine: {tensor_parallel: 2}}, "
                       "{stages: [decode], devices: ['cuda:2']}]")  # fmt: skip
    for worker in placement.topology.workers:
        check(placement.of(worker).topology, worker)
    with pytest.raises(UsageError, match="prefill-0: cuda:0\\+1 is 2 GPUs, and tensor_parallel is 1"):
        check(placement.topology, worker_of(placement, "prefill-0"))


def routed(placement: Placement) -> list[str]:
    return list(TercetCommands().router(placement))


def test_ports_beside_and_dialect() -> None:
    topology = parse_topology("{workers: 1P1D, engine: {engine: vllm}, devices: [cpu:0]}", "t")
    assert [TercetCommands().side_ports(topology, worker) for worker in topology.workers] == [1, 1]
    argv = routed(Placement(topology, "id"))
    assert argv[argv.index("--dialect") + 1] == "vllm"
    assert argv[argv.index("--health-timeout") + 1] == "20.0"
    assert argv[argv.index("--kv-connector") + 1] == "nixl" and "--tokenise-once" not in argv


WITH_EVENTS = """
workers: [{stages: [encode]}, {stages: [prefill], ranks: 2}, {stages: [prefill, decode]}, {stages: [decode]}]
engine: {engine: vllm, events: true}
router: {tokenise_once: true}
devices: ['cpu:0']
"""


def test_kv_events_are_brought_to_the_router_and_leave_loopback_only_for_a_cluster() -> None:
    topology, _ = assign_devices(parse_topology(WITH_EVENTS, "t"))
    counts = {worker.name: TercetCommands().side_ports(topology, worker) for worker in topology.workers}
    assert counts == {"encode-0": 0, "prefill-0": 4, "worker-0": 1, "decode-0": 2}
    ports = {"prefill-0": (700, 701, 702, 703), "worker-0": (710,), "decode-0": (720, 721)}
    here = Placement(topology, "id", run_path=Path("/run/x"), side_ports=ports)
    assert "--kv-events-config" not in said(here, "encode-0")
    configs = [said(here, name)["--kv-events-config"] for name in ports]
    assert all(config["enable_kv_cache_events"] and config["publisher"] == "zmq" for config in configs)
    endpoints = [config["endpoint"] for config in configs]
    assert endpoints == ["tcp://127.0.0.1:702", "tcp://127.0.0.1:710", "tcp://127.0.0.1:721"]
    told = [word.partition("#")[2] for word in routed(here) if word.startswith("http://")]
    assert told == ["", "ranks=2,events-here=702", "events-here=710", "events-here=721"]
    assert "--tokenise-once" in routed(here)
    cluster = replace(here, host="0.0.0.0", hosts={name: f"{name}.svc" for name in counts})
    assert said(cluster, "prefill-0")["--kv-events-config"]["endpoint"] == "tcp://*:702"
    assert any(word.endswith("#ranks=2,events=702") for word in routed(cluster))


def test_mooncakes_workers_have_a_bootstrap_port() -> None:
    text = "workers: 1P1D, devices: ['cuda:0', 'cuda:1']"
    topology, _ = assign_devices(parse_topology(f"{{engine: {{engine: vllm, kv_connector: mooncake}}, {text}}}", "t"))
    placement = Placement(topology, "id", side_ports={"prefill-0": (700,), "decode-0": (701,)})
    flags = said(placement, "prefill-0")
    assert flags["--kv-transfer-config"] == {"kv_connector": "MooncakeConnector", "kv_role": "kv_producer"}
    env = environment_of(placement, worker_of(placement, "prefill-0"), "")
    assert env["VLLM_MOONCAKE_BOOTSTRAP_PORT"] == "700" and "VLLM_NIXL_SIDE_CHANNEL_PORT" not in env
    argv = routed(placement)
    assert argv[argv.index("--kv-connector") + 1] == "mooncake"
    assert [word.partition("#")[2] for word in argv if word.startswith("http://")] == ["bootstrap=700", "bootstrap=701"]


def test_only_who_asks_for_it_opens_the_development_endpoints() -> None:
    for setting, expected in (("cache_reset: true", "1"), ("cache_reset: false", None)):
        text = f"{{workers: 1A, devices: [cpu], engine: {{engine: vllm, {setting}}}}}"
        topology, _ = assign_devices(parse_topology(text, "t"))
        env = environment_of(Placement(topology, "id"), topology.workers[0], "")
        assert env.get("VLLM_SERVER_DEV_MODE") == expected


@pytest.mark.parametrize(
    "setting", ["engine: {events: true}", "engine: {cache_reset: true}", "engine: {kv_connector: mooncake}",
                "router: {tokenise_once: true}"],
)  # fmt: skip
def test_vllms_settings_are_refused_for_other_engines(setting: str) -> None:
    topology = parse_topology(f"{{workers: 1P1D, {setting}}}", "t")
    with pytest.raises(UsageError, match="for the workers of vllm only, and the engine is tercet"):
        routed(Placement(topology, "id"))


def test_without_vllm_the_error_says_how_to_get_it(tmp_path: Path) -> None:
    topology: Topology
    topology, _ = assign_devices(parse_topology("{workers: 1A, engine: {engine: vllm}, devices: [cpu:0]}", "t"))
    placement = Placement(topology, "id", cache_dir=tmp_path)
    with pytest.raises(UsageError, match="tercet engine install vllm"):
        TercetCommands().worker(placement, topology.workers[0])
