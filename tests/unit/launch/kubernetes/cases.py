"""Topologies whose folders are kept as golden files, one an engine."""

from __future__ import annotations

from typing import Any

from tercet.core.topology import Topology
from tercet.launch.kubernetes.folder import kubernetes_files
from tercet.launch.kubernetes.options import IMAGE_ROUTER, IMAGES_WORKER, DeployOptions
from tercet.launch.topology_file import parse_topology

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
QWEN = "Qwen/Qwen2.5-VL-7B-Instruct"

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "tercet-pd": ("{name: pd, workers: 1P2D, devices: ['cpu:0-1'], router: {api_key_file: /etc/my keys}}", {}),
    "virtual-ranks": (
        "{name: ranks, mode: pd, engine: {engine: virtual, random_weights: tiny},"
        " workers: [{stages: [prefill], ranks: 2}, {stages: [decode], ranks: 2}, {stages: [decode]}]}",
        {"storage_class": "fast", "cache_size": "10Gi"},
    ),
    "vllm-dp8": (
        f"{{name: dp8, model: {LLAMA}, mode: pd, engine: {{engine: vllm, max_model_len: 32000}},"
        " workers: [{stages: [prefill], ranks: 8}, {stages: [decode], ranks: 8}], router: {port: 10001}}",
        {"memory_per_rank": "100Gi", "cpus_per_rank": 22},
    ),
    "vllm-epd": (
        f"{{name: epd, model: {QWEN}, workers: 2E1P1D, engine: {{engine: vllm}}}}",
        {"shared_storage_class": "nfs"},
    ),
    "sglang-epd": (f"{{name: epd, model: {QWEN}, workers: 2E1P1D, engine: {{engine: sglang}}}}", {}),
    "trtllm-pd": (f"{{name: pd, model: {LLAMA}, workers: 1P1D, engine: {{engine: trtllm}}}}", {}),
}


def topology_of(text: str) -> Topology:
    return parse_topology(text, "t.yaml")


def options_for(topology: Topology, **given: Any) -> DeployOptions:
    engine = topology.engine.engine
    values: dict[str, Any] = {
        "namespace": f"tercet-{topology.name}",
        "image_router": IMAGE_ROUTER,
        "image_worker": IMAGES_WORKER[engine],
        "device": "cpu" if engine in ("tercet", "virtual") else "cuda",
        "cpus_per_rank": 2,
        "memory_per_rank": "4Gi",
    }
    return DeployOptions(**(values | given))


def files_of(text: str, **given: Any) -> dict[str, str]:
    topology = topology_of(text)
    return kubernetes_files(topology, options_for(topology, **given))


def case_files(name: str) -> dict[str, str]:
    text, given = CASES[name]
    return files_of(text, **given)
