"""What is kept of a comparison that was killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tercet.compare.journal import Journal
from tercet.core.errors import UsageError
from tercet.results.codec import encode
from tercet.results.curve import Interference

from ..results.samples import results

PLAN = {"loads": [1.0], "blocks": 5}
PROBE = Interference("pd", 4, 512, 3, 10.0, 12.0, 30.0, 90.0, 120.0)


def begun(folder: Path) -> Journal:
    return Journal.create(folder, created_at="2026-01-02T03:04:05+00:00", nonce="s1-abc", plan=PLAN)


def test_everything_comes_back(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    assert list(tmp_path.iterdir()) == [], "nothing to keep, no file"
    for run in results().runs:
        journal.run(run)
    journal.capital("pd", "Paris.")
    journal.interference(PROBE)
    journal.note("decode-0 crashed.")
    journal.close()
    again = Journal.read(journal.path, PLAN)
    assert encode(again.kept.runs) == encode(results().runs)
    assert again.kept.capital == {"pd": "Paris."}
    assert again.kept.interference == [PROBE]
    assert again.kept.notes == ["decode-0 crashed."]
    assert again.header == {"journal": 1, "created_at": "2026-01-02T03:04:05+00:00", "nonce": "s1-abc", "plan": PLAN}
    again.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_was_cut_off_is_not_measured_and_writing_goes_on(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    first, second = results().runs
    journal.run(first)
    journal.run(second)
    journal.close()
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-100])
    again = Journal.read(journal.path, PLAN)
    assert [run.architecture for run in again.kept.runs] == ["pd"]
    again.run(second)
    again.close()
    assert [run.architecture for run in Journal.read(journal.path, PLAN).kept.runs] == ["pd", "ppd"]


def test_another_comparison_is_refused_by_what_differs(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    journal.note("x")
    journal.close()
    with pytest.raises(UsageError, match=r"of another comparison: its loads is \[1.0\], not \[1.0, 2.0\]"):
        Journal.read(journal.path, {**PLAN, "loads": [1.0, 2.0]})
    assert Journal.latest(tmp_path, {**PLAN, "blocks": 3}) is None
    found = Journal.latest(tmp_path, PLAN)
    assert found is not None
    assert found.path == journal.path


def test_one_that_is_being_written_is_nobody_elses(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    journal.note("x")
    with pytest.raises(UsageError, match="still runs"):
        Journal.read(journal.path, PLAN)
    assert Journal.latest(tmp_path, PLAN) is None


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.journal").write_text("hello\n")
    with pytest.raises(UsageError, match="no journal"):
        Journal.read(tmp_path / "x.journal", PLAN)
    with pytest.raises(UsageError, match="can't open"):
        Journal.read(tmp_path / "none.journal", PLAN)
