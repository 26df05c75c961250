from __future__ import annotations

import sys
from typing import Any

import pytest

from tercet.core.errors import UsageError
from tercet.core.topology import WorkerSpec
from tercet.launch.commands import router_arguments
from tercet.launch.devices import assign_devices
from tercet.launch.engines.gpus import visible_gpus
from tercet.launch.engines.sglang import SglangCommands, arguments_of
from tercet.launch.placement import Placement
from tercet.launch.topology_file import parse_topology

SEES = "model: Qwen/Qwen2.5-VL-7B-Instruct"
GPUS = "devices: ['cuda:0', 'cuda:1']"


def placed(text: str, engine: str = "", **side_ports: tuple[int, ...]) -> Placement:
    settings = f"{{engine: sglang{engine}}}"
    topology, _ = assign_devices(parse_topology(f"{{engine: {settings}, {text}}}", "t"))
    ports = {name.replace("_", "-"): numbers for name, numbers in side_ports.items()}
    return Placement(topology, "id", side_ports=ports)


def worker_of(placement: Placement, name: str) -> WorkerSpec:
    return next(worker for worker in placement.topology.workers if worker.name == name)


def said(placement: Placement, name: str) -> dict[str, Any]:
    flags: dict[str, Any] = {}
    flag = ""
    for word in arguments_of(placement, worker_of(placement, name)):
        if word.startswith("--"):
            flag, flags[word] = word, True
        else:
            flags[flag] = word if flags[flag] is True else f"{flags[flag]} {word}"
    return flags


@pytest.mark.parametrize(
    ("workers", "name", "mode", "backend", "bootstrap"),
    [
        ("1A", "worker-0", None, None, None),
        ("1P1D", "prefill-0", "prefill", "nixl", "9001"),
        ("1P1D", "decode-0", "decode", "nixl", None),
    ],
)
def test_each_workers_part_in_handing_over(
    workers: str, name: str, mode: str | None, backend: str | None, bootstrap: str | None
) -> None:
    flags = said(placed(f"workers: {workers}, {GPUS}", prefill_0=(9001,)), name)
    kinds = ("mode", "transfer-backend", "bootstrap-port")
    assert tuple(flags.get(f"--disaggregation-{kind}") for kind in kinds) == (mode, backend, bootstrap)
    assert "--encoder-urls" not in flags and "--language-only" not in flags


def test_a_rank_of_several_gpus() -> None:
    placement = placed("workers: 2A, devices: ['cuda:0+1', 'cuda:2+3']", ", tensor_parallel: 2")
    assert said(placement, "worker-1")["--tp-size"] == "2"
    assert visible_gpus(worker_of(placement, "worker-1")) == "2,3"
    with pytest.raises(UsageError, match=r"worker-0: cuda:0 is 1 GPU, and tensor_parallel is 2: name.* cuda:0\+1"):
        said(placed("workers: 1A, devices: ['cuda:0']", ", tensor_parallel: 2"), "worker-0")


def test_who_prefills_asks_the_encoders_and_the_router_does_not() -> None:
    placement = placed(f"workers: 2E1P1D, {SEES}, {GPUS}")
    assert said(placement, "encode-0")["--encoder-only"] is True
    assert "--disaggregation-mode" not in said(placement, "encode-0")
    prefill = said(placement, "prefill-0")
    assert prefill["--language-only"] is True
    assert prefill["--encoder-urls"] == "http://127.0.0.1:0 http://127.0.0.1:0"
    assert "--language-only" not in said(placement, "decode-0")
    words = router_arguments(placement)
    assert "--encode" not in words and words[words.index("--mode") + 1] == "pd"


@pytest.mark.parametrize(("workers", "mode"), [("1E1A", "aggregated"), ("1E2A", "replicated"), ("1E1P1D", "pd")])
def test_the_routers_mode_without_encoders(workers: str, mode: str) -> None:
    words = router_arguments(placed(f"workers: {workers}, {SEES}, {GPUS}"))
    assert words[words.index("--mode") + 1] == mode


def test_the_router_learns_the_bootstrap_port() -> None:
    placement = placed(f"workers: [{{stages: [prefill], ranks: 2}}, {{stages: [decode]}}], {GPUS}", prefill_0=(9001,))
    words = router_arguments(placement)
    assert words[words.index("--prefill") + 1].endswith("#ranks=2,bootstrap=9001")
    assert "#" not in words[words.index("--decode") + 1]
    assert SglangCommands().side_ports(placement.topology, worker_of(placement, "prefill-0")) == 1
    assert SglangCommands().side_ports(placement.topology, worker_of(placement, "decode-0")) == 0


def test_settings_become_flags() -> None:
    text = f"workers: [{{stages: [prefill, decode], ranks: 2}}], model: o/m, {GPUS}"
    flags = said(placed(text, ", kv_blocks: 100, max_num_seqs: 8, dtype: fp32"), "worker-0")
    assert (flags["--model-path"], flags["--served-model-name"], flags["--dtype"]) == ("o/m", "o/m", "float32")
    assert (flags["--dp-size"], flags["--max-running-requests"]) == ("2", "16"), "the number is shared out among ranks"
    assert flags["--max-total-tokens"] == "1600"
    assert flags["--enable-cache-report"] is True, "usage must say what came from the cache"


@pytest.mark.parametrize(
    ("text", "engine", "complaint"),
    [
        ("workers: 1A, devices: ['cpu:0']", "", "worker-0: sglang computes on GPUs, not on cpu:0"),
        (f"workers: 1A, {GPUS}", ", random_weights: tiny", "--random-weights is for the built-in engine"),
        (f"workers: 1A, {GPUS}", ", gpu: h100", "--gpu is what"),
        (f"workers: 1P1D, {GPUS}", ", transport: shm", "sglang hands KV over by nixl or mooncake"),
        (f"workers: [{{stages: [encode], ranks: 2}}, {{stages: [prefill, decode]}}], {SEES}, {GPUS}", "", "one rank"),
    ],
)
def test_what_it_can_not_follow_is_refused(text: str, engine: str, complaint: str) -> None:
    placement = placed(text, engine)
    with pytest.raises(UsageError, match=complaint):
        arguments_of(placement, placement.topology.workers[0])


def test_a_machine_without_it_is_told_what_to_install() -> None:
    placement = placed(f"workers: 1A, {GPUS}")
    with pytest.raises(UsageError, match=r"pip install sglang==0\.5\.23.*--engine-python") as caught:
        SglangCommands().worker(placement, placement.topology.workers[0])
    assert "\n" not in str(caught.value)


def test_the_key_of_the_workers_is_in_a_file_that_the_command_line_names() -> None:
    guarded = "router: {api_key_file: /keys}"
    for text, key_file in (
        (f"workers: 1P1D, {GPUS}", None),
        (f"workers: 1P1D, {GPUS}, {guarded}", "/tmp/prefill-0.yaml"),
        (f"workers: 1E1P1D, mode: epd, {SEES}, devices: ['cuda:0', 'cuda:1', 'cuda:2'], {guarded}", None),
    ):
        placement = placed(text, f", engine_python: {sys.executable}")
        process = SglangCommands().worker(placement, worker_of(placement, "prefill-0"))
        assert process.key_file == key_file
        assert process.argv[-2:] == ("--config", key_file) if key_file else "--config" not in process.argv
