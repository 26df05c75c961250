"""`tercet keys new`, `list` and `revoke`: the file of a router's API keys."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tercet.core.api_keys import HASHED, ApiKey, KeyRing, digest_of, key_lines, new_key, read_line
from tercet.core.errors import UsageError

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
"""The sub-commands of `tercet keys`."""

File = Annotated[Path, typer.Argument(metavar="FILE", help="What --api-key-file of the router names.")]


@app.callback()
def keys() -> None:
    """Make, list and revoke the API keys of a router.

    FILE holds a line for each key: its hash, never the key itself, with its name and limits. A router reads it again
    when it changes: a new key works, and a revoked one doesn't, within a second. Start one with
    `tercet serve --api-key-file FILE`; clients send `Authorization: Bearer KEY`.
    """


@app.command("new")
def new_command(
    file: File,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Whose it is.  [default: key-N]")] = None,
    priority: Annotated[
        bool, typer.Option("--priority", help="Its requests may go first: header X-Tercet-Priority, 1 to 9.")
    ] = False,
    admin: Annotated[
        bool, typer.Option("--admin", help="Lets in to everything: status, modes, caches, workers.")
    ] = False,
    requests_per_minute: Annotated[int | None, typer.Option(metavar="N", min=1)] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(metavar="N", help="Of prompts and answers together.", min=1)
    ] = None,
    concurrent: Annotated[int | None, typer.Option(metavar="N", help="Requests at once.", min=1)] = None,
) -> None:
    """Make a key, add its hash to FILE, and print it: it can't be shown again.

    \b
    Examples:
      tercet keys new keys.txt --name alice --requests-per-minute 60 --tokens-per-minute 100000 --concurrent 4
      tercet keys new keys.txt --name ops --admin
    """
    with _locked(file):
        lines = _lines(file)
        taken = {key.name for key in KeyRing(key_lines("\n".join(lines)))}
        chosen = name or next(f"key-{i}" for i in range(1, len(taken) + 2) if f"key-{i}" not in taken)
        if chosen in taken:
            raise UsageError(f"{file} has a key named {chosen!r} already: revoke it, or choose another --name")
        if not chosen.isascii() or not chosen.isprintable() or " " in chosen:
            raise UsageError(f"--name {chosen!r}: letters, digits and signs without spaces, please")
        key = new_key()
        made = ApiKey(chosen, digest_of(key), admin, requests_per_minute, tokens_per_minute, concurrent, priority)
        _write(file, [*lines, made.line()])
    typer.echo(key)


@app.command("list")
def list_command(file: File) -> None:
    """Show names, limits and the beginnings of hashes."""
    if not file.exists():
        raise UsageError(f"there is no {file}: `tercet keys new {file}` makes it, with a first key")
    lines = key_lines("\n".join(_lines(file)))
    KeyRing(lines)  # refuses what a router would
    first: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        key = read_line(line, number, admin=False)
        shown = replace(key, digest=key.digest[:12])
        words = shown.line().removeprefix(HASHED).split()[1:]
        kind = words[1:] if line.startswith(HASHED) else ["not hashed"]
        holder = first.setdefault(key.digest, key.name)
        same = "" if holder == key.name else f"  the same key as {holder}"
        typer.echo(f"{key.name}  {key.digest[:12]}  {' '.join(kind) or 'no limits'}{same}")


@app.command("revoke")
def revoke_command(
    file: File, name: Annotated[str, typer.Argument(metavar="NAME", help="As `tercet keys list` shows it.")]
) -> None:
    """Take a key out of FILE: it is refused from the next second on."""
    with _locked(file):
        lines = _lines(file)
        number, kept, found = 0, [], False
        for line in lines:
            if not key_lines(line):
                kept.append(line)
                continue
            number += 1
            if read_line(line.strip(), number, admin=False).name == name:
                found = True
            else:
                kept.append(line)
        if not found:
            raise UsageError(f"{file} has no key named {name!r}: see `tercet keys list {file}`")
        if not key_lines("\n".join(kept)):
            raise UsageError(
                f"{name!r} is the last key of {file}, and without one the door would stand open: make another first"
            )
        _write(file, kept)
    typer.echo(f"revoked {name}")


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {file}: {error}") from error


def _write(file: Path, lines: list[str]) -> None:
    """Replace the file at once: a router never reads half of it. Behind a link it is the file that is replaced."""
    try:
        real = file.resolve()
        descriptor, path = tempfile.mkstemp(dir=real.parent, prefix=f".{real.name}.")
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            if real.exists():
                _give_as_before(out.fileno(), real.stat())
            out.write("\n".join(lines) + "\n")
        os.replace(path, real)
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error}") from error


def _give_as_before(descriptor: int, before: os.stat_result) -> None:
    """Let those read the new file who could read the old one: a router of another user would go on with the keys that
    it knows, a revoked one among them."""
    with suppress(PermissionError):  # to a group that one is not in only root gives
        os.fchown(descriptor, -1, before.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
    with suppress(PermissionError):
        os.fchown(descriptor, before.st_uid, -1)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Keep out another `tercet keys` on the same file."""
    try:
        descriptor = os.open(file.resolve().parent, os.O_RDONLY)
    except OSError as error:
        raise UsageError(f"cannot open the folder of {file}: {error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
