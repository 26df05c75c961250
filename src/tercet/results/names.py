"""What several results files are called where they are shown side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tercet.core.errors import UsageError


def told_apart(paths: Sequence[Path]) -> list[str]:
    """Return each file's name, after as many of its folders as tell all of them apart.

    Files of one name, such as monday/results.json and tuesday/results.json, would pass for one and the same. Raises
    UsageError for a file that is named twice: its runs would count twice.
    """
    whole = [path.resolve() for path in paths]
    if twice := [path for path, own in zip(paths, whole, strict=True) if whole.count(own) > 1]:
        raise UsageError(f"{twice[0]} is named twice: each file counts once")
    depth = 1
    while len(set(names := ["/".join(path.parts[-depth:]) for path in whole])) < len(names):
        depth += 1
    return names
