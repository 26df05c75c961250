"""The examples: topologies that load, commands whose flags exist, and one of them run, smaller still."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tercet.launch.source import topology_from

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*/run.sh"))
FOLDERS = [script.parent for script in SCRIPTS]
FORMS = {
    "eight-plus-eight-ranks": "1P1D",
    "multi-encoder": "4E1A",
    "pd-ppd-replication": "1P1D",
    "vision-by-concurrency": "1E1P1D",
}


def test_each_document_has_one_topology_one_command_and_words() -> None:
    assert {folder.name for folder in FOLDERS} == set(FORMS)
    for folder in FOLDERS:
        assert {path.name for path in folder.iterdir()} == {"README.md", "run.sh", "topology.yaml"}
        assert "| | published | here |" in (folder / "README.md").read_text()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_topology_loads_and_its_model_is_there(folder: Path) -> None:
    topology = topology_from(str(folder / "topology.yaml"), None)
    assert topology.short_form == FORMS[folder.name]
    assert topology.engine.engine == "virtual"
    assert topology.engine.random_weights is not None
    assert (ROOT / topology.engine.random_weights).is_file()


def test_sixteen_ranks_are_sixteen_virtual_gpus() -> None:
    assert topology_from(str(EXAMPLES / "eight-plus-eight-ranks" / "topology.yaml"), None).ranks == 16


def test_the_commands_use_flags_that_exist() -> None:
    used: dict[str, set[str]] = {}
    for script in SCRIPTS:
        text = "\n".join(line for line in script.read_text().splitlines() if not line.startswith("#"))
        for command, rest in re.findall(r"tercet (compare|bench|serve) ([^\n]*)", text.replace("\\\n", " ")):
            used.setdefault(command, set()).update(re.findall(r"--[a-z-]+", rest))
    assert set(used) == {"compare", "bench", "serve"}
    for command, wanted in used.items():
        show = [sys.executable, "-m", "tercet", command, "--help"]
        shown = subprocess.run(show, capture_output=True, text=True, timeout=60, check=True).stdout
        assert wanted <= set(re.findall(r"--[a-z-]+", shown)), command


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_comparison_prints_the_tables_of_its_document(tmp_path: Path) -> None:
    small = ["--workload", "W1", "--qps", "16,32", "--num-requests", "4", "--blocks", "1", "--no-probe"]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [EXAMPLES / "pd-ppd-replication" / "run.sh", *small, "--output", tmp_path],
        capture_output=True, text=True, timeout=800, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for words in ("W1: Median TTFT (ms), lower is better", "W1: recommendations", "Resources", "Complexity"):
        assert words in done.stdout
    assert list(tmp_path.glob("tercet-compare-*.json"))
