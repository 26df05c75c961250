"""Bytes to requests: one reader a connection."""

from __future__ import annotations

import re
from collections.abc import Mapping
from io import BytesIO
from time import perf_counter_ns
from typing import Any, Protocol

import httptools

from tercet.core.errors import RequestError
from tercet.http.known_heads import KnownHeads
from tercet.http.limits import ServerLimits
from tercet.http.request import Request, origin_form, split_target
from tercet.http.wire import request_head

_HOST = re.compile(r"[A-Za-z0-9._~%!$&'()*+;=-]*(:[0-9]*)?|\[[0-9A-Fa-f:.]+\](:[0-9]*)?")
_OVERHEAD = 16
"""What framing may cost for each byte of a chunked body, beyond what headers may: chunks of one byte cost five."""
LONG_BODY_BYTES = 64 * 1024
"""When so much of a body has come, and not all of it, it is asked whether the rest is to be read."""


class Taker(Protocol):
    """Who is told what was read."""

    def body_follows(self) -> None:
        """A request's head is read; its body is still to come."""

    def body_is_long(self, method: str, target: str, headers: Mapping[str, str]) -> None:
        """A body is long, and not all of it here. Raises RequestError if the rest is not to be read."""

    def request_read(self, request: Request, *, http10: bool, keep_alive: bool) -> None:
        """A request is whole."""


