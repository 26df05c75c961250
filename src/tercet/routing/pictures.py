"""Pictures of a request: which they are, by their bytes, and where they end in its prompt."""

from __future__ import annotations

import re
from binascii import Error, a2b_base64
from hashlib import sha256

from tercet.core.record import record

_DATA_URI = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)
_PIECE_CHARS = 1 << 18
"""Characters decoded at once; a multiple of 4, so that every piece but the last is whole."""

DEFAULT_TOKENS = 576
"""What a picture is believed to be in a prompt before the first one is known: CLIP-L/336's patches."""


@record(frozen=True, slots=True)
class Picture:
    """One picture of a prompt. `key` is the SHA-256 of its source bytes, None where only a URL is known: a URL never
    proves which picture is behind it. It lies before `end`, in units of the prompt; `tokens` is an estimate."""

    key: str | None
    end: int
    tokens: int = DEFAULT_TOKENS


def data_uri_key(url: str) -> str | None:
    """Return the key of the picture in a base64 data URI; None for any other URL, and for one that is malformed."""
    start = _DATA_URI.match(url)
    if start is None:
        return None
    digest = sha256()
    try:
        for at in range(start.end(), len(url), _PIECE_CHARS):
            digest.update(a2b_base64(url[at : at + _PIECE_CHARS], strict_mode=True))
    except (Error, ValueError):
        return None  # whoever decodes it will say what is wrong
    return digest.hexdigest()
