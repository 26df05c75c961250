"""Bounds on the pictures of strangers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """Sizes of one picture in bytes and pixels, seconds that fetching it may take, pictures of one request.

    `allow_local` opens local files and addresses that are not public: only for clients as trusted as the server.
    """

    max_bytes: int = 16 * 1024 * 1024
    max_pixels: int = 36_000_000
    max_images: int = 32
    max_redirects: int = 3
    timeout_s: float = 10.0
    allow_local: bool = False
