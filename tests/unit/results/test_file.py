"""Results files: written whole, validated, read back."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tercet.core.errors import TercetError, UsageError
from tercet.results import curve, document, record, summary, verdict
from tercet.results.curve import Improvement, Interference, RatioCurve, RatioPoint, Region
from tercet.results.document import Method, Results, Source
from tercet.results.file import load_schema, read, require_writable, to_json, validate, write
from tercet.results.record import FAILURES, StageBusy
from tercet.results.verdict import BEATEN, AnswerCheck, Margin, Verdict

from .samples import results


def full() -> Results:
    judged = Verdict(
        "W1",
        "qps",
        1.0,
        "ttft",
        "TTFT",
        "ms",
        True,
        True,
        {"pd": 2.0, "ppd": 1.0},
        ("ppd",),
        (Margin("pd", 1.0, 0.9, 1.1, 0.001, BEATEN),),
        "3 blocks",
    )
    taken_over = RatioCurve(
        "W1",
        "qps",
        "ttft",
        "TTFT",
        True,
        "pd",
        "ppd",
        (RatioPoint(1.0, 2.0, 1.9, 2.1, 3),),
        (Region(1.0, 1.0, "ppd"),),
        "none",
        "ppd better",
    )
    first, second = results().runs
    busy = replace(first, stages=(StageBusy("decode-0", "decode", 0.5),), window_s=(0.5, 3.0))
    detailed = replace(
        second.requests[0], chunk_tokens=(1, 1, 1, 1, 1), phases_ms={"prefill": 3.0}, headers_s=1.4, images=1
    )
    return replace(
        results(),
        runs=(busy, replace(second, requests=(detailed, replace(second.requests[1], failure="http_5xx")))),
        verdicts=(judged,),
        answers=AnswerCheck(2, 2, 0, True, {"pd": "Paris."}),
        curves=(taken_over,),
        improvements=(
            Improvement("W1", "qps", "ttft_later", "TTFT turn 2", "ppd", "pd", 0.6, None, 0.7, 0.5, 0.7, 3, 2),
        ),
        interference=(Interference("pd", 4, 512, 3, 10.0, 12.0, 30.0, 90.0, 120.0),),
        method=Method(5, ("ttft", "throughput"), 0.03, "turn", unequal=False),
        sources=(Source("a.json", "2026-01-02T03:04:05+00:00", ("tercet",), {}, results().machine, ("pd",)),),
    )


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
        *(getattr(document, name) for name in ("Machine", "TrafficRecord", "ArchitectureRecord", "Method", "Source")),
        *(getattr(record, name) for name in ("RequestRecord", "ClientHealth", "StageBusy", "RunRecord")),
        *(getattr(summary, name) for name in ("Spread", "TurnSummary", "Summary")),
        *(getattr(curve, name) for name in ("RatioPoint", "Region", "RatioCurve", "Improvement", "Interference")),
        *(getattr(verdict, name) for name in ("Margin", "Verdict", "AnswerCheck")),
    ]
    assert {kind.__name__ for kind in kinds} == set(schema["$defs"])
    for kind in kinds:
        assert {field.name for field in fields(kind)} == set(schema["$defs"][kind.__name__]["properties"])
    assert schema["$defs"]["RequestRecord"]["properties"]["failure"]["enum"] == [*FAILURES, None]
    assert {field.name for field in fields(Results)} | {"schema_version"} == set(schema["properties"])


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        (("runs", 0, "load"), "fast", "runs/0/load"),
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
    with pytest.raises(UsageError, match=r"x\.json: results of schema version 1; this Tercet reads version 2"):
        validate({**to_json(full()), "schema_version": 1}, "x.json")
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
