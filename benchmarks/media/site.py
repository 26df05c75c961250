"""A web site of photographs that answers after a while, as one across the internet does; a process of its own.

    python -m benchmarks.media.site PORT LATENCY_MS WIDTH HEIGHT

GET /N.jpg is the N-th photograph: smooth noise, so that it packs and unpacks as one.
"""

from __future__ import annotations

import sys
import time
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import numpy as np
from PIL import Image

LATENCY_S = float(sys.argv[2]) / 1e3
SIZE = (int(sys.argv[3]), int(sys.argv[4]))


@cache
def photograph(number: int) -> bytes:
    coarse = np.random.default_rng(number).integers(0, 256, (SIZE[1] // 8, SIZE[0] // 8, 3), np.uint8)
    file = BytesIO()
    Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Answers one request a connection."""

    def do_GET(self) -> None:
        """Send a photograph."""
        body = photograph(int(self.path.strip("/").partition(".")[0]))
        time.sleep(LATENCY_S)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Site(ThreadingHTTPServer):
    """Takes whatever number of clients come at once."""

    daemon_threads = True
    request_queue_size = 1024


if __name__ == "__main__":
    for number in range(3):
        photograph(number)
    Site(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
