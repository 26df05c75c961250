from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tercet.cli.start_view import LineView, LiveView, start_view
from tercet.launch.progress import Progress


def logs(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "XDG_RUNTIME_DIR": str(home), "XDG_STATE_HOME": str(home)}
    command = [sys.executable, "-m", "tercet", "logs", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=90, check=False)


def test_the_last_lines_of_a_role(tmp_path: Path) -> None:
    folder = tmp_path / "tercet" / "old"
    folder.mkdir(parents=True)
    (folder / "decode-0.log").write_text("".join(f"line {i}\n" for i in range(5)))
    os.chmod(tmp_path / "tercet", 0o700)
    assert logs("decode-0", "-n", "2", "--name", "old", home=tmp_path).stdout == "line 3\nline 4\n"
    assert logs("decode-0", "-n", "0", "--log-dir", str(folder), home=tmp_path).stdout.count("line") == 5
    missing = logs("prefill-0", "--name", "old", home=tmp_path)
    assert missing.returncode == 2
    assert "no log of 'prefill-0'" in missing.stderr and "there are decode-0" in missing.stderr
    assert "no deployment 'new' is running" in logs("router", "--name", "new", home=tmp_path).stderr


def test_following_goes_on_with_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "router.log"
    path.write_text("one\n")
    command = [sys.executable, "-m", "tercet", "logs", "router", "-f", "--log-dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "one\n"
        with path.open("a") as file:
            file.write("two\n")
        assert follower.stdout.readline() == "two\n"
        path.rename(tmp_path / "router.log.1")
        path.write_text("a new start\n")
        assert follower.stdout.readline() == "a new start\n"
        follower.terminate()


PARTS = [
    Progress("deployment", "warning", "2 ranks share cpu:0"),
    Progress("decode-0", "starting"),
    Progress("decode-0", "ready", "after 1.0 s"),
    Progress("deployment", "ready", "http://127.0.0.1:8000"),
    Progress("decode-0", "crashed", "killed by SIGKILL; next start in 1 s"),
]


def test_lines_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    with start_view(Console(file=out, width=200)) as view:
        assert type(view) is LineView
        for fraction in (0.0, 0.01, 0.05, 0.12, 0.15, 0.5, 1.0):
            view.model("downloading", fraction)
        for progress in PARTS:
            view.part(progress)
    assert out.getvalue().splitlines() == [
        *(f"model: downloading {percent}%" for percent in (0, 12, 50, 100)),
        "warning: 2 ranks share cpu:0",
        "decode-0 starting",
        "decode-0 ready: after 1.0 s",
        "decode-0 crashed: killed by SIGKILL; next start in 1 s",
    ]


def test_a_live_list_on_a_terminal() -> None:
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True, color_system=None)
    with start_view(console) as view:
        assert isinstance(view, LiveView)
        view.model("downloading", 0.5)
        for progress in PARTS[:-1]:
            view.part(progress)
        view.close()
        view.part(PARTS[-1])
        view.part(Progress("decode-0", "starting"))
        view.part(Progress("decode-0", "ready"))
    text = out.getvalue()
    assert "✓ decode-0 ready" in text
    assert "model: downloading 50%" in text
    assert "warning: 2 ranks share cpu:0" in text
    assert "decode-0 crashed: killed by SIGKILL" in text
    assert text.rstrip().endswith("decode-0 ready")


@pytest.mark.parametrize("arguments", [("status", "nonsense"), ("status", "http://127.0.0.1:9")])
def test_status_says_why_it_shows_nothing(arguments: tuple[str, ...], tmp_path: Path) -> None:
    env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tercet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=90, check=False)
    assert (done.returncode, done.stdout) == (2 if "nonsense" in arguments else 1, "")
    assert "neither a router's URL" in done.stderr or "no router answers on http://127.0.0.1:9" in done.stderr
