"""Why a request to a server failed."""

from __future__ import annotations

from typing import Literal

from tercet.core.errors import TercetError

Reason = Literal[
    "connect",
    "connect_timeout",
    "first_byte_timeout",
    "idle_timeout",
    "closed",
    "protocol",
    "too_many_connections",
    "too_large",
]


class ClientError(TercetError):
    """A request got no whole answer. `before_first_byte`: nothing of the answer had arrived when it failed.

    `reason` says what happened: no connection, a deadline, the server closed or broke the protocol, or a bound was met.
    """

    def __init__(self, message: str, *, before_first_byte: bool, reason: Reason) -> None:
        super().__init__(message)
        self.before_first_byte = before_first_byte
        self.reason: Reason = reason
