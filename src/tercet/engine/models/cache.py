"""The cache folder: where it is, one writer at a time, and folders that appear complete or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tercet.core.errors import TercetError

Progress = Callable[[str, float], None]
"""Called with what is being done and its fraction done, 0 to 1."""

_TEMP_PREFIX = ".tmp-"


def cache_root(cache_dir: Path | None = None) -> Path:
    """Return the cache folder: `cache_dir`, $TERCET_CACHE, $XDG_CACHE_HOME/tercet or ~/.cache/tercet."""
    if cache_dir is not None:
        return cache_dir.expanduser()
    if chosen := os.environ.get("TERCET_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tercet"


def no_progress(what: str, fraction: float) -> None:
    """Report nothing."""


@contextmanager
def exclusive(path: Path, *, timeout_s: float, progress: Progress = no_progress) -> Iterator[None]:
    """Hold the lock file `path` alone, against threads and processes. The system releases it when its holder dies.

    Raises TercetError when another holder keeps it for `timeout_s`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_s
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
            if time.monotonic() > deadline:
                raise TercetError(f"another process has held {path} for {timeout_s:.0f} s: end it, then try again")
            progress("waiting for another process that prepares this model", 0.0)
            time.sleep(0.1)
        yield


@contextmanager
def new_folder(parent: Path, name: str) -> Iterator[Path]:
    """Yield an empty temporary folder beside its destination; what is left of it goes away on exit."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{_TEMP_PREFIX}{name}-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_folder(
    destination: Path,
    whole: Callable[[], bool],
    make: Callable[[Path], None],
    *,
    needs_bytes: int,
    timeout_s: float,
    progress: Progress = no_progress,
) -> None:
    """Publish what `make` leaves in "model" of the temporary folder it gets, unless `whole` says that it is there.

    One writer at a time, so `whole` is asked again once the lock is held. Raises TercetError: no room, a write that
    failed, another holder of the lock for `timeout_s`.
    """
    parent, name = destination.parent, destination.name
    try:
        with exclusive(parent / f".{name}.lock", timeout_s=timeout_s, progress=progress):
            if whole():  # by the one that held the lock before
                return
            _sweep(parent, name)
            _require_space(parent, needs_bytes)
            with new_folder(parent, name) as work:
                make(work)
                publish(work / "model", destination)
    except OSError as error:
        raise explain_os_error(error, parent) from error
    progress("ready", 1.0)


def _sweep(parent: Path, name: str) -> None:
    """Remove the temporary folders of `name` that killed processes left. Call it with the lock held."""
    for leftover in parent.glob(f"{_TEMP_PREFIX}{name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def publish(folder: Path, destination: Path) -> None:
    """Move a finished folder to its name in one step, in place of an older one. Its files are on the disk before.

    Who has an older one's files open keeps them. Call it with the lock held.
    """
    folder.chmod(0o755)  # mkdtemp's 0700 would hide the model from others who share the cache
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    with new_folder(destination.parent, destination.name) as aside:
        if destination.exists():
            destination.rename(aside / "old")
        folder.rename(destination)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_space(folder: Path, needed: int) -> None:
    """Raise TercetError when less than `needed` bytes are free where `folder` is to be."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise TercetError(
            f"{folder} has {free / 1e6:.0f} MB free, {needed / 1e6:.0f} MB are needed: "
            "make room, or choose another place with --cache-dir or TERCET_CACHE"
        )


def explain_os_error(error: OSError, folder: Path) -> TercetError:
    """Return the error to raise for a write that failed under `folder`: disk full, read-only, no permission."""
    advice = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "make it writable"
    return TercetError(f"can't write in {folder}: {error}; {advice}, or choose another place with --cache-dir")
