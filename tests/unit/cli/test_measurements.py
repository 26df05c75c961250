"""Which of the files that a pattern names count."""

from __future__ import annotations

from pathlib import Path

import pytest

from tercet.cli.measurements import measurements
from tercet.core.errors import UsageError

STEM = "tercet-bench-20260131T120000Z"
EXPORTS = (f"{STEM}-vllm-qps4-r0.json", f"{STEM}-aiperf-qps4-r0.json", f"{STEM}-aiperf-qps4-r0.jsonl")
PLAN = "tercet-plan-20260131T120000Z.json"


def chosen(*names: str) -> list[str]:
    return [str(path) for path in measurements([Path(name) for name in names])]


def test_an_export_beside_its_file_and_a_plan_are_left_out_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert chosen(*EXPORTS, f"{STEM}.json", PLAN, "vllm.json") == [f"{STEM}.json", "vllm.json"]
    said = capsys.readouterr().err
    assert f"{PLAN}, a plan" in said and all(f"{name}, an export" in said for name in EXPORTS)


@pytest.mark.parametrize("names", [EXPORTS[:2], (f"{STEM}.json", f"{STEM}-2.json"), (f"{STEM}-2.json", EXPORTS[0])])
def test_what_stands_for_runs_of_its_own_is_kept(names: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert chosen(*names) == list(names)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("names", "said"),
    [((PLAN,), "`tercet plan` measures nothing"), (("a.json", "./a.json"), "named twice")],
)
def test_no_measurement_and_one_twice_are_refused(names: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        chosen(*names)
