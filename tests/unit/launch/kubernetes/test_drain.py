"""What a pod of another engine runs before it is told to end, against a server with a gauge."""

from __future__ import annotations

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tercet.launch.kubernetes.workers import DRAIN, RUNNING


@pytest.mark.parametrize("engine", RUNNING)
def test_it_waits_until_nothing_is_under_way(engine: str) -> None:
    left, asked = [2, 1, 0, 0], []

    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            gauge = RUNNING[engine]
            text = f'# TYPE {gauge} gauge\n{gauge}{{model="m",engine="0"}} 0.0\n{gauge}{{engine="1"}} {left.pop(0)}.0\n'
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Metrics)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        program = DRAIN.format(grace_s=60, port=server.server_port, gauge=RUNNING[engine])
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    finally:
        server.shutdown()
        server.server_close()
    assert asked == ["/metrics"] * 3, "two looks while answers were under way, and the one that found none"
