"""vLLM under our tools, and vLLM's own tool before our router."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tercet.engine.models.store import resolve
from tests.e2e.conftest import start_serve, stop_serve

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[2]
SERVED = "llama-3.1-8b"


@pytest.mark.usefixtures("vllm_python")
def test_compare_measures_vllm_by_vllm(tmp_path: Path) -> None:
    """Each architecture starts its workers, and meets the same conversations with empty caches."""
    command = (
        "compare --engine vllm --dtype fp32 --arch replicated=2A --arch pd=1P1D --workload 96/8 --scale 1 --turns 2 "
        "--num-requests 4 --concurrency 2 --blocks 1 --no-probe --max-model-len 1024 --output"
    )
    done = subprocess.run(
        [sys.executable, "-m", "tercet", *command.split(), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("tercet-compare-*.json")
    results = json.loads(path.read_text())
    assert {each["architecture"] for each in results["runs"]} == {"replicated", "pd"}
    records = [record for run in results["runs"] for record in run["requests"]]
    assert [(record["status"], record["error"]) for record in records] == [(200, None)] * 8


def test_vllms_benchmark_runs_as_the_reference_runs_it(vllm_python: str, tmp_path: Path) -> None:
    """8 + 8 ranks on virtual GPUs; the command is that of the published measurement, but for model, host and port."""
    model = tmp_path / SERVED
    shutil.copytree(resolve("smollm2-135m").path, model, ignore=shutil.ignore_patterns("*.safetensors", "*.json.index"))
    shutil.copy(ROOT / "examples" / "models" / f"{SERVED}.json", model / "config.json")
    topology = ROOT / "examples" / "eight-plus-eight-ranks" / "topology.yaml"
    serve = start_serve(tmp_path / "logs", str(topology), "--random-weights", str(model))
    try:
        host, port = serve.url.removeprefix("http://").split(":")
        command = (
            f"bench serve --dataset-name random --num-prompts 100 --model {model} --random-input-len 2000 "
            f"--random-output-len 2000 --endpoint /v1/completions --max-concurrency 32 --save-result --ignore-eos "
            f"--served-model-name {serve.model} --host {host} --port {port}"
        )
        run = [sys.executable, "-m", "tercet", "engine", "run", "vllm", *command.split()]
        done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        print(done.stdout)
        (path,) = tmp_path.glob("*.json")
        result = json.loads(path.read_text())
        assert (result["completed"], result["total_output_tokens"]) == (100, 200_000)
        assert result["failed"] == 0
        ranks = [rank["routed"] for worker in serve.workers() for rank in worker["ranks"]]
        assert len(ranks) == 16 and min(ranks) > 0
    finally:
        stop_serve(serve)
