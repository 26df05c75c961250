"""A web site that behaves badly, on real sockets."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

CERTIFICATE = Path(__file__).parent / "localhost.pem"


class Site(ThreadingHTTPServer):
    """`body` is what /ok answers; `paths` are those that were asked for, `hosts` the Host headers."""

    daemon_threads = True

    def __init__(self, address: str, body: bytes) -> None:
        super().__init__((address, 0), _Handler)
        self.body = body
        self.paths: list[str] = []
        self.hosts: list[str] = []
        self.ended = threading.Event()
        """Slow answers go on until this is set."""

    def url(self, path: str, host: str | None = None, scheme: str = "http") -> str:
        return f"{scheme}://{host or self.server_address[0]!s}:{self.server_address[1]}{path}"


class _Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.server.paths.append(self.path)
        self.server.hosts.append(self.headers["Host"])
        with contextlib.suppress(OSError):
            getattr(self, f"_{url.path.strip('/').partition('.')[0]}")(parse_qs(url.query))

    def _ok(self, query: dict[str, list[str]]) -> None:
        self._answer(200, self.server.body)

    def _missing(self, query: dict[str, list[str]]) -> None:
        self._answer(404, b"no such picture")

    def _to(self, query: dict[str, list[str]]) -> None:
        self._answer(302, b"", Location=query["url"][0])

    def _round(self, query: dict[str, list[str]]) -> None:
        self._answer(307, b"", Location="/round")

    def _silent(self, query: dict[str, list[str]]) -> None:
        self.server.ended.wait(60)

    def _late(self, query: dict[str, list[str]]) -> None:
        self.server.ended.wait(1.0)
        self._answer(200, self.server.body)

    def _strange(self, query: dict[str, list[str]]) -> None:
        """Answer with a header that is none."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nno header at all\r\n\r\n" + self.server.body)

    def _drip(self, query: dict[str, list[str]]) -> None:
        """Send a byte now and then, of the head or the body, with or without saying how many."""
        if query["part"][0] == "head":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        else:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"Content-Length: 100000\r\n" * ("length" in query) + b"\r\n")
        while not self.server.ended.wait(0.05):
            self.wfile.write(b"x")

    def _short(self, query: dict[str, list[str]]) -> None:
        self._answer(200, self.server.body[:-10], **{"Content-Length": str(len(self.server.body))})

    def _endless(self, query: dict[str, list[str]]) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not self.server.ended.is_set():
            self.wfile.write(bytes(1 << 16))

    def _announced(self, query: dict[str, list[str]]) -> None:
        self._answer(200, b"", **{"Content-Length": "9" * int(query.get("digits", ["13"])[0])})

    def _noise(self, query: dict[str, list[str]]) -> None:
        self.wfile.write(b"\x00\xff no HTTP\r\n\r\n")

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def site(body: bytes = b"picture", address: str = "127.0.0.1", *, tls: bool = False) -> Iterator[Site]:
    """Serve until the block ends."""
    server = Site(address, body)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
