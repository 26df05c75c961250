"""Answers that aren't plain, read by the parser: interim ones, other framings, chunks cut anywhere."""

from __future__ import annotations

import httptools

from tercet.http.wire import LAST_CHUNK, has_body

BROKEN = (httptools.HttpParserError, httptools.HttpParserUpgrade)
"""What the parser raises: for bad HTTP, and for a switch to another protocol that nobody asked for."""
_CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class AnswerReader:
    """Reads the answer to one request. All of it may raise one of `BROKEN`.

    `bounded` is false when the body ends with the connection, `extra` true once bytes followed the answer's end,
    `interim_bytes` the size of the interim answers before it.
    """

    __slots__ = (
        "_in_body",
        "_method",
        "_parser",
        "_pieces",
        "bounded",
        "chunked",
        "complete",
        "extra",
        "headers",
        "interim_bytes",
        "keep_alive",
        "on_body",
        "status",
    )

    def __init__(self, method: str) -> None:
        self._method = method
        self._in_body = False
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # called by the parser: no Python frame for a piece
        self.bounded = True
        self.chunked = False
        self.complete = False
        self.extra = False
        self.headers: dict[str, str] = {}
        self.interim_bytes = 0
        self.keep_alive = False
        self.status = 0
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    @classmethod
    def amid_chunks(cls) -> AnswerReader:
        """Return a reader of a chunked body of which whole chunks were read already."""
        reader = cls("GET")
        reader.read_head(_CHUNKED_HEAD)
        return reader

    def read_head(self, head: bytes) -> bool:
        """Read a head, up to its empty line. False when it was an interim one: the real one follows."""
        assert self._parser is not None
        self._parser.feed_data(head)
        if self.status < 200:
            self.complete = False
            self.headers.clear()
            self.interim_bytes += len(head)
            return False
        self._in_body = True
        length, coding = self.headers.get("content-length"), self.headers.get("transfer-encoding")
        self.chunked = coding is not None
        self.bounded = self.chunked or length is not None
        self.keep_alive = self._parser.should_keep_alive()
        if not self.complete and not has_body(self._method, self.status):
            self.complete = True
            self.keep_alive = False  # the parser would wait for a body that never comes
        return True

    def misframed(self) -> str | None:
        """Return what is wrong with the body's framing: passed on, it must read the same everywhere."""
        length, coding = self.headers.get("content-length"), self.headers.get("transfer-encoding")
        if coding is not None and coding.strip(" \t").lower() != "chunked":
            return f"its transfer coding is {coding!r}"
        assert self._parser is not None
        version = self._parser.get_http_version()
        if version != "1.1" and (version != "1.0" or coding is not None):
            return f"HTTP/{version}" + (" with Transfer-Encoding" if coding else "")
        if length is not None and len(length) > 19:
            return "its Content-Length is endless"
        return None

    def read(self, data: bytes) -> list[bytes]:
        """Read some of the body; return its pieces. The list is used again for the next."""
        assert self._parser is not None
        self._pieces.clear()
        self._parser.feed_data(data)
        if self.complete and self.chunked and _surplus(data):
            self.extra = True
        return self._pieces

    def whole_chunks(self) -> bool:
        """True when what came so far ends with a whole chunk. Asks the parser whether a last chunk would end the body
        here; it is of no further use then."""
        assert self._parser is not None
        try:
            self._parser.feed_data(LAST_CHUNK)
        except BROKEN:
            return False
        return self.complete

    def close(self) -> None:
        """Let go of the parser, which refers back to this reader."""
        self._parser = None

    # --- the parser's callbacks ---

    def on_message_begin(self) -> None:
        """A second answer on one request is one too many."""
        if self.complete:
            self.extra = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header; trailers are dropped."""
        if self._in_body:
            return
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1")
        known = self.headers.get(key)
        self.headers[key] = text if known is None else f"{known}, {text}"

    def on_headers_complete(self) -> None:
        """Take the status."""
        if not self._in_body:
            assert self._parser is not None
            self.status = self._parser.get_status_code()

    def on_message_complete(self) -> None:
        """The answer is whole."""
        self.complete = True


def _surplus(data: bytes) -> bool:
    """True when line ends follow those that end a chunked body: the parser skips them, a client need not."""
    rest = data.rstrip(b"\r\n")
    ends = data[len(rest) :]
    return ends != b"\r\n\r\n" if rest else not b"\r\n\r\n".endswith(ends)
