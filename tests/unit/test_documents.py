"""The documents: command lines whose commands and flags exist, and links that lead somewhere."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from tercet.cli.main import ENTRIES, build_app

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS += sorted(path for folder in ("examples", "benchmarks") for path in (ROOT / folder).rglob("*.md"))
NAMES = "|".join(entry.name for entry in ENTRIES)
FLAG = re.compile(r"(?<![\w-])--?[a-z][a-z0-9-]*")


@cache
def flags_of(*words: str) -> set[str] | None:
    """Return the flags of a command, by its words; None of a group, or of what hands its flags on."""
    command: Any = get_command(build_app([words[0]]))
    for word in words:
        command = command.commands[word]
    if hasattr(command, "commands") or command.context_settings.get("ignore_unknown_options"):
        return None
    return {"--help", "-h"}.union(*([*each.opts, *each.secondary_opts] for each in command.params))


def unknown(text: str) -> list[str]:
    """Return the command lines of a text whose command or flags there are not."""
    found = []
    for line in re.sub(r" *\\\n *", " ", text).splitlines():
        for said in re.findall(rf"(?<![\w/.=-])tercet ((?:{NAMES})\b[^`|;)]*)", line):
            words = re.split(r"\s{2,}|\s#|&&", said)[0].split()
            path = words[: 2 if words[0] in ("deploy", "model", "engine", "keys") else 1]
            try:
                flags = flags_of(*path)
            except KeyError:
                found.append(said)
                continue
            if flags is not None and not set(FLAG.findall(" ".join(words[len(path) :]))) <= flags:
                found.append(said)
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_command_lines_use_commands_and_flags_that_exist(path: Path) -> None:
    assert unknown(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_so_do_the_examples_of_help(entry: Any) -> None:
    command: Any = get_command(build_app([entry.name])).commands[entry.name]  # type: ignore[attr-defined]
    for each in (command, *getattr(command, "commands", {}).values()):
        assert unknown(each.help or "") == []


def test_the_check_can_fail() -> None:
    text = "tercet serve 1P1D --prot 1\ntercet keys forge x\n`tercet stop --all` and tercet bench URL \\\n  --qpz 1"
    assert [line.split()[0] for line in unknown(text)] == ["serve", "keys", "bench"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, heading = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), target
        titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M) if heading else []
        anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
        assert not heading or heading in anchors, target
