"""What a pod of another engine runs before it is told to end, against a server with a gauge."""

from __future__ import annotations

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tercet.launch.kubernetes.workers import DRAIN, UNDER_WAY


@pytest.mark.parametrize(
    ("engine", "running", "waiting"),
    [
        ("vllm", "vllm:num_requests_running", "vllm:num_requests_waiting"),
        ("sglang", "sglang:num_running_reqs", "sglang:num_queue_reqs"),
        ("sglang", "sglang:num_running_reqs", "sglang:num_decode_transfer_queue_reqs"),
    ],
)
def test_it_waits_until_nothing_is_under_way(engine: str, running: str, waiting: str) -> None:
    left, asked = [(2, 0), (0, 1), (0, 0), (0, 0)], []

    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            numbers = zip((running, waiting), left.pop(0), strict=True)
            text = "".join(
                f'# TYPE {gauge} gauge\n{gauge}{{model="m",engine="0"}} 0.0\n{gauge}{{engine="1"}} {number}.0\n'
                for gauge, number in numbers
            )
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Metrics)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        program = DRAIN.format(grace_s=60, port=server.server_port, gauges=UNDER_WAY[engine])
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    finally:
        server.shutdown()
        server.server_close()
    assert asked == ["/metrics"] * 3, "two looks while answers were under way, and the one that found none"
