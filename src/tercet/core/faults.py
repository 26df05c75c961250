"""What a log may hold of an unexpected exception."""

from __future__ import annotations

from collections.abc import Iterator
from traceback import walk_tb


def whence(error: BaseException) -> str:
    """Return an exception's type and where it came from, a frame a line, and so those of its causes. Not what it says:
    `ValueError: could not convert ...` quotes what a client sent."""
    return "\n".join(_lines(error))


def _lines(error: BaseException | None) -> Iterator[str]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield ("after " if seen else "") + f"{type(error).__module__}.{type(error).__qualname__}"
        seen.add(id(error))
        for frame, line in walk_tb(error.__traceback__):
            yield f"  {frame.f_code.co_filename}:{line} in {frame.f_code.co_qualname}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
