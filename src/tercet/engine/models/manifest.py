"""The manifest of a model in the cache: what it was made from, and every file's size and checksum."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tercet.engine.models.cache import sha256_of

MANIFEST = "tercet.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file as it was written: size in bytes and SHA-256."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """`source_sha256` names what the files were made from."""

    name: str
    source: str
    source_sha256: str
    license: str
    files: Mapping[str, FileRecord]


def write_manifest(folder: Path, *, name: str, source: str, source_sha256: str, license: str) -> Manifest:
    """Record all files of a finished folder, and write that beside them."""
    files = {path.name: FileRecord(path.stat().st_size, sha256_of(path)) for path in sorted(folder.iterdir())}
    content = {
        "format": _FORMAT,
        "name": name,
        "source": source,
        "source_sha256": source_sha256,
        "license": license,
        "files": {name: {"size": file.size, "sha256": file.sha256} for name, file in files.items()},
    }
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return Manifest(name, source, source_sha256, license, MappingProxyType(files))


def read_manifest(folder: Path) -> Manifest | None:
    """Return a folder's manifest; None when it has none, or not one of this version: it is to be made anew."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            return None
        files = {name: FileRecord(int(f["size"]), str(f["sha256"])) for name, f in content["files"].items()}
        return Manifest(
            str(content["name"]),
            str(content["source"]),
            str(content["source_sha256"]),
            str(content["license"]),
            MappingProxyType(files),
        )
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def is_whole(folder: Path, manifest: Manifest) -> bool:
    """Check cheaply: the sizes of all files, and the configuration's checksum."""
    fit = all(
        (folder / name).is_file() and (folder / name).stat().st_size == f.size for name, f in manifest.files.items()
    )
    return fit and sha256_of(folder / "config.json") == manifest.files["config.json"].sha256


def damaged_files(folder: Path) -> list[str]:
    """Read every byte and return the files whose checksum is wrong; none where there is no manifest."""
    manifest = read_manifest(folder)
    return [] if manifest is None else [n for n, f in manifest.files.items() if sha256_of(folder / n) != f.sha256]
