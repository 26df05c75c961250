from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from tercet.core.errors import UsageError
from tercet.core.topology import WorkerSpec
from tercet.launch.devices import assign_devices
from tercet.launch.engines.trtllm import TrtllmCommands, options_of
from tercet.launch.placement import Placement
from tercet.launch.topology_file import parse_topology

GPUS = "devices: ['cuda:0', 'cuda:1'], model: o/m"


def placed(text: str, engine: str = "") -> Placement:
    topology, _ = assign_devices(parse_topology(f"{{engine: {{engine: trtllm{engine}}}, {text}}}", "t"))
    return Placement(topology, "id", run_path=Path("/run/x"))


def worker_of(placement: Placement, name: str) -> WorkerSpec:
    return next(worker for worker in placement.topology.workers if worker.name == name)


def options(placement: Placement, name: str) -> dict[str, Any]:
    process = TrtllmCommands().container(placement, worker_of(placement, name))
    ((path, text),) = process.files.items()
    assert process.argv[process.argv.index("--extra_llm_api_options") + 1] == path
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def test_context_and_generation_servers_have_a_transceiver() -> None:
    placement = placed(f"workers: 1P1D, {GPUS}")
    context, generation = options(placement, "prefill-0"), options(placement, "decode-0")
    buffer = {"backend": "DEFAULT", "max_tokens_in_buffer": 4096}
    assert context["cache_transceiver_config"] == generation["cache_transceiver_config"] == buffer
    assert context["disable_overlap_scheduler"] is True and "disable_overlap_scheduler" not in generation
    whole = options(placed(f"workers: 1A, {GPUS}"), "worker-0")
    assert "cache_transceiver_config" not in whole and "disable_overlap_scheduler" not in whole


def test_settings_become_flags_and_options() -> None:
    text = f"workers: [{{stages: [prefill, decode], ranks: 2}}], {GPUS}"
    placement = placed(text, ", kv_blocks: 100, max_num_seqs: 8, transport: nixl")
    argv = TrtllmCommands().container(placement, placement.topology.workers[0]).argv
    assert argv[:2] == ("trtllm-serve", "o/m")
    flags = dict(itertools.pairwise(argv))
    assert (flags["--max_batch_size"], flags["--tp_size"], flags["--max_seq_len"]) == ("8", "2", "4096")
    said = options_of(placement.topology, placement.topology.workers[0])
    assert said["enable_attention_dp"] is True
    assert said["kv_cache_config"] == {"enable_block_reuse": True, "tokens_per_block": 16, "max_tokens": 1600}


def test_on_one_machine_its_program_lies_beside_its_python(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    placement = placed(f"workers: 1P1D, {GPUS}", f", engine_python: {python}")
    process = TrtllmCommands().worker(placement, worker_of(placement, "decode-0"))
    assert process.argv[0] == str(tmp_path / "trtllm-serve")
    assert process.env == {"CUDA_VISIBLE_DEVICES": "1"}
    assert list(process.files) == ["/run/x/decode-0.yaml"]


@pytest.mark.parametrize(
    ("text", "engine", "complaint"),
    [
        ("workers: 1A, devices: ['cpu:0']", "", "trtllm computes on GPUs"),
        (f"workers: 1E1A, {GPUS}", "", "encode workers of trtllm are not spoken to"),
        (f"workers: 1P1D, {GPUS}", ", transport: mooncake", "trtllm hands KV over by nixl"),
    ],
)
def test_what_it_can_not_follow_is_refused(text: str, engine: str, complaint: str) -> None:
    placement = placed(text, engine)
    with pytest.raises(UsageError, match=complaint):
        TrtllmCommands().container(placement, placement.topology.workers[0])


def test_a_machine_without_it_is_told_what_to_install() -> None:
    placement = placed(f"workers: 1A, {GPUS}")
    with pytest.raises(UsageError, match=r"pip install tensorrt-llm==1\.2\.1.*--engine-python"):
        TrtllmCommands().worker(placement, placement.topology.workers[0])
