"""Workers named in a file, read again when it changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tercet.core.errors import UsageError
from tercet.core.stage import Mode
from tercet.core.topology import mode_from_name
from tercet.router.discovery.source import DiscoveryError, Found, letter_of

EXAMPLE = "workers: [{url: http://HOST:PORT, role: decode}]"


class FileSource:
    """A YAML file: `workers`, each with `url` (as flags give it) and `role`; `mode` if it shall decide that too."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._found = Found()

    async def look(self) -> Found:
        """Read the file if it changed. Raises DiscoveryError naming what is wrong."""
        try:
            stat = self._path.stat()
            stamp = stat.st_mtime_ns, stat.st_size, stat.st_ino
            if stamp != self._stamp:
                found = read(self._path.read_text(encoding="utf-8"), self.name)
                self._stamp, self._found = stamp, found
        except (OSError, UnicodeDecodeError, UsageError) as error:
            raise DiscoveryError(str(error)) from error
        return self._found

    async def close(self) -> None:
        """Nothing is open."""


def read(text: str, source: str) -> Found:
    """Read a file's text. Raises UsageError."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{source} is no YAML: {error}") from None
    if not isinstance(data, dict) or set(data) - {"workers", "mode"} or not isinstance(data.get("workers"), list):
        raise UsageError(f"{source}: write {EXAMPLE}, and mode: NAME if it shall decide that")
    workers = dict(_worker(entry, f"{source}: workers[{i}]") for i, entry in enumerate(data["workers"]))
    mode: Mode | None = mode_from_name(str(data["mode"])) if "mode" in data else None
    return Found(workers, mode)


def _worker(entry: Any, where: str) -> tuple[str, str]:
    if not isinstance(entry, dict) or set(entry) != {"url", "role"}:
        raise UsageError(f"{where}: write {{url: http://HOST:PORT, role: decode}}")
    return str(entry["url"]), letter_of(str(entry["role"]), where)
