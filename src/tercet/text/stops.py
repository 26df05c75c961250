"""Stop strings that may be spread over several tokens."""

from __future__ import annotations

from collections.abc import Iterable


class StopStrings:
    """Watches a stream of text for the first stop string.

    The stop that *ends* first wins, the longest of several that end together: what reading character by character
    finds, so the result does not depend on how the text was cut into pushes. Holds back only what may be the beginning
    of a stop.
    """

    def __init__(self, stops: Iterable[str] = ()) -> None:
        self._stops = tuple(dict.fromkeys(stop for stop in stops if stop))
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self._matched: str | None = None

    @property
    def matched(self) -> str | None:
        """The stop string that was found, or None."""
        return self._matched

    def push(self, text: str) -> tuple[str, str | None]:
        """Return (text that can be sent, the stop string found or None). After a match nothing more comes out."""
        if not self._stops:
            return text, None
        if self._matched is not None:
            return "", self._matched
        buffer = self._held + text
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := buffer.find(stop)) >= 0]
        if found:
            _, at, self._matched = min(found)
            self._held = ""
            return buffer[:at], self._matched
        keep = self._possible_prefix(buffer)
        self._held = buffer[len(buffer) - keep :]
        return buffer[: len(buffer) - keep], None

    def flush(self) -> str:
        """Return the text still held back, when the answer has ended without a stop."""
        held, self._held = self._held, ""
        return held

    def _possible_prefix(self, buffer: str) -> int:
        """Return the length of the longest end of `buffer` that is the beginning of a stop."""
        for length in range(min(self._longest - 1, len(buffer)), 0, -1):
            tail = buffer[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
