"""The machine and the versions a result was measured with."""

from __future__ import annotations

import platform
from pathlib import Path

from tercet import __version__
from tercet.results.environment import _cpu_model, installed_versions, this_machine


def test_this_machine_is_described() -> None:
    machine = this_machine()
    assert machine.cpu
    assert 1 <= machine.usable_cores <= machine.cores
    assert machine.memory_bytes > 1 << 20


def test_the_cpu_model_comes_from_cpuinfo_where_there_is_one(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Fast Chip 9\n")
    assert _cpu_model(cpuinfo) == "Fast Chip 9"
    assert _cpu_model(tmp_path / "none") == (platform.processor() or platform.machine())


def test_versions_name_tercet_and_python() -> None:
    versions = installed_versions()
    assert versions["python"] == platform.python_version()
    assert versions["tercet"] == __version__
