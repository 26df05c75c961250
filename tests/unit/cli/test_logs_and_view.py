from __future__ import annotations

import io
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tercet.cli.logs import _show
from tercet.cli.main import build_app
from tercet.cli.start_view import LineView, LiveView, start_view
from tercet.cli.status import _show as _show_status
from tercet.core.api_keys import ApiKey, digest_of
from tercet.core.errors import UsageError
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
    nowhere = logs("--log-dir", str(tmp_path / "nowhere"), home=tmp_path)
    assert (nowhere.returncode, nowhere.stdout) == (2, "") and "there is no folder" in nowhere.stderr


def test_a_long_log_is_not_kept_in_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "router.log"
    path.write_text("".join(f"{i:>99}\n" for i in range(200_000)))
    tracemalloc.start()
    try:
        _show(path, 2, follow=False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [int(line) for line in capsys.readouterr().out.split()] == [199_998, 199_999]
    assert peak < path.stat().st_size / 10


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
        path.write_text("to\n")  # shorter: it was emptied, as of a full disk
        assert follower.stdout.readline() == "to\n"
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


@pytest.mark.parametrize("command", ["status", "top", "doctor", "bench"])
@pytest.mark.parametrize("url", ["http://", "http://127.0.0.1:99999", "https://:8000"])
def test_an_url_that_is_none_is_wrong_use(command: str, url: str) -> None:
    with pytest.raises(UsageError, match=f"^{url!r} is no server's URL: write http://HOST:PORT$"):
        CliRunner().invoke(build_app([command]), [command, url], catch_exceptions=False)


@pytest.mark.parametrize("line", [("stop", "pd", "--all"), ("top",), ("status", "--json")])
def test_what_is_meant_must_be_clear(line: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    words = "--all and 'pd' contradict each other" if line[0] == "stop" else "^nothing is running here: give a router's"
    with pytest.raises(UsageError, match=words):
        CliRunner().invoke(build_app(line), line, catch_exceptions=False)


def test_a_keys_hash_opens_nothing_for_the_doctor_either(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    file.write_text(ApiKey("ops", digest_of("k"), admin=True).line() + "\n")
    line = ["doctor", "http://127.0.0.1:9", "--api-key-file", str(file)]
    with pytest.raises(UsageError, match="holds the hash of a key"):
        CliRunner().invoke(build_app(line), line, catch_exceptions=False)


@pytest.mark.parametrize("arguments", [("status", "nonsense"), ("status", "http://127.0.0.1:9")])
def test_status_says_why_it_shows_nothing(arguments: tuple[str, ...], tmp_path: Path) -> None:
    env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tercet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=90, check=False)
    assert (done.returncode, done.stdout) == (2 if "nonsense" in arguments else 1, "")
    assert "neither a router's URL" in done.stderr or "no router answers on http://127.0.0.1:9" in done.stderr


def test_a_long_reason_leaves_room_for_the_address() -> None:
    address = "http://127.0.0.1:18201@0"
    rank = {"name": "P0", "address": address, "ready": False, "prefix_blocks": 0, "unaccepted_handoffs": 0}
    rank |= {"requests": 0, "tokens": 0, "routed": 0, "pictures": 0}
    problem = "cannot connect to 127.0.0.1:18201: [Errno 111] Connection refused"
    worker = {"stages": ["prefill"], "models": ["m/[old]"], "problem": problem, "ranks": [rank]}
    data: dict[str, Any] = {"ready": False, "reason": "no worker", "mode": "pd", "balancer": "random", "uptime_s": 1.0}
    data |= {"dialect": "tercet", "in_flight": 0, "conversations": 0, "pairs": [], "unmatched": None, "counts": {}}
    out = io.StringIO()
    _show_status(Console(file=out, width=120), "http://r", {**data, "workers": [worker]})
    assert address in out.getvalue() and f"\nP0: {problem}\n" in out.getvalue()
    assert "m/[old]" in out.getvalue()


def test_the_doctor_says_brackets_as_they_are() -> None:
    line = ["doctor", "1A", "--model", "/nowhere/[engine]"]
    done = CliRunner().invoke(build_app(line), line)
    assert done.exit_code == 1 and "'/nowhere/[engine]'" in done.output and "FAULT" in done.output


def test_the_doctor_looks_for_an_engine_where_it_is_told() -> None:
    line = ["doctor", "1A", "--engine", "vllm", "--engine-python"]
    done = CliRunner().invoke(build_app(line), [*line, "/nowhere/python"])
    assert done.exit_code == 1 and "--engine-python /nowhere/python: no program there" in " ".join(done.output.split())
    done = CliRunner().invoke(build_app(line), [*line, sys.executable])
    assert f"vllm with {sys.executable}" in " ".join(done.output.split())
