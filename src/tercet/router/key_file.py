"""The file of API keys, read again when it changes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from tercet.core.api_keys import KeyRing, key_lines
from tercet.core.errors import UsageError

log = logging.getLogger(__name__)

LOOK_S = 1.0


class KeyFile:
    """Keys given as lines, else those of a file. A file that can't be read, or holds nonsense, changes nothing."""

    def __init__(
        self, lines: tuple[str, ...] = (), path: str | None = None, clock: Callable[[], float] = monotonic
    ) -> None:
        """Raises UsageError for a file without keys: forgetting it must not open the door."""
        self._path, self._clock = None if path is None else Path(path), clock
        self._next_look = clock() + LOOK_S
        self._seen: tuple[int, int, int] | None = None
        self._ring = KeyRing(lines) if self._path is None else self._read(self._path)
        if self._path is not None and self._ring.plain:
            log.warning(
                "%s holds %d keys as they are: `tercet keys new` makes keys of which only a hash lies there",
                self._path,
                self._ring.plain,
            )

    @property
    def never(self) -> bool:
        """True when there are no keys, nor a file that could hold some."""
        return self._path is None and not self._ring

    def ring(self) -> tuple[KeyRing, bool]:
        """Return the keys, and whether they were just read anew. Looks at the file once a second at most."""
        if self._path is None or (now := self._clock()) < self._next_look:
            return self._ring, False
        self._next_look = now + LOOK_S
        try:
            if _stamp(self._path) == self._seen:
                return self._ring, False
            self._ring = self._read(self._path)
        except (OSError, UsageError) as error:
            log.error("the API keys stay as they were: %s", error)
            return self._ring, False
        log.info("read the API keys anew: %s", self._path)
        return self._ring, True

    def _read(self, path: Path) -> KeyRing:
        try:
            self._seen = _stamp(path)
        except OSError as error:
            raise _unreadable(path, error) from error
        return read_ring(path)


def read_ring(path: Path) -> KeyRing:
    """Return the keys of a file. Raises UsageError, also for a file without keys."""
    try:
        lines = key_lines(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    if not lines:
        raise UsageError(f"--api-key-file {path} holds no key: `tercet keys new {path}` makes one")
    return KeyRing(lines)


def _unreadable(path: Path, error: Exception) -> UsageError:
    return UsageError(f"cannot read --api-key-file {path}: {error}")


def _stamp(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
