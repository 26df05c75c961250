"""Why a picture is refused."""

from __future__ import annotations

from tercet.core.errors import TercetError


class PictureError(TercetError):
    """A picture that can't be fetched, read or is too large; the message is the reason, without the picture's name."""
