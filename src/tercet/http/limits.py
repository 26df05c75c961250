"""Bounds of a server."""

from __future__ import annotations

from dataclasses import dataclass

from tercet.core.errors import RequestError


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bounds of a server. Sizes in bytes, times in seconds.

    `header_timeout_s` runs from a request's first byte (or the connection's start) to its last header,
    `body_timeout_s` from there to the body's end, `keep_alive_s` between requests, `write_timeout_s` while a
    client doesn't read.
    """

    max_header_bytes: int = 64 * 1024
    max_headers: int = 128
    max_body_bytes: int = 64 * 1024 * 1024
    max_connections: int = 8192
    header_timeout_s: float = 15.0
    body_timeout_s: float = 120.0
    keep_alive_s: float = 75.0
    write_timeout_s: float = 60.0

    def headers_too_large(self) -> RequestError:
        """Return the refusal of a request whose headers exceed their bound."""
        text = f"the request's headers are larger than {self.max_header_bytes} bytes"
        return RequestError(431, text, code="headers_too_large")

    def too_many_headers(self) -> RequestError:
        """Return the refusal of a request with more headers than its bound."""
        text = f"the request has more than {self.max_headers} headers"
        return RequestError(431, text, code="headers_too_large")

    def framing_too_large(self) -> RequestError:
        """Return the refusal of a body whose framing outweighs it."""
        text = f"chunk extensions and trailers may add up to {self.max_header_bytes} bytes"
        return RequestError(413, text, code="request_too_large")

    def body_too_large(self) -> RequestError:
        """Return the refusal of a request whose body exceeds its bound."""
        text = f"the request's body is larger than {self.max_body_bytes} bytes"
        return RequestError(413, text, code="request_too_large")
