"""What machine and which versions a result was measured with."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import psutil

from tercet.results.document import Machine

PACKAGES = ("tercet", "torch", "transformers", "numpy", "uvloop", "httptools", "pyzmq", "msgpack", "tokenizers")


def this_machine() -> Machine:
    """Return the machine that this process runs on."""
    return Machine(
        cpu=_cpu_model(Path("/proc/cpuinfo")),
        cores=os.cpu_count() or 1,
        usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=int(psutil.virtual_memory().total),
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
    )


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of those packages that decide speed, as far as they are installed."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _cpu_model(cpuinfo: Path) -> str:
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()
