"""What is running: one folder per deployment, locked by its launcher for as long as it lives."""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tercet.core.errors import UsageError
from tercet.transfer.pool import sweep

STATE_FILE = "state.json"
LOCK_FILE = "lock"


@dataclass(frozen=True, slots=True)
class RunState:
    """One deployment as others see it.

    `phase` is starting, ready or stopping; `pid` the launcher's; `workers` (name, URL) pairs.
    """

    name: str
    topology_id: str
    pid: int
    phase: str
    url: str
    shape: str
    mode: str
    model: str
    log_dir: str
    started_at: float
    workers: tuple[tuple[str, str], ...] = ()


def default_run_root() -> Path:
    """Return this user's folder of running deployments: under XDG_RUNTIME_DIR, else /tmp."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "tercet" if base else Path(f"/tmp/tercet-{os.getuid()}")


def default_log_dir(name: str) -> Path:
    """Return where a deployment's logs go when nobody says; they stay there after its end."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "tercet" / name


def open_log(folder: Path) -> int:
    """Make a deployment's folder of logs and open its launcher's log to append to. Raises UsageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder / "launcher.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(f"can't write logs into {folder}: {error.strerror}; give another --log-dir") from error


class RunDir:
    """A claimed folder. Who holds its lock is alive: the kernel drops the lock with the process, however it ends."""

    def __init__(self, path: Path, name: str, lock: int) -> None:
        self.path = path
        self.name = name
        self._lock = lock

    @property
    def topology_id(self) -> str:
        """Return what names the deployment's shared segments and its folder; unique per start, unlike the name."""
        return self.path.name

    @classmethod
    def claim(cls, root: Path, name: str, asked: Mapping[int, str] | None = None, held: Iterable[int] = ()) -> RunDir:
        """Make a folder for `name`, or `name-2`, ... where that name is running; clean up dead ones first. Of the ports
        that it holds some were `asked` for, for a part each. Raises UsageError for one that another deployment holds:
        until that listens there, it looks free."""
        with _root_lock(root):
            living = _sweep_stale(root)
            _refuse_taken(living, asked or {})
            taken = {str(data.get("name")) for data in living}
            i, unique = 1, name
            while unique in taken:
                i += 1
                unique = f"{name}-{i}"
            path = root / f"{re.sub('[^A-Za-z0-9_-]', '-', unique)[:44]}-{secrets.token_hex(4)}"
            path.mkdir(mode=0o700)
            lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            claimed = cls(path, unique, lock)
            try:
                write_private(path / STATE_FILE, json.dumps({"name": unique, "ports": list(held)}))
            except UsageError:
                claimed._remove()
                raise
            return claimed

    def write(self, state: RunState) -> None:
        """Publish the state. Raises UsageError."""
        write_private(self.path / STATE_FILE, json.dumps(asdict(state), indent=1))

    def release(self) -> None:
        """Remove the folder and drop the lock."""
        if self._lock < 0:
            return
        try:
            with _root_lock(self.path.parent):
                self._remove()
        except UsageError:  # a root that was taken away under it, as a login's is with its end
            self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def running(root: Path) -> list[RunState]:
    """Return the deployments that are alive, by name; what dead launchers left is removed. Raises UsageError."""
    try:
        root.stat()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:  # another user's, where `su` left XDG_RUNTIME_DIR as it was
        raise _unusable(root, error) from error
    with _root_lock(root):
        states = [_state(data) for data in _sweep_stale(root) if "pid" in data]
    return sorted(states, key=lambda state: state.name)


def find_running(root: Path, name: str | None) -> RunState:
    """Return the deployment called `name`, or the only one there is. Raises UsageError that lists what there is."""
    states = running(root)
    names = ", ".join(state.name for state in states)
    if name is not None:
        for state in states:
            if state.name == name:
                return state
        raise UsageError(f"no deployment {name!r} is running" + (f"; running: {names}" if names else ""))
    if not states:
        raise UsageError("nothing is running; start something with `tercet serve 1P1D --detach`")
    if len(states) > 1:
        raise UsageError(f"several deployments are running, name one: {names}")
    return states[0]


def alive(root: Path, state: RunState) -> bool:
    """Return whether this very deployment's launcher still lives."""
    return any(other.topology_id == state.topology_id for other in running(root))


def _sweep_stale(root: Path) -> list[dict[str, Any]]:
    """Remove the folders whose launcher is dead; return what the living ones say. Call with the root's lock held."""
    living: list[dict[str, Any]] = []
    # Only folders with a lock are ours to judge: logs may have been put beside them.
    for path in sorted(lock.parent for lock in root.glob(f"*/{LOCK_FILE}")):
        if _locked(path / LOCK_FILE):
            living.append(json.loads((path / STATE_FILE).read_text(encoding="utf-8")))
            continue
        shutil.rmtree(path, ignore_errors=True)
        sweep(path.name)
    return living


def _refuse_taken(living: list[dict[str, Any]], asked: Mapping[int, str]) -> None:
    for data in living:
        urls = [data.get("url", ""), *(url for _, url in data.get("workers", ()))]
        theirs = {urlsplit(url).port for url in urls} | set(data.get("ports", ()))
        for port, part in asked.items():
            if port in theirs:
                raise port_taken(port, part, data["name"])


def port_taken(port: int, part: str, by: str, how: str = "") -> UsageError:
    """Return the refusal of a port that the deployment `by` holds; `how` another is chosen for this part."""
    return UsageError(
        f"port {port} ({part}) is in use by the deployment {by!r}: end that with `tercet stop {by}`, or choose "
        f"another port{how}"
    )


def _state(data: dict[str, Any]) -> RunState:
    return RunState(**{**data, "workers": tuple((str(name), str(url)) for name, url in data["workers"])})


def _locked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def write_private(path: Path, text: str) -> None:
    """Replace the file, which others may not read, at once: a reader sees the old text or the new. Raises
    UsageError."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"can't write {path}: {error.strerror}") from error


@contextmanager
def _root_lock(root: Path) -> Iterator[None]:
    """Hold the root's lock, making the root (0700) when there is none. UsageError if others could write there, or this
    user can't."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = root.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
            raise UsageError(
                f"{root} must be a folder of yours with mode 0700: it says what `tercet stop` ends. Remove it"
            )
        fd = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)
    except OSError as error:
        raise _unusable(root, error) from error


def _unusable(root: Path, error: OSError) -> UsageError:
    return UsageError(
        f"{root}, which says what is running, can't be used: {error.strerror}; set XDG_RUNTIME_DIR to a folder of yours"
    )
