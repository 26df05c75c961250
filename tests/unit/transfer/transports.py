"""Every transport, for tests that hold for each; those of the extras are slow: loading them takes a second."""

from __future__ import annotations

import os

import pytest

from tercet.core.errors import UsageError
from tercet.transfer.optional import require

FAR = [pytest.param(name, marks=pytest.mark.slow) for name in ("nixl", "mooncake")]
"""Those whose library writes where it reads to: tercet.transfer.landing."""
NEAR = ["shm", "tcp"]
EVERY = [*NEAR, *FAR]


def usable(name: str) -> str:
    """Return the name; skip the test where this machine lacks what the transport needs, but fail it in CI."""
    try:
        require(name)
    except UsageError as error:
        if os.environ.get("TERCET_CI"):
            raise
        pytest.skip(str(error))
    return name


def beside(name: str) -> list[str]:
    """Return the transports that a test's prefill side exports by: `shm` and `tcp`, or one of the extras alone."""
    return NEAR if name in NEAR else [name]
