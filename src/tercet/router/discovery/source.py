"""What a source of workers is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from tercet.core.digits import count_in
from tercet.core.errors import TercetError, UsageError
from tercet.core.stage import ROLE_NAMES, Mode
from tercet.router.named_worker import joining

LETTERS = {name: letter for letter, name in ROLE_NAMES.items()} | {letter: letter for letter in ROLE_NAMES}
"""A role by its name or its letter."""
Setting = float | str | None
"""What a setting may be that can change while the router runs."""


class DiscoveryError(TercetError):
    """A source could not be read: what it said before stays true."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a source says now: workers, as flags give them, with their letters; a mode and live settings if it names
    some; why whoever wrote it could not follow what it was asked (`refused`)."""

    workers: Mapping[str, str] = field(default_factory=dict)
    mode: Mode | None = None
    settings: Mapping[str, Setting] | None = None
    refused: str = ""


class Source(Protocol):
    """Says which workers there are. Each has a `name` of its own: one name or selector may stand for workers of several
    roles, at several ports."""

    name: str

    async def look(self) -> Found:
        """Return what there is now. Raises DiscoveryError."""
        ...

    async def close(self) -> None:
        """Close what was opened."""
        ...


def letter_of(role: str, where: str) -> str:
    """Return the letter of a role. Raises UsageError."""
    try:
        return LETTERS[role]
    except KeyError:
        raise UsageError(f"{where}: role {role!r} is none of {', '.join(ROLE_NAMES.values())}") from None


def port_of(text: str, where: str) -> int:
    """Read a port. Raises UsageError."""
    port = count_in(text)
    if port is None or not 0 < port < 65536:
        raise UsageError(f"{where}: {text!r} is no port")
    return port


def said_of(fragment: str, where: str) -> str:
    """Return what is said of each worker behind its URL, `#bootstrap=8998`, checked. Raises UsageError."""
    try:
        joining(f"http://worker{fragment}", "A", None)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    return fragment


def host_in_url(address: str) -> str:
    """Return an IP address as an URL has it."""
    return f"[{address}]" if ":" in address else address
