"""Servers under test: started pinned to one core, frozen while it is another's turn, ended with all their children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import psutil

from tercet.launch.engines.vllm import SITE

READY_TIMEOUT_S = 300.0


class Server:
    """One server process with its children, all on one core."""

    def __init__(
        self, command: Sequence[str], environment: dict[str, str], port: int, ready: str, core: int, log: Path
    ) -> None:
        """Start it; `ready` is the path that answers 200 once it can compute."""
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        self._ready = f"{self.url}{ready}"
        self._core = core
        own = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {core})  # children inherit it
        try:
            with log.open("wb") as output:
                self._process = subprocess.Popen(
                    command,
                    env=os.environ | environment,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        finally:
            os.sched_setaffinity(0, own)

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tree(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def wait_ready(self) -> float:
        """Wait until it can compute; return the seconds. Raises RuntimeError with the log's end when it dies."""
        begin = time.monotonic()
        while time.monotonic() - begin < READY_TIMEOUT_S:
            if self._process.poll() is not None:
                break
            try:
                urllib.request.urlopen(self._ready, timeout=5)
            except (urllib.error.URLError, OSError):
                time.sleep(0.25)
                continue
            for process in self._tree():  # whatever bound itself elsewhere
                process.cpu_affinity([self._core])
            return time.monotonic() - begin
        raise RuntimeError(
            f"{self._ready} does not answer; the log ends:\n" + self._log.read_text(errors="replace")[-3000:]
        )

    def freeze(self) -> None:
        """Stop all its processes: a server that spins must not disturb the other's turn."""
        for process in self._tree():
            process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them run again."""
        for process in self._tree():
            process.send_signal(signal.SIGCONT)

    def cpu_seconds(self) -> float:
        """Return the processor time of all its processes so far."""
        return sum(t.user + t.system for t in (p.cpu_times() for p in self._tree()))

    def resident_gb(self) -> float:
        """Return the resident memory of all its processes, shared pages counted in each."""
        return sum(p.memory_info().rss for p in self._tree()) / 1e9

    def close(self) -> None:
        """End it with all its children."""
        tree = self._tree()
        self.thaw()
        self._process.terminate()
        _, alive = psutil.wait_procs(tree, timeout=20)
        for process in alive:
            process.kill()
        self._process.wait(timeout=20)


def tercet(folder: Path, name: str, dtype: str, port: int, core: int, log: Path) -> Server:
    """Start a worker that serves whole requests."""
    command = [sys.executable, "-m", "tercet", "worker", "--model", str(folder), "--served-model-name", name]
    command += ["--dtype", dtype, "--port", str(port), "--devices", f"cpu:{core}"]
    return Server(command, {}, port, "/ready", core, log)


def vllm(python: Path, folder: Path, name: str, dtype: str, port: int, core: int, log: Path) -> Server:
    """Start vLLM's CPU build from its own environment, without its prefix cache (prompts are unique anyway)."""
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", name, "--dtype", dtype, "--port", str(port), "--host", "127.0.0.1"]
    command += ["--enforce-eager", "--max-model-len", "4096", "--no-enable-prefix-caching"]
    environment = {
        "PYTHONPATH": str(SITE),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": str(core),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    return Server(command, environment, port, "/health", core, log)
