"""Server-sent events, parsed as their bytes come in."""

from __future__ import annotations

from codecs import getincrementaldecoder

DONE = "[DONE]"


class SSEParser:
    """Turns pieces of a stream, split anywhere, into the data of its events.

    Lines end with LF, CRLF or CR. Several `data` lines of one event are joined with LF; fields other than data are
    ignored. An event larger than `max_event_bytes` raises ValueError. Bytes that are no UTF-8 become U+FFFD.
    `comment` is the last comment that said anything, without its colon.
    """

    __slots__ = ("_between", "_data", "_decoder", "_max", "_size", "_skip_lf", "_tail", "comment")

    def __init__(self, *, max_event_bytes: int = 64 * 1024 * 1024) -> None:
        self._decoder = getincrementaldecoder("utf-8-sig")("replace")
        self._tail = ""
        self._skip_lf = False
        self._data: list[str] = []
        self._size = 0
        self._max = max_event_bytes
        self._between = True
        self.comment = ""

    def feed(self, data: bytes) -> list[str]:
        """Return the data of the events that `data` completes."""
        if self._between and _one_event(data):
            return [data[6:-2].decode("utf-8", "replace")]
        text = self._decoder.decode(data)
        if not text:
            return []
        if self._skip_lf and text[0] == "\n":
            text = text[1:]
        self._skip_lf = text.endswith("\r") if text else False
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        lines = (self._tail + text).split("\n") if self._tail else text.split("\n")
        self._tail = lines.pop()
        events: list[str] = []
        for line in lines:
            self._line(line, events)
        self._between = not self._tail and not self._data and not self._skip_lf and text.endswith("\n")
        if self._size + len(self._tail) > self._max:
            raise ValueError(f"an event is larger than {self._max} bytes")
        return events

    def _line(self, line: str, events: list[str]) -> None:
        if not line:
            if self._data:
                events.append("\n".join(self._data) if len(self._data) > 1 else self._data[0])
                self._data.clear()
                self._size = 0
        elif line.startswith("data"):
            rest = line[4:]
            if not rest:
                self._data.append("")
            elif rest[0] == ":":
                value = rest[2:] if rest.startswith(": ") else rest[1:]
                self._data.append(value)
                self._size += len(value)
        elif line[0] == ":" and (said := line[1:].strip()):
            self.comment = said


def _one_event(data: bytes) -> bool:
    """Return whether a piece is one whole event of one line, as most are: it needs no parsing."""
    end = len(data) - 2
    return data[:6] == b"data: " and data[end:] == b"\n\n" and data.find(b"\n") == end and b"\r" not in data
