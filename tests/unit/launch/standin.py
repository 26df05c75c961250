"""A stand-in for a worker or router: `python standin.py PORT [--ready-after S] [--crash-at-start] ...`.

Answers /ready (503 until it is), /pid, and /crash (then ends with status 7); says what it does on stdout.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--ready-after", type=float, default=0.0)
    parser.add_argument("--crash-at-start", action="store_true")
    parser.add_argument("--ignore-sigterm", action="store_true")
    parser.add_argument("--engine", action="store_true", help="start a child that ignores everything")
    parser.add_argument("--segment", default="", help="make a shared segment with this name and never remove it")
    parser.add_argument("--workers-file")  # a router's
    parser.add_argument("--discovery-interval")
    parser.add_argument("--config", default="", help="a file, `api-key: KEY`: answer only who shows it")
    args = parser.parse_args()
    key = Path(args.config).read_text().removeprefix("api-key: ").strip() if args.config else ""
    print("stand-in starts", sys.argv[1:], flush=True)
    if args.crash_at_start:
        print("Traceback: the model has no weights", file=sys.stderr, flush=True)
        sys.exit(3)
    if args.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if args.engine:
        code = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        subprocess.Popen([sys.executable, "-S", "-c", code])
    if args.segment:
        fd = os.open(f"/dev/shm/{args.segment}", os.O_CREAT | os.O_RDWR, 0o600)
        os.write(fd, b"left behind")
    ready_at = time.monotonic() + args.ready_after

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if key and self.headers["Authorization"] != f"Bearer {key}":
                self.send_error(401)
                return
            ready = time.monotonic() >= ready_at
            body = {"/pid": str(os.getpid()), "/secret": os.environ.get("TERCET_TOPOLOGY_SECRET", "")}.get(
                self.path, ""
            )
            self.send_response(200 if ready else 503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())
            if self.path == "/crash":
                print("going down", flush=True)
                threading.Timer(0.05, os._exit, (7,)).start()

        def log_message(self, format: str, *args: object) -> None:
            return

    ThreadingHTTPServer.allow_reuse_address = True
    ThreadingHTTPServer(("127.0.0.1", args.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
