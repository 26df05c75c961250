"""The Makefile's own set-up, with a stand-in for Python."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON = """\
#!/bin/sh
mkdir -p "$3/bin"
ln -sf /bin/sh "$3/bin/python"
[ -e "$(dirname "$0")/ensurepip" ]
"""


def test_an_environment_that_could_not_be_made_whole_is_made_anew(tmp_path: Path) -> None:
    python, made = tmp_path / "python", tmp_path / "venv" / "bin" / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    command = ["make", f"PYTHON={python}", f"VENV={tmp_path}/venv", str(made)]
    for whole in (False, True):  # as of a Debian without python3-venv, and then with it
        if whole:
            (tmp_path / "ensurepip").touch()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode == 0) == whole, done.stderr
        assert made.is_symlink() == whole
