"""How an engine's process is started."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tercet.worker.engine_child import ENGINE_COMMAND


def test_nothing_is_imported_from_the_folder_that_it_is_started_in(tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('of this folder')")
    ended = subprocess.run(ENGINE_COMMAND, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert "of this folder" not in ended.stderr and "sys.argv" in ended.stderr, "it misses its arguments alone"
