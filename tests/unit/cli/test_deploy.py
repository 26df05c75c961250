"""`tercet deploy kubernetes` as a person types it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from tercet import __version__

EXAMPLE = Path(__file__).parents[3] / "examples" / "topologies" / "pd.yaml"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tercet", "deploy", "kubernetes", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def images(folder: Path) -> set[str]:
    texts = (folder / "router.yaml").read_text(), (folder / "workers-prefill.yaml").read_text()
    documents = [each for text in texts for each in yaml.safe_load_all(text)]
    pods = [each["spec"]["template"]["spec"] for each in documents if each["kind"] in ("Deployment", "StatefulSet")]
    return {pod["containers"][0]["image"] for pod in pods}


def test_a_topology_file_becomes_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(str(EXAMPLE), "--out", str(out), "--image-router", "r/router:1", "--image-worker", "r/worker:1")
    assert done.returncode == 0, done.stderr
    assert images(out) == {"r/router:1", "r/worker:1"}
    assert yaml.safe_load((out / "kustomization.yaml").read_text())["namespace"] == "tercet-pd"
    assert f"put it up with {out / 'deploy.sh'}" in done.stdout


def test_a_short_form_with_another_engine(tmp_path: Path) -> None:
    model = "meta-llama/Llama-3.1-8B-Instruct"
    done = run("1P1D", "--engine", "vllm", "--model", model, "-o", str(tmp_path / "out"), "--namespace", "chat")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out" / "workers-prefill.yaml").read_text()
    assert f"--served-model-name\n        - {model}\n" in text and "memory: 64Gi" in text
    assert "http://prefill-0.prefill.chat.svc:8000" in (tmp_path / "out" / "router.yaml").read_text()


def test_on_gpus_the_worker_s_image_is_the_one_that_can_compute_there(tmp_path: Path) -> None:
    assert run("1P1D", "--device", "cuda", "--out", str(tmp_path / "out")).returncode == 0
    assert images(tmp_path / "out") == {f"tercet-router:{__version__}", f"tercet-worker:{__version__}-cuda"}
    assert run("1P1D", "--out", str(tmp_path / "out")).returncode == 0
    assert images(tmp_path / "out") == {f"tercet-router:{__version__}", f"tercet-worker:{__version__}"}


def test_what_is_wrong_ends_with_2_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    done = run("1P1D", "--out", str(tmp_path))
    assert done.returncode == 2 and "add --force" in done.stderr
    done = run("1P1D", "--engine", "vllm", "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and done.stderr.startswith("error: model: 'smollm2-135m'")
    assert run("1P1D", "--force", "--out", str(tmp_path)).returncode == 0
    assert [path.name for path in tmp_path.iterdir() if path.name in ("out", "mine.txt")] == ["mine.txt"]
