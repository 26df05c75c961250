"""`tercet compare` and `tercet bench`: flags, refusals, help."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import tercet.cli.compare as command
from tercet.cli.main import build_app
from tercet.compare.spec import CompareSpec
from tercet.core.errors import UsageError


def asked(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> CompareSpec:
    """Return the spec that a command line comes to."""
    seen: list[CompareSpec] = []

    def keep(spec: CompareSpec, output: Path, cache_dir: Path | None) -> int:
        seen.append(spec)
        return 0

    monkeypatch.setattr(command, "_run", keep)
    line = ["compare", *arguments]
    result = CliRunner().invoke(build_app(line), line, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return seen[0]


def refused(*line: str) -> str:
    """Return the message of the UsageError that a command line ends with."""
    with pytest.raises(UsageError) as caught:
        CliRunner().invoke(build_app(line), line, catch_exceptions=False)
    return str(caught.value)


def test_the_issues_command_line_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "--modes replicated,pd,ppd --workload W1 --qps 0.5,1 --turns 2 --num-requests 8 --scale 0.125 --seed 3"
    spec = asked(monkeypatch, *line.split())
    assert spec.modes == ("replicated", "pd", "ppd")
    assert (spec.traffic.workload.input_tokens, spec.traffic.workload.output_tokens) == (64, 32)
    assert spec.rates == (0.5, 1.0)
    assert (spec.traffic.turns, spec.traffic.num_requests, spec.traffic.seed) == (2, 8, 3)
    assert (spec.model, spec.engine.dtype, spec.router.port) == ("smollm2-135m", "bf16", 0)


def test_a_preset_fills_in_what_was_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = asked(monkeypatch, "--num-requests", "6", "--preset", "demo")
    assert spec.traffic.turns == command.PRESETS["demo"]["turns"]
    assert spec.traffic.num_requests == 6


def test_topologies_devices_and_engine_reach_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = asked(
        monkeypatch,
        *[
            "--modes",
            "aggregated,pd",
            "--topologies",
            "aggregated=1A,pd=1P1D",
            "--allow-unequal",
            "--devices",
            "cpu:0,cpu:1",
        ],
        *["--random-weights", "tiny", "--dtype", "fp32", "--transport", "tcp", "--ppd-threshold", "64", "--runs", "3"],
    )
    assert spec.topologies == {"aggregated": "1A", "pd": "1P1D"}
    assert spec.devices == ("cpu:0", "cpu:1")
    assert (spec.engine.random_weights, spec.engine.dtype, spec.engine.transport) == ("tiny", "fp32", "tcp")
    assert (spec.router.ppd_threshold, spec.runs, spec.allow_unequal) == (64, 3, True)


def test_the_engines_are_made_long_enough_for_the_conversations(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = asked(monkeypatch, "--workload", "W4", "--scale", "1", "--turns", "1")
    assert spec.engine.max_model_len == 8448
    assert asked(monkeypatch, "--max-model-len", "512").engine.max_model_len == 512


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modes", "pd,fast"], "unknown mode 'fast': choose one of aggregated"),
        (["--modes", "pd,pd"], "twice"),
        (["--workload", "W9"], "unknown workload 'W9'"),
        (["--qps", "1,x"], "--qps '1,x'"),
        (["--qps", "0"], "--qps 0.0"),
        (["--turns", "0"], "--turns 0"),
        (["--scale", "0"], "--scale 0"),
        (["--runs", "0"], "--runs 0"),
        (["--arrivals", "uniform"], "choose poisson, constant"),
        (["--topologies", "1P1D"], "write MODE=FORM"),
        (["--dtype", "int4"], "unknown dtype 'int4'"),
        (["--engine", "virtual"], "--gpu NAME"),
        (["--preset", "fast"], "unknown preset 'fast': choose demo"),
        (
            ["--modes", "aggregated,pd", "--topologies", "aggregated=1A,pd=1P1D", "--devices", "cpu:0,cpu:1"],
            "--allow-unequal",
        ),
    ],
)
def test_wrong_input_is_refused_by_name(arguments: list[str], message: str) -> None:
    assert message in refused("compare", *arguments)


@pytest.mark.parametrize("name", ["compare", "bench"])
def test_help_teaches_with_examples(name: str) -> None:
    result = CliRunner().invoke(build_app([name]), [name, "--help"])
    assert result.exit_code == 0
    assert f"tercet {name} " in result.output.split("Examples:")[1]
    assert "--num-requests" in result.output
