"""The topology's secret: what its parts know and strangers don't."""

from __future__ import annotations

import hmac
import os

from tercet.core.errors import UsageError

SECRET_VARIABLE = "TERCET_TOPOLOGY_SECRET"
"""Where the launcher leaves the topology's secret for its children: everybody can read a command line."""


def take_secret() -> bytes | None:
    """Return the secret of the environment and take it out of there; None when there is none. Raises UsageError."""
    text = os.environ.pop(SECRET_VARIABLE, None)
    if not text:
        return None
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise UsageError(f"{SECRET_VARIABLE} must be hex digits, for instance of `openssl rand -hex 32`") from None


def key_of_workers(secret: bytes) -> str:
    """Return the API key by which a topology's router speaks to its workers. It tells nothing of the secret."""
    return "tw-" + hmac.digest(secret, b"tercet worker http 1", "sha256").hex()
