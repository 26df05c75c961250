"""Results files: written whole, validated, read back."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tercet.core.errors import TercetError, UsageError
from tercet.results import document, record, summary, verdict
from tercet.results.document import Results
from tercet.results.file import load_schema, read, require_writable, to_json, validate, write
from tercet.results.verdict import AnswerCheck, Margin, Verdict

from .samples import results


def full() -> Results:
    judged = Verdict(
        1.0, "TTFT", "ms", True, {"pd": 2.0, "ppd": 1.0}, ("ppd",), (Margin("pd", 1.0, 0.9, 1.1, True),), "3 runs"
    )
    return replace(results(), verdicts=(judged,), answers=AnswerCheck(2, 2, 0, True, {"pd": "Paris."}))


def test_what_is_written_reads_back_equal_to_the_microsecond(tmp_path: Path) -> None:
    path = write(full(), tmp_path / "new" / "folder")
    assert path.name == "tercet-compare-20260102T030405Z.json"
    assert to_json(read(path)) == to_json(full())


def test_nothing_is_overwritten_and_nothing_partial_stays(tmp_path: Path) -> None:
    first, second = write(full(), tmp_path), write(results(), tmp_path)
    assert second.name == "tercet-compare-20260102T030405Z-2.json"
    assert to_json(read(first)) == to_json(full())
    assert sorted(tmp_path.iterdir()) == sorted([first, second])


def test_the_schema_is_valid_and_covers_every_field() -> None:
    schema = load_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    kinds: list[Any] = [
        *(getattr(document, name) for name in ("Machine", "TrafficRecord", "DeploymentRecord")),
        *(getattr(record, name) for name in ("RequestRecord", "ClientHealth", "RunRecord")),
        *(getattr(summary, name) for name in ("Spread", "TurnSummary", "ModeSummary")),
        *(getattr(verdict, name) for name in ("Margin", "Verdict", "AnswerCheck")),
    ]
    assert {kind.__name__ for kind in kinds} == set(schema["$defs"])
    for kind in kinds:
        assert {field.name for field in fields(kind)} == set(schema["$defs"][kind.__name__]["properties"])
    assert {field.name for field in fields(Results)} | {"schema_version"} == set(schema["properties"])


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        (("runs", 0, "qps"), "fast", "runs/0/qps"),
        (("runs", 0, "requests", 0, "turn"), 0, "runs/0/requests/0/turn"),
        (("kind",), "other", "kind"),
        (("surprise",), 1, "the top"),
    ],
)
def test_a_fault_is_named_with_its_place(path: tuple[str | int, ...], value: object, place: str) -> None:
    data = json.loads(json.dumps(to_json(full())))
    target = data
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(UsageError, match=f"here.json.*at {place}:"):
        validate(data, "here.json")


def test_another_version_a_missing_file_and_other_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="schema version 99"):
        validate({**to_json(full()), "schema_version": 99}, "x.json")
    with pytest.raises(UsageError, match="No such file"):
        read(tmp_path / "none.json")
    (tmp_path / "text.json").write_text("hello")
    with pytest.raises(UsageError, match="not JSON"):
        read(tmp_path / "text.json")


def test_an_unwritable_folder_is_the_callers_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--output"):
        write(full(), tmp_path / "file")
    with pytest.raises(UsageError, match="--output"):
        require_writable(tmp_path / "file" / "below")


def test_a_folder_is_tried_without_leaving_anything_in_it(tmp_path: Path) -> None:
    require_writable(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_document_against_the_schema_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(TercetError, match="kind"):
        write(replace(full(), kind="wrong"), tmp_path)
    assert list(tmp_path.iterdir()) == []
