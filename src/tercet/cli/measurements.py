"""Which of the files that were named, by a pattern perhaps, hold measurements, each of them once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import typer

from tercet.core.errors import UsageError
from tercet.results.export import FORMATS
from tercet.results.names import told_apart

_EXPORTED = re.compile(rf"(tercet-[a-z]+-[0-9TZ]+(?:-[0-9]+)?)-(?:{'|'.join(FORMATS)})-.+\.jsonl?")
"""How `tercet bench --export` calls its files; the group is the results file's own name."""

_PLAN = re.compile(r"tercet-plan-[0-9TZ]+\.json")


def measurements(files: Sequence[Path]) -> list[Path]:
    """Return `files` without plans, and without what was exported of a file that is there itself: said on stderr.

    `results/*.json` names those too, and runs that are there in several formats would count several times. Raises
    UsageError for a file that is named twice, and when nothing is left.
    """
    told_apart(files)
    named = {path.resolve() for path in files}
    plans = [path for path in files if _PLAN.fullmatch(path.name)]
    copies = [
        path
        for path in files
        if (found := _EXPORTED.fullmatch(path.name)) and path.resolve().with_name(f"{found[1]}.json") in named
    ]
    kept = [path for path in files if path not in plans and path not in copies]
    if not kept:
        raise UsageError(f"{', '.join(map(str, plans))}: `tercet plan` measures nothing; name results files")
    for left, why in ((plans, "a plan"), (copies, "an export of a file that is named itself")):
        for path in left:
            typer.echo(f"left out: {path}, {why}", err=True)
    return kept
