"""Several results files in one report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from tercet.report.renaming import Renaming
from tercet.results.document import Results, Source
from tercet.results.summary import summarise

NOT_PAIRED = (
    "These are several files: architectures of different files did not run in pairs, and nothing is judged between "
    "them. `tercet compare --merge` judges those that can be compared."
)

OF_REQUESTS = (
    *("input_range", "output_range", "prefix_tokens", "prefix_groups", "images", "image_size", "image_pool"),
    "dataset_fingerprint",
)
"""Options of a traffic that say what a request is; how many there are and how long they come is another matter."""


def together(files: Sequence[tuple[str, Results]]) -> tuple[Results, tuple[str, ...]]:
    """Return one document of one or more files, each with its name, and warnings about what that means.

    An architecture that two files measured, and a workload that two files mean differently, are
    told apart by their file's name: `pd (monday)`.
    """
    if len(files) == 1:
        return files[0][1], ()
    measured = Counter(label for _, results in files for label in {run.architecture for run in results.runs})
    meanings: dict[str, set[object]] = {}
    for _, results in files:
        for traffic in results.traffics:
            options = tuple(str(traffic.options.get(name)) for name in OF_REQUESTS)
            meaning = (traffic.input_tokens, traffic.output_tokens, traffic.turns, traffic.think_s, *options)
            meanings.setdefault(traffic.workload, set()).add(meaning)
    renamed = []
    for name, results in files:
        labels = {run.architecture for run in results.runs}
        twice = {label: f"{label} ({name})" for label in labels if measured[label] > 1}
        unlike = {t.workload: f"{t.workload} ({name})" for t in results.traffics if len(meanings[t.workload]) > 1}
        renamed.append(Renaming(twice, unlike).apply(results))
    return _joined(files, renamed), _warnings(renamed)


def _joined(files: Sequence[tuple[str, Results]], renamed: Sequence[Results]) -> Results:
    runs = tuple(run for results in renamed for run in results.runs)
    records = tuple(record for results in renamed for record in results.architectures)
    return replace(
        renamed[0],
        model=", ".join(dict.fromkeys(results.model for results in renamed)),
        created_at=max(results.created_at for results in renamed),
        traffics=tuple({traffic.workload: traffic for results in renamed for traffic in results.traffics}.values()),
        architectures=records,
        runs=runs,
        summaries=summarise(runs, {record.label: record.devices for record in records}),
        verdicts=tuple(verdict for results in renamed for verdict in results.verdicts),
        curves=tuple(curve for results in renamed for curve in results.curves),
        improvements=tuple(each for results in renamed for each in results.improvements),
        interference=tuple(each for results in renamed for each in results.interference),
        answers=None,
        method=next((results.method for results in renamed if results.method is not None), None),
        sources=tuple(_source(name, results) for (name, _), results in zip(files, renamed, strict=True)),
        notes=tuple(dict.fromkeys(note for results in renamed for note in results.notes)),
        interrupted=any(results.interrupted for results in renamed),
    )


def _source(name: str, results: Results) -> Source:
    labels = tuple(dict.fromkeys(run.architecture for run in results.runs))
    return Source(name, results.created_at, results.command, results.versions, results.machine, labels)


def _warnings(renamed: Sequence[Results]) -> tuple[str, ...]:
    found = [NOT_PAIRED]
    for what, values in (
        ("models", dict.fromkeys(results.model for results in renamed)),
        ("machines", dict.fromkeys(results.machine.cpu for results in renamed)),
    ):
        if len(values) > 1:
            found.append(f"The files are of different {what}: {', '.join(values)}.")
    wrong = [results.answers for results in renamed if results.answers is not None and not results.answers.passed]
    return (*found, *(("WRONG answers were found in one of the files: see its own report.",) if wrong else ()))
