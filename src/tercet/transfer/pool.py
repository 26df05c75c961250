"""A rank's KV pool in shared memory: one file under /dev/shm, owned by a process, gone with it."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import secrets
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from tercet.core.errors import UsageError

SHM_DIR = Path("/dev/shm")
DATA_OFFSET = 4096
"""The pool begins one page into the file; the page before it says whose it is."""
NONCE_BYTES = 16
NAME = re.compile(r"tercet\.([A-Za-z0-9_-]{1,64})\.([A-Za-z0-9_.@-]{1,128})")
"""A segment's file name: topology, then owner; the topology has no dot, so the two can't be confused."""

_HEADER = struct.Struct(f"<8sIIQ{NONCE_BYTES}s")
_MAGIC = b"TERCETKV"
_VERSION = 1
_MADV_POPULATE_WRITE = 23  # not yet a name in Python's mmap


@dataclass(frozen=True, slots=True)
class Segment:
    """What tells one segment from every other: its name, a random nonce, and the pool's size in bytes."""

    name: str
    nonce: bytes
    nbytes: int


def read_header(fd: int) -> tuple[Segment | None, int]:
    """Return (segment, owner's process id) as the file's first page says it; (None, 0) when it is no segment.

    The returned segment has no name: the page doesn't hold it.
    """
    data = os.pread(fd, _HEADER.size, 0)
    if len(data) < _HEADER.size:
        return None, 0
    magic, version, pid, nbytes, nonce = _HEADER.unpack(data)
    if magic != _MAGIC or version != _VERSION:
        return None, 0
    return Segment("", nonce, nbytes), pid


class SharedPool:
    """A pool that other processes of this user can map. Made by `create`; `close` removes it.

    The owner holds a lock (flock) on the file for as long as it lives. The kernel drops it when the process dies,
    however it dies, so `sweep` needs no guess about process ids to tell a leftover from a pool in use.
    """

    def __init__(self, fd: int, path: Path, segment: Segment) -> None:
        self._fd = fd
        self._path = path
        self.segment = segment
        self._map = mmap.mmap(fd, DATA_OFFSET + segment.nbytes)
        self.memory = memoryview(self._map)[DATA_OFFSET:]

    @classmethod
    def create(cls, topology: str, owner: str, nbytes: int) -> SharedPool:
        """Make the pool of `owner` (for instance "decode-0-1") in `topology`, replacing one left by a dead process.

        Memory is reserved here, so a full /dev/shm is an error now and not a crash later. Raises UsageError: bad
        name, a live owner of the same name, too little shared memory.
        """
        name = f"tercet.{topology}.{owner}"
        match = NAME.fullmatch(name)
        if match is None or match.group(1) != topology:
            raise UsageError(f"no pool can be named {name!r}: use letters, digits, - and _ in names")
        if nbytes <= 0:
            raise UsageError(f"no pool can have {nbytes} bytes")
        if not SHM_DIR.is_dir():
            raise UsageError(f"this system has no {SHM_DIR}, where KV pools live: run on Linux, or mount a tmpfs there")
        path = SHM_DIR / name
        segment = Segment(name, secrets.token_bytes(NONCE_BYTES), nbytes)
        fd = _open_own(path)
        try:
            os.posix_fallocate(fd, 0, DATA_OFFSET + nbytes)
            os.pwrite(fd, _HEADER.pack(_MAGIC, _VERSION, os.getpid(), nbytes, segment.nonce), 0)
            return cls(fd, path, segment)
        except OSError as error:
            path.unlink(missing_ok=True)
            os.close(fd)
            if error.errno in (errno.ENOSPC, errno.ENOMEM):
                free = os.statvfs(SHM_DIR)
                raise UsageError(
                    f"the KV pool needs {nbytes >> 20} MiB in {SHM_DIR},"
                    f" {free.f_bavail * free.f_frsize >> 20} MiB are free:"
                    " take fewer --kv-blocks, or enlarge it (containers: --shm-size)"
                ) from error
            raise

    def touch(self) -> None:
        """Make every page resident now: the first write to a page costs more than copying it."""
        try:
            self._map.madvise(_MADV_POPULATE_WRITE)
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: a kernel before 5.14
                raise

    def close(self) -> None:
        """Remove the segment. Memory that tensors still look at stays mapped until they are gone."""
        if self._fd < 0:
            return
        if _same_file(self._fd, self._path):
            self._path.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = -1
        try:
            self.memory.release()
            self._map.close()
        except BufferError:
            return  # an executor's tensors outlive the pool: the last of them unmaps it


def sweep(topology: str | None = None) -> list[str]:
    """Remove the segments of dead processes, of one topology or of all; return their names. Live ones stay."""
    removed: list[str] = []
    for path in sorted(SHM_DIR.glob("tercet.*")):
        match = NAME.fullmatch(path.name)
        if match is None or topology not in (None, match.group(1)):
            continue
        fd = _open_existing(path)
        if fd is None:
            continue
        try:
            if _lock(fd) and _same_file(fd, path):
                path.unlink()
                removed.append(path.name)
        finally:
            os.close(fd)
    return removed


def _open_own(path: Path) -> int:
    # A sweep may look at the file between its creation and its lock; then it is unlinked and we begin again.
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            _remove_stale(path)
            continue
        fcntl.flock(fd, fcntl.LOCK_EX)
        if _same_file(fd, path):
            os.fchmod(fd, 0o600)
            return fd
        os.close(fd)


def _remove_stale(path: Path) -> None:
    fd = _open_existing(path)
    if fd is None:
        if path.is_symlink() or path.exists():
            raise UsageError(f"{path} is in the way and not ours: remove it, or choose another topology name")
        return
    try:
        if not _lock(fd):
            raise UsageError(
                f"{path} is in use by process {read_header(fd)[1]}: stop it, or name this worker otherwise"
            )
        if _same_file(fd, path):
            path.unlink()
    finally:
        os.close(fd)


def _open_existing(path: Path) -> int | None:
    # /dev/shm is open to all users: what is there may be a link, a pipe or somebody else's.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
        return fd
    os.close(fd)
    return None


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same_file(fd: int, path: Path) -> bool:
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
