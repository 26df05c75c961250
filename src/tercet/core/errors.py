"""The one hierarchy of errors. Each message says what was wrong, where, and what to do."""

from __future__ import annotations

from typing import Any


class TercetError(Exception):
    """Base of everything Tercet raises on purpose. `exit_code` is what a command ends with."""

    exit_code = 1


class UsageError(TercetError):
    """Wrong input from the person at the terminal: a flag, a file, a name."""

    exit_code = 2


class MissingExtraError(UsageError):
    """An optional dependency is not installed."""

    def __init__(self, extra: str, needed_for: str) -> None:
        super().__init__(f"{needed_for} needs an optional part: pip install 'tercet[{extra}]'")
        self.extra = extra


MESSAGE_CHARS = 4096


class RequestError(TercetError):
    """A request that is refused; becomes an OpenAI error object with HTTP status `status`.

    `retry_after_s` says when another try is worth it. Of a long message, which may quote what a client sent,
    beginning and end are kept: written as JSON, 64 MiB of a model's name would keep a server for seconds.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "",
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        if len(message) > MESSAGE_CHARS:
            message = f"{message[: MESSAGE_CHARS // 2]} ... {message[-MESSAGE_CHARS // 2 :]}"
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind or _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """Return the OpenAI error object: {"error": {message, type, code, param}}."""
        return {"error": {"message": self.message, "type": self.kind, "code": self.code, "param": self.param}}


_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}


class TicketError(TercetError):
    """A ticket is malformed, of another version, or does not fit this engine."""


class TransferError(TercetError):
    """Blocks could not be moved: peer gone, ticket expired, checksum wrong, deadline passed."""
