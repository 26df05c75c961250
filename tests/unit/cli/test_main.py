from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest
from typer.main import get_command

from tercet.cli.main import ENTRIES, Entry, build_app

HERE = [entry for entry in ENTRIES if find_spec(f"tercet.cli.{entry.module}") is not None]


def tercet(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tercet", *arguments], capture_output=True, text=True, timeout=90, check=False
    )


def test_help_loads_nothing_that_takes_long() -> None:
    show = "import atexit, sys; atexit.register(lambda: print(*sys.modules)); sys.argv[1:] = ['--help']\n"
    run = "from tercet.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", show + run], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.rpartition("\n  ")[2].split())
    assert "tercet.cli.main" in loaded
    assert not loaded & {"torch", "transformers", "numpy", "jsonschema", "uvloop", "zmq", "altair", "PIL"}


def test_help_teaches_the_words() -> None:
    done = tercet("--help")
    assert done.returncode == 0
    for word in ("worker", "topology", "mode", "rank", "1P1D", "tercet serve"):
        assert word in done.stdout
    assert all(re.search(rf"^  {entry.name} ", done.stdout, re.M) for entry in HERE)


@pytest.mark.parametrize("entry", HERE, ids=lambda entry: entry.name)
def test_every_command_says_in_its_help_what_the_list_says_and_gives_examples(entry: Entry) -> None:
    module = import_module(f"tercet.cli.{entry.module}")
    assert build_app([entry.name, "--help"]) is not None
    if not hasattr(module, "app"):
        text = getattr(module, entry.name).__doc__
        assert "Examples:" in text
        assert f"tercet {entry.name}" in text


def test_a_command_named_loads_no_other_and_help_loads_no_engine() -> None:
    code = """
import sys
from tercet.cli.main import build_app
from typer.main import get_command
try:
    get_command(build_app(["serve", "--help"])).main(["serve", "--help"])
except SystemExit:
    pass
heavy = {"torch", "transformers", "zmq", "numpy", "tercet.cli.router", "tercet.cli.compare"} & set(sys.modules)
print("HEAVY", sorted(heavy))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90, check=True)
    assert done.stdout.rstrip().endswith("HEAVY []")


def test_a_mistyped_command_is_corrected() -> None:
    done = tercet("serv")
    assert done.returncode == 2
    assert "No such command 'serv'. Did you mean 'serve'?" in done.stderr


def test_version() -> None:
    assert tercet("--version").stdout.startswith("tercet 0.")


def test_a_usage_error_is_one_line_and_exit_code_2() -> None:
    done = tercet("serve", "--mode", "pdd")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown mode 'pdd': choose one of aggregated, replicated, pd, ppd, epd, eppd\n"


def test_no_arguments_show_the_help() -> None:
    with pytest.raises(SystemExit) as caught:
        get_command(build_app([])).main([])
    assert caught.value.code in (0, 2)


def test_the_schema_is_printed() -> None:
    assert '"title": "Tercet topology"' in tercet("schema").stdout
