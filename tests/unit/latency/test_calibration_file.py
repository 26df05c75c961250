from __future__ import annotations

from pathlib import Path

import pytest

from tercet.core.errors import UsageError
from tercet.latency.calibration_file import Calibration, read_calibration, write_calibration
from tercet.latency.measured import MeasuredOracle
from tercet.latency.stack import StackConstants

STACK = StackConstants(1.3, 20.0, 45.0, image_host_workers=4, source="a test")
ORACLE = MeasuredOracle(10.0, 1.0, 0.001, 0.5, 0.0001, 30.0, 23040, 11000)


@pytest.mark.parametrize("name", ["stack.yaml", "stack.json"])
@pytest.mark.parametrize("oracle", [None, ORACLE])
def test_a_calibration_survives_its_file(tmp_path: Path, name: str, oracle: MeasuredOracle | None) -> None:
    write_calibration(Calibration(STACK, oracle, {"timings": 3}), tmp_path / name)
    read = read_calibration(tmp_path / name)
    assert (read.stack, read.oracle) == (STACK, oracle)
    chosen = read.chosen()
    assert (chosen is None) == (oracle is None)
    if chosen is not None:
        assert chosen.source.kind == "measured" and "a test" in chosen.source.summary


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scale: 0", "scale is 0"),
        ("speed: 1", "'speed' is not known"),
        ("hop_ms: -1", "hop_ms"),
        ("scale: .nan", "scale is nan"),
        ("hop_ms: .inf", "hop_ms is inf"),
        ("hop_ms: yes", "hop_ms"),
        ("image_host_workers: 1.5", "whole number"),
        ("- 1", "calibrate"),
        ("{", "can't be read"),
        ("{stack: {}, oracle: 3}", "not a mapping"),
        ("{stack: {}, oracle: {base_ms: 1}}", "lacks token_ms"),
    ],
)
def test_a_bad_file_is_refused_with_the_reason(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UsageError, match=said):
        read_calibration(tmp_path / "s.yaml")
    with pytest.raises(UsageError, match="can't be read"):
        read_calibration(tmp_path / "missing.yaml")
    with pytest.raises(UsageError, match="can't write"):
        write_calibration(Calibration(STACK), tmp_path / "no" / "s.yaml")
