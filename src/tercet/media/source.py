"""From what a client calls a picture (a data URI, a URL, a path) to its bytes."""

from __future__ import annotations

import binascii
import os
import stat
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from tercet.media.errors import PictureError
from tercet.media.fetch import Fetcher
from tercet.media.limits import MediaLimits


class Sources:
    """Reads pictures' bytes, blocking; used by several threads at once."""

    def __init__(self, limits: MediaLimits) -> None:
        self._limits = limits
        self._fetcher = Fetcher(limits)

    def read(self, source: str) -> bytes:
        """Return the bytes of a data URI, an http(s) URL, or (when allowed) a file:// URL or path.

        Whether they are a picture is for the decoder to say: a media type in the source is not believed. Raises
        PictureError.
        """
        scheme = source[:8].partition(":")[0].lower()
        if scheme == "data":
            data = self._inline(source)
        elif scheme in ("http", "https"):
            data = self._fetcher.fetch(source)
        elif not self._limits.allow_local:
            raise PictureError(
                "not a data URI or an http(s) URL; local files are read by a worker started with --allow-local-media"
            )
        else:
            data = self._file(_path(source))
        if not data:
            raise PictureError("empty")
        return data

    def _inline(self, source: str) -> bytes:
        head, comma, payload = source.partition(",")
        if not comma:
            raise PictureError("a data URI without a comma: write data:image/png;base64,...")
        if not head.lower().endswith(";base64"):
            try:
                data = unquote_to_bytes(payload)
            except UnicodeEncodeError as error:
                raise PictureError("a data URI that is not valid Unicode: it holds a lone surrogate") from error
        elif len(payload) * 3 // 4 > self._limits.max_bytes + 2:
            raise self._too_large()
        else:
            try:
                data = binascii.a2b_base64(unquote(payload) if "%" in payload else payload, strict_mode=True)
            except ValueError as error:
                raise PictureError(f"a data URI that is not base64: {error}") from error
        if len(data) > self._limits.max_bytes:
            raise self._too_large()
        return data

    def _file(self, path: str) -> bytes:
        try:
            # Opening a pipe would wait for its writer, a device might never end.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise PictureError(f"{path} is not a regular file")
                data = file.read(self._limits.max_bytes + 1)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise PictureError(f"{path[:200]} can't be read: {reason}") from error
        if len(data) > self._limits.max_bytes:
            raise self._too_large()
        return data

    def _too_large(self) -> PictureError:
        return PictureError(f"larger than {self._limits.max_bytes} bytes")


def _path(source: str) -> str:
    if "://" not in source:
        return source
    parts = urlsplit(source)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise PictureError(f"not a data URI, an http(s) URL, or a file:///path: {source[:80]!r}")
    return unquote(parts.path)
