"""Files joined, and refused for a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tercet.compare.merge import Part, find_latest, load, merged
from tercet.core.errors import UsageError
from tercet.results.document import Results, TrafficRecord
from tercet.results.file import read, to_json, validate, write
from tercet.results.slo import Slo

from ..results.samples import architecture, request, results, run

TRAFFIC = TrafficRecord("W1", 0.125, 64, 32, 2, 0.0, "poisson", 2)


def measured(label: str, ttft: float, *, created: str = "2026-01-02T03:04:05+00:00", **changes: Any) -> Results:
    runs = tuple(
        run(label, (request("c0", 1, ttft, 0.01), request("c0", 2, ttft * (1 + 0.001 * block), 0.01)), number=block)
        for block in range(3)
    )
    whole = replace(results(), created_at=created, architectures=(architecture(label),), runs=runs, traffics=(TRAFFIC,))
    return replace(whole, **changes)


def parts(*documents: Results) -> list[Part]:
    return [
        Part(f"{i}.json", document, tuple(record.label for record in document.architectures))
        for i, document in enumerate(documents)
    ]


def joined(*documents: Results, **changes: Any) -> Results:
    values: dict[str, Any] = {
        "allow_unequal": False,
        "primary": ("ttft", "throughput"),
        "tie_margin": 0.03,
        "command": ("tercet", "compare", "--merge"),
        "created_at": "2026-01-05T00:00:00+00:00",
    }
    return merged(parts(*documents), **{**values, **changes})


def test_files_are_joined_and_judged_anew() -> None:
    whole = joined(measured("pd", 0.4), measured("ppd", 0.1))
    validate(to_json(whole), "merged")
    assert [record.label for record in whole.architectures] == ["pd", "ppd"]
    assert next(verdict for verdict in whole.verdicts if verdict.metric == "ttft").winner == "ppd"
    assert [found.second for found in whole.improvements] == ["pd", "pd"]
    assert [source.file for source in whole.sources] == ["0.json", "1.json"]
    assert [run.order for run in whole.runs] == list(range(6))
    assert whole.answers is not None
    assert (whole.answers.compared, whole.answers.equal) == (6, 6)
    assert "Merged from 0.json, 1.json" in whole.notes[0]


def test_what_was_measured_without_limits_is_judged_by_them_later() -> None:
    slow, quick = measured("pd", 0.4), measured("ppd", 0.1)
    slow = replace(slow, traffics=(TRAFFIC.with_slo(Slo(ttft_ms=5)),))
    both = [part.judged_by(Slo(ttft_ms=200)) for part in parts(slow, quick)]
    values: dict[str, Any] = {"allow_unequal": False, "tie_margin": 0.03, "command": (), "created_at": slow.created_at}
    whole = merged(both, primary=("goodput",), **values)
    assert next(verdict for verdict in whole.verdicts if verdict.metric == "goodput").winner == "ppd"
    with pytest.raises(UsageError, match="differ in the options of W1"):
        joined(slow, quick)
    with pytest.raises(UsageError, match="--primary goodput needs to know"):
        joined(measured("pd", 0.4), quick, primary=("goodput",))


def changed_traffic(**changes: Any) -> Callable[[Results], Results]:
    return lambda document: replace(document, traffics=(replace(TRAFFIC, **changes),))


def changed_runs(**changes: Any) -> Callable[[Results], Results]:
    return lambda document: replace(document, runs=tuple(replace(run, **changes) for run in document.runs))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda d: replace(d, model="other"), "differ in the model: smollm2-135m and other"),
        (lambda d: replace(d, seed=9), "differ in the seed: 0 and 9"),
        (changed_traffic(input_tokens=128), "differ in the input tokens of W1: 64 and 128"),
        (changed_traffic(turns=3), "differ in the turns of W1: 2 and 3"),
        (changed_traffic(arrivals="constant"), "differ in the arrivals of W1"),
        (changed_traffic(num_requests=4), "differ in the number of requests of W1"),
        (changed_traffic(options={"duration_s": 5}), "differ in the options of W1"),
        (changed_runs(load=8.0), "no workload, load and block in common"),
        (changed_runs(salt="other"), "block 1 of W1 at 1 sent other conversations in each file (0.json: s-b0, 1.json"),
        (changed_runs(salt="other"), "where servers were named by URL, measure all files with the same --salt"),
        (
            lambda d: replace(d, architectures=(replace(architecture("ppd"), devices=4),)),
            "have unequal numbers of devices (pd 2, ppd 4); --allow-unequal",
        ),
        (
            lambda d: replace(d, machine=replace(d.machine, cpu="another")),
            "ran on different devices (cpu of cpu; cpu of another); --allow-unequal",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_reason(change: Callable[[Results], Results], why: str) -> None:
    with pytest.raises(UsageError) as caught:
        joined(measured("pd", 0.4), change(measured("ppd", 0.1)))
    assert str(caught.value).startswith("can't merge: ")
    assert why in str(caught.value)


def test_unequal_devices_may_be_allowed_and_count_per_device() -> None:
    big = replace(measured("ppd", 0.1), architectures=(replace(architecture("ppd"), devices=4),))
    whole = joined(measured("pd", 0.4), big, allow_unequal=True)
    assert "output tokens/s per device" in {verdict.label for verdict in whole.verdicts}
    assert whole.method is not None and whole.method.unequal


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        ({"prefill-0": ("cpu:0-3",), "decode-0": ("cpu:4-7",)}, "cpu x 4+4 of cpu"),
        ({"prefill-0": ("cpu:0",), "decode-0": ("cpu:1+2",)}, "cpu x 1+2 of cpu"),
        ({"prefill-0": ("cuda:0+1",), "decode-0": ("cuda:2+3",)}, "cuda x 2+2 of cpu"),
    ],
)
def test_as_many_but_larger_devices_are_unequal(workers: dict[str, tuple[str, ...]], said: str) -> None:
    larger = replace(measured("ppd", 0.1), architectures=(replace(architecture("ppd"), workers=workers),))
    with pytest.raises(UsageError) as caught:
        joined(measured("pd", 0.4), larger)
    assert f"ran on different devices (cpu of cpu; {said}); --allow-unequal" in str(caught.value)
    same = {"worker-0": tuple(workers["decode-0"]), "worker-1": tuple(workers["prefill-0"])}
    other = replace(measured("pd", 0.4), architectures=(replace(architecture("pd"), workers=same),))
    assert joined(other, larger).sources


def test_a_label_in_two_files_is_refused() -> None:
    with pytest.raises(UsageError, match=r"0.json and 1.json both hold 'pd': measure one of them under another label"):
        joined(measured("pd", 0.4), measured("pd", 0.1))


def test_other_versions_and_machines_are_told() -> None:
    other = measured("ppd", 0.1, versions={"python": "3.12"})
    other = replace(other, machine=replace(other.machine, memory_bytes=1))
    notes = joined(measured("pd", 0.4), other).notes
    assert any("different versions of python" in note for note in notes)
    assert any("different machines" in note for note in notes)


def test_files_are_read_by_name_or_the_latest_of_each_architecture(tmp_path: Path) -> None:
    days = {
        ("pd", "02"): measured("pd", 0.4, created="2026-01-02T00:00:00+00:00"),
        ("pd", "03"): measured("pd", 0.5, created="2026-01-03T00:00:00+00:00"),
        ("ppd", "04"): measured("ppd", 0.1, created="2026-01-04T00:00:00+00:00"),
        ("other model", "05"): measured("x", 0.1, created="2026-01-01T00:00:00+00:00", model="other"),
    }
    paths = {key: write(document, tmp_path) for key, document in days.items()}
    (tmp_path / "tercet-compare-20270101T000000Z.json").write_text("{}")
    write(measured("pd", 0.5, created="2026-01-06T00:00:00+00:00", interrupted=True), tmp_path)
    chosen = find_latest(tmp_path)
    assert chosen == [paths["ppd", "04"], paths["pd", "03"]]
    assert [part.labels for part in load(chosen)] == [("ppd",), ("pd",)]
    assert read(chosen[0]).architectures[0].label == "ppd"


def test_the_latest_of_one_second_is_the_one_that_was_written_last(tmp_path: Path) -> None:
    *_, last = [write(measured("pd", 0.4), tmp_path) for _ in range(11)]
    other = write(measured("ppd", 0.1), tmp_path)
    assert other.stem.endswith("Z-12") and find_latest(tmp_path) == [other, last]


def test_the_latest_may_have_been_measured_under_other_limits_than_are_asked_for_now(tmp_path: Path) -> None:
    limited = (TRAFFIC.with_slo(Slo(ttft_ms=500.0)),)
    write(measured("pd", 0.4), tmp_path)
    write(measured("ppd", 0.1, traffics=limited), tmp_path)
    with pytest.raises(UsageError, match="no two files"):
        find_latest(tmp_path)
    assert len(find_latest(tmp_path, Slo(ttft_ms=300.0))) == 2


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    paths = []
    for day, label, ttft in (("monday", "pd", 0.4), ("tuesday", "ppd", 0.1)):
        written = write(measured(label, ttft), tmp_path / day)
        paths.append(written.rename(written.with_name("results.json")))
    read_parts = load(paths)
    assert [part.name for part in read_parts] == ["monday/results.json", "tuesday/results.json"]
    whole = merged(read_parts, allow_unequal=False, primary=("ttft",), tie_margin=0.03, command=(), created_at="")
    assert next(verdict for verdict in whole.verdicts if verdict.metric == "ttft").winner == "ppd"
    with pytest.raises(UsageError, match=r"results\.json is named twice"):
        load([paths[0], tmp_path / "tuesday" / ".." / "monday" / "results.json"])


def test_of_three_files_the_last_two_are_checked_against_each_other_too() -> None:
    """What the first one did not send could be another thing in each of them, and was judged as if it were one."""

    def both(label: str, **changes: Any) -> Results:
        document = measured(label, 0.4)
        more = tuple(replace(run, workload="W3", salt=f"{run.salt}-W3") for run in document.runs)
        traffics = (TRAFFIC, replace(TRAFFIC, workload="W3", **changes))
        return replace(document, runs=(*document.runs, *more), traffics=traffics)

    assert joined(measured("pd", 0.4), both("ppd"), both("replicated")).sources
    with pytest.raises(UsageError, match=r"1\.json and 2\.json differ in the think time of W3: 0\.0 and 9\.0"):
        joined(measured("pd", 0.4), both("ppd"), both("replicated", think_s=9.0))
    other = both("replicated")
    runs = tuple(replace(run, salt="x") if run.workload == "W3" else run for run in other.runs)
    with pytest.raises(UsageError, match="block 1 of W3 at 1 sent other conversations in each file"):
        joined(measured("pd", 0.4), both("ppd"), replace(other, runs=runs))


def test_one_file_is_nothing_to_merge(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two results files or more"):
        load([tmp_path / "a.json"])
    with pytest.raises(UsageError, match="no two files"):
        find_latest(tmp_path)