class RequestReader:
    """Parses what one client sends, within `limits`. After a RequestError it is of no further use. `known` heads may be
    shared by readers with the same limits.

    `begun` is True while part of a request has come, `in_body` from the end of its head on, `wants_continue` while
    the client waits for leave to send its body.
    """

    __slots__ = (
        "_asked",
        "_body",
        "_body_size",
        "_complete",
        "_headers",
        "_known",
        "_limits",
        "_open",
        "_parser",
        "_pieces",
        "_raw_size",
        "_raw_slack",
        "_repeated",
        "_request",
        "_taker",
        "_target",
        "client",
        "http10",
        "in_body",
        "wants_continue",
    )

    def __init__(self, limits: ServerLimits, taker: Taker, client: str, known: KnownHeads | None = None) -> None:
        self._limits = limits
        self._known: KnownHeads | None = known or KnownHeads()
        self._request: Request | None = None
        self._taker = taker
        self.client = client
        self._parser: Any = None  # made when it is needed: nearly all heads are known
        self._headers: dict[str, str] = {}
        self._target = b""
        self._open = False  # a message has begun in the parser, be it with a letter of its method
        self._asked = False  # whether the rest of a long body is to be read
        self._body = b""
        self._pieces: BytesIO | None = None
        self._body_size = 0
        self._raw_size = 0
        self._raw_slack = 0
        self._repeated = 0
        self._complete = False
        self.http10 = False
        self.in_body = False
        self.wants_continue = False

    @property
    def begun(self) -> bool:
        """True while part of a request has come."""
        return self._raw_size > 0

    def known(self, data: bytes) -> Request | None:
        """Return the request that `data` is, if it is one whole request with a head that is known. Nothing is read when
        it is not."""
        known = self._known
        if self._raw_size or known is None:
            return None
        end = data.find(b"\r\n\r\n") + 4
        head = known.heads.get(data[:end]) or known.like(data, end, self._limits.max_body_bytes)
        if head is None or len(data) - end != head.length:
            return None
        self.http10 = False
        return Request(
            head.method,
            head.target,
            head.path,
            head.query,
            head.headers,
            data[end:],
            self.client,
            perf_counter_ns(),
        )

    def feed(self, data: bytes) -> None:
        """Read on. Raises RequestError for bad HTTP and whatever exceeds a bound."""
        request = self.known(data)
        if request is not None:
            self._taker.request_read(request, http10=False, keep_alive=True)
            return
        fresh = not self._raw_size
        self._raw_size += len(data)
        self._complete = False
        self._parse(data)
        if self._complete:
            last, self._request = self._request, None
            if fresh and last is not None and self._known is not None and not self._open:
                self._known.learn(data, last)
            # How much of `data` belongs to the next request isn't known: all of it is counted, and allowed for.
            self._raw_size = self._raw_slack = len(data) if self._open else 0
            return
        if self.in_body and self._body_size > LONG_BODY_BYTES and not self._asked:
            self._asked = True
            method = self._parser.get_method().decode("latin-1")
            self._taker.body_is_long(method, self._target.decode("latin-1"), self._headers)
        excess = self._raw_size - self._raw_slack - self._limits.max_header_bytes
        if excess > 0 and not self.in_body:
            raise self._limits.headers_too_large()
        if excess - self._limits.max_header_bytes > (1 + _OVERHEAD) * self._body_size:
            raise self._limits.framing_too_large()  # chunk extensions or trailers without end

    def _parse(self, data: bytes) -> None:
        parser = self._parser
        if parser is None:
            parser = self._parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(data)
            return
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, RequestError):
                raise error.__context__ from None
            raise
        except httptools.HttpParserError as error:
            raise RequestError(400, f"malformed HTTP: {error}", code="bad_http") from None
        # No other protocol is offered: the request is read as if it had not asked. The parser takes its body for the
        # other protocol's bytes, so it is shown the same head once more, without the question.
        self._known = None
        self._parser = httptools.HttpRequestParser(self)
        headers = [(name, value) for name, value in self._headers.items() if name not in ("upgrade", "connection")]
        method = parser.get_method().decode("latin-1")
        self._parse(request_head(method, self._target.decode("latin-1"), headers) + rest)

    def close(self) -> None:
        """Let go of the parser, which refers back to this reader."""
        self._parser = None

    # --- the parser's callbacks ---

    def on_message_begin(self) -> None:
        """Forget the last request."""
        self._open = True
        self._headers = {}
        self._target = b""
        self._body, self._pieces = b"", None
        self._body_size = 0
        self._repeated = 0
        self.in_body = False
        self.wants_continue = False
        self._asked = False

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header."""
        if self.in_body:
            return  # a trailer: nothing here reads them
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1")
        known = self._headers.get(key)
        if known is None:
            self._headers[key] = text
            return
        self._headers[key] = f"{known}, {text}"
        self._repeated += 1
        if self._repeated > self._limits.max_headers:
            raise self._limits.too_many_headers()

    def on_headers_complete(self) -> None:
        """Check the head before any of the body is read. Raises RequestError."""
        headers = self._headers
        self.in_body = True
        version = self._parser.get_http_version()
        self.http10 = version == "1.0"
        if version not in ("1.0", "1.1"):
            raise RequestError(505, f"HTTP/{version} is not spoken here: use 1.1", code="bad_http_version")
        if self._parser.should_upgrade():
            if self._parser.get_method() == b"CONNECT":
                raise RequestError(405, "CONNECT is not offered: this is no forward proxy", code="method_not_allowed")
            return
        host = headers.get("host")
        if not (self.http10 if host is None else _HOST.fullmatch(host.strip(" \t"))):
            raise RequestError(400, "exactly one Host header with HOST or HOST:PORT is needed", code="bad_http")
        if len(headers) + self._repeated > self._limits.max_headers:
            raise self._limits.too_many_headers()
        if self._raw_size > self._limits.max_header_bytes:  # else its head can't be too large either
            size = len(self._target) + sum(map(len, headers)) + sum(map(len, headers.values()))
            if size > self._limits.max_header_bytes:
                raise self._limits.headers_too_large()
        length = headers.get("content-length")
        coding = headers.get("transfer-encoding")
        if coding is not None:
            self._check_coding(coding)
        elif length is None:
            return
        elif len(length) > 19 or int(length) > self._limits.max_body_bytes:
            raise self._limits.body_too_large()
        expect = headers.get("expect", "").lower()
        if expect == "100-continue":
            self.wants_continue = not self.http10
        elif expect:
            raise RequestError(417, f"unknown expectation {expect!r}", code="expectation_failed")
        self._taker.body_follows()

    def _check_coding(self, coding: str) -> None:
        """Refuse what another server could frame otherwise than this one does. Raises RequestError."""
        if self.http10:
            raise RequestError(400, "Transfer-Encoding belongs to HTTP/1.1", code="bad_http")
        if coding.strip(" \t").lower() != "chunked":
            text = f"no transfer coding but chunked is spoken here, and only once: {coding!r}"
            raise RequestError(501, text, code="unknown_transfer_coding")

    def on_body(self, piece: bytes) -> None:
        """Take a piece of the body. Raises RequestError as soon as it is too large."""
        self.wants_continue = False
        self._body_size += len(piece)
        if self._body_size > self._limits.max_body_bytes:
            raise self._limits.body_too_large()
        pieces = self._pieces
        if pieces is not None:
            pieces.write(piece)
        elif not self._body:
            self._body = piece
        else:
            # What is long grows in place as it comes, and is then given away as it is: a list of pieces would have to
            # be joined, and the body lie here twice.
            pieces = self._pieces = BytesIO()
            pieces.write(self._body)
            pieces.write(piece)

    def on_message_complete(self) -> None:
        """Hand the request on."""
        if self._parser.should_upgrade():
            return  # to be read once more
        target = origin_form(self._target.decode("latin-1"))
        path, query = split_target(target)
        body = self._body if self._pieces is None else self._pieces.getvalue()
        method = self._parser.get_method().decode("latin-1")
        request = Request(method, target, path, query, self._headers, body, self.client, perf_counter_ns())
        self._complete = True
        self._open = False
        self._target = b""
        self._body, self._pieces = b"", None
        self.in_body = False
        self.wants_continue = False
        keep_alive = self._parser.should_keep_alive()
        if not keep_alive:
            self._known = None  # nothing may follow
        self._request = None if self.http10 else request
        self._taker.request_read(request, http10=self.http10, keep_alive=keep_alive)
