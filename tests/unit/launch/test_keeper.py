from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

from tercet.launch.groups import members
from tercet.launch.keeper import keep

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]


def test_the_pipes_end_kills_what_was_added_and_not_dropped(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    segment = Path("/dev/shm/tercet.keeper-test.p-0")
    segment.write_bytes(b"left")
    one, two = (subprocess.Popen(SLEEP, start_new_session=True) for _ in range(2))
    try:
        lines = io.StringIO(f"add {one.pid}\nadd {two.pid}\ndrop {two.pid}\n")
        assert keep(lines, "keeper-test", folder) == 0
        assert (members(one.pid), members(two.pid)) == ([], [two.pid])
        assert not segment.exists()
        assert not folder.exists()
    finally:
        for process in (one, two):
            process.kill()
            process.wait()


def test_bye_leaves_everything_alone(tmp_path: Path) -> None:
    with subprocess.Popen(SLEEP, start_new_session=True) as process:
        assert keep(io.StringIO(f"add {process.pid}\nbye\n"), "keeper-test", tmp_path) == 0
        assert members(process.pid) == [process.pid]
        assert tmp_path.exists()
        process.kill()
