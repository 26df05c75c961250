"""Writing, reading and validating results files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import jsonschema

from tercet.core.errors import TercetError, UsageError
from tercet.results.codec import decode, encode
from tercet.results.document import SCHEMA_VERSION, Results


def load_schema() -> dict[str, Any]:
    """Return the JSON schema of results files (`results.schema.json`, shipped beside this file)."""
    text = resources.files("tercet.results").joinpath("results.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def validate(data: Any, where: str) -> None:
    """Raise UsageError naming `where`, the place inside and the fault, unless `data` is a results document."""
    if not isinstance(data, dict) or "schema_version" not in data:
        raise UsageError(f"{where}: no results file, neither of Tercet nor of another tool that it reads")
    version = data["schema_version"]
    if version != SCHEMA_VERSION:
        raise UsageError(f"{where}: results of schema version {version!r}; this Tercet reads version {SCHEMA_VERSION}")
    best = jsonschema.exceptions.best_match(
        jsonschema.Draft202012Validator(load_schema()).iter_errors(_without_pieces(data))
    )
    if best is not None:
        place = "/".join(str(part) for part in best.absolute_path) or "the top"
        raise UsageError(f"{where}: not a results file: at {place}: {best.message}")


def _without_pieces(data: dict[str, Any]) -> dict[str, Any]:
    """Return a document without those lists of its requests' pieces that are right beyond doubt.

    They are nearly all of a file, and a validator takes longer over them than the measurement took: what is left in
    for it are the lists that hold anything but numbers, to be named.
    """
    runs = data.get("runs")
    if not isinstance(runs, list):
        return data
    return {**data, "runs": [_run_without_pieces(run) for run in runs]}


def _run_without_pieces(run: Any) -> Any:
    if not isinstance(run, dict) or not isinstance(run.get("requests"), list):
        return run
    return {**run, "requests": [_request_without_pieces(request) for request in run["requests"]]}


def _request_without_pieces(request: Any) -> Any:
    if not isinstance(request, dict):
        return request
    times, tokens = request.get("chunk_s"), request.get("chunk_tokens")
    plain = dict(request)
    if isinstance(times, list) and all(type(time) in (float, int) for time in times):
        plain["chunk_s"] = []
    if isinstance(tokens, list) and all(type(count) is int and count >= 0 for count in tokens):
        plain["chunk_tokens"] = []
    return plain


def to_json(results: Results) -> dict[str, Any]:
    """Return the JSON-able document with its schema version."""
    return {"schema_version": SCHEMA_VERSION, **encode(results)}


def write(results: Results, folder: Path) -> Path:
    """Write `tercet-KIND-YYYYmmddTHHMMSSZ.json` into `folder` (made if missing) and return its path.

    Never overwrites: a second file of the same second gets `-2`. Validated first; readers see the whole file or none.
    """
    data = to_json(results)
    try:
        validate(data, "the results about to be written")
    except UsageError as error:
        raise TercetError(f"{error} (a fault in Tercet: please report it)") from error
    moment = datetime.fromisoformat(results.created_at).astimezone(UTC)
    stem = f"tercet-{results.kind}-{moment:%Y%m%dT%H%M%SZ}"
    with _writing(folder):
        partial = folder / f".{stem}.{os.getpid()}.partial"
        partial.write_text(json.dumps(data, separators=(",", ":")) + "\n", encoding="utf-8")
        return _publish(partial, stem)


def require_writable(folder: Path) -> None:
    """Make the folder, or raise UsageError when results could not be written there: before minutes go into them."""
    with _writing(folder), NamedTemporaryFile(dir=folder):
        pass


def read(path: Path) -> Results:
    """Read and validate a results file. Raises UsageError on a missing, malformed or foreign one."""
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))  # an editor may have put a mark in front
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    validate(data, str(path))
    return decode(Results, data)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UsageError(f"can't write results into {folder}: {error.strerror}; give another --output") from error


def _publish(partial: Path, stem: str) -> Path:
    number = 1
    while True:
        path = partial.with_name(f"{stem}.json" if number == 1 else f"{stem}-{number}.json")
        try:
            os.link(partial, path)
        except FileExistsError:
            number += 1
            continue
        partial.unlink()
        return path
