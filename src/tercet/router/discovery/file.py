"""Workers named in a file, read again when it changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tercet.core.errors import UsageError
from tercet.core.stage import Mode
from tercet.core.topology import mode_from_name
from tercet.router.discovery.source import DiscoveryError, Found, Setting, letter_of

KEYS = {"workers", "mode", "settings", "refused"}
EXAMPLE = "workers: [{url: http://HOST:PORT, role: decode}]"


class FileSource:
    """A YAML file: `workers`, each with `url` (as flags give it) and `role`; `mode` and `settings` (see `Live`) if it
    shall decide those too. `refused` is for a program that writes it, to have its problem told by the router."""

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
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date of month 13 is a ValueError
        raise UsageError(f"{source} is no YAML: {error}") from None
    if not isinstance(data, dict) or set(data) - KEYS or not isinstance(data.get("workers"), list):
        raise UsageError(
            f"{source}: write {EXAMPLE}, and mode: NAME, settings: {{idle_timeout: 30}} if it shall decide those"
        )
    workers = dict(_worker(entry, f"{source}: workers[{i}]") for i, entry in enumerate(data["workers"]))
    mode: Mode | None = mode_from_name(str(data["mode"])) if "mode" in data else None
    settings = _settings(data["settings"], source) if "settings" in data else None
    return Found(workers, mode, settings, str(data.get("refused", "")))


def _settings(entries: Any, source: str) -> dict[str, Setting]:
    if not isinstance(entries, dict) or not all(map(_is_setting, entries.values())):
        raise UsageError(f"{source}: settings: write {{first_byte_timeout: 60, max_retries: 2, balancer: round_robin}}")
    return {str(name): value for name, value in entries.items()}


def _is_setting(value: object) -> bool:
    return value is None or type(value) in (int, float, str)


def _worker(entry: Any, where: str) -> tuple[str, str]:
    if not isinstance(entry, dict) or set(entry) != {"url", "role"}:
        raise UsageError(f"{where}: write {{url: http://HOST:PORT, role: decode}}")
    return str(entry["url"]), letter_of(str(entry["role"]), where)
