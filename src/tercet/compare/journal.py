"""What a comparison has measured so far, on disk: so that one that was killed goes on where it stopped."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

from tercet.core.errors import UsageError
from tercet.results.codec import decode, encode
from tercet.results.curve import Interference
from tercet.results.record import RunRecord

VERSION = 1
SUFFIX = ".journal"


@dataclass
class Kept:
    """What a journal holds beside its header."""

    runs: list[RunRecord] = field(default_factory=list)
    capital: dict[str, str] = field(default_factory=dict)
    interference: list[Interference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Journal:
    """A file of JSON lines: a header, then what was measured, each line written through to the disk as it comes.

    `header` says what is compared (`plan`), and holds what a continuation must not choose anew: `created_at`, `nonce`.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], kept: Kept, file: TextIO | None = None) -> None:
        self.path = path
        self.header = header
        self.kept = kept
        self._file = file

    @classmethod
    def create(cls, folder: Path, *, created_at: str, nonce: str, plan: Mapping[str, Any]) -> Journal:
        """Begin a new journal in `folder`; its file comes with the first thing to keep."""
        header = {"journal": VERSION, "created_at": created_at, "nonce": nonce, "plan": plan}
        stem = "".join(character for character in created_at if character.isalnum())
        return cls(folder / f"tercet-compare-{stem}-{os.getpid()}{SUFFIX}", header, Kept())

    @classmethod
    def read(cls, path: Path, plan: Mapping[str, Any]) -> Journal:
        """Read a journal to go on with. Raises UsageError when it is none, or of a comparison other than `plan`."""
        file = _open(path, "r+")
        try:
            return cls._read(path, file, plan)
        except BaseException:
            file.close()
            raise

    @classmethod
    def _read(cls, path: Path, file: TextIO, plan: Mapping[str, Any]) -> Journal:
        lines = file.read().split("\n")
        header = _line(lines[0])
        if header is None or header.get("journal") != VERSION:
            raise UsageError(f"{path} is no journal of a comparison (version {VERSION}): they end in {SUFFIX}")
        if different := _differences(header["plan"], json.loads(json.dumps(plan))):
            raise UsageError(f"{path} is of another comparison: {'; '.join(different)}")
        kept = Kept()
        for text in lines[1:]:
            entry = _line(text)
            if entry is None:
                continue  # cut off by the end of its writer: not finished, so not measured
            if "run" in entry:
                kept.runs.append(decode(RunRecord, entry["run"]))
            elif "interference" in entry:
                kept.interference.append(decode(Interference, entry["interference"]))
            elif "capital" in entry:
                kept.capital |= entry["capital"]
            else:
                kept.notes.append(entry["note"])
        if lines[-1]:
            file.write("\n")  # what was cut off stays a line of its own
        return cls(path, header, kept, file)

    @classmethod
    def latest(cls, folder: Path, plan: Mapping[str, Any]) -> Journal | None:
        """Return the newest journal in `folder` of this very comparison; None without one."""
        for path in sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime, reverse=True):
            try:
                return cls.read(path, plan)
            except UsageError:
                continue
        return None

    def run(self, record: RunRecord) -> None:
        """Keep a finished run."""
        self.kept.runs.append(record)
        self._write({"run": encode(record)})

    def capital(self, label: str, answer: str) -> None:
        """Keep an answer about the capital of France."""
        self.kept.capital[label] = answer
        self._write({"capital": {label: answer}})

    def interference(self, found: Interference) -> None:
        """Keep a probe's outcome."""
        self.kept.interference.append(found)
        self._write({"interference": encode(found)})

    def note(self, text: str) -> None:
        """Keep what a reader must know."""
        self.kept.notes.append(text)
        self._write({"note": text})

    def close(self) -> None:
        """Let go of the file; it stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Remove the file: everything is in the results now."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _write(self, entry: Mapping[str, Any]) -> None:
        if self._file is None:
            self._file = _open(self.path, "x")
            self._file.write(json.dumps(self.header) + "\n")
        self._file.write(json.dumps(entry, separators=(",", ":")) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _open(path: Path, how: Literal["r+", "x"]) -> TextIO:
    """Open a journal for one writer at a time. Raises UsageError."""
    try:
        file = path.open(how, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"can't open the journal {path}: {error}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UsageError(f"{path} is being written by a comparison that still runs") from None
    return file


def _line(text: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(text)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    names = dict.fromkeys((*ours, *theirs))
    return [
        f"its {name} is {_short(theirs.get(name))}, not {_short(ours.get(name))}"
        for name in names
        if theirs.get(name) != ours.get(name)
    ]


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
