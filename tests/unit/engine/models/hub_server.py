"""The few answers of huggingface.co that a snapshot download needs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(repo: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve `folder` as the repository `repo`; yield the endpoint and the list of requests as they come."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, *, body: bool) -> None:
            seen.append(self.path)
            path = self.path.split("?")[0]
            headers: dict[str, str] = {"X-Repo-Commit": COMMIT}
            prefix = f"/{repo}/resolve/{COMMIT}/"
            if path.startswith(f"/api/models/{repo}/revision/"):
                names = [{"rfilename": file.name} for file in folder.iterdir()]
                content = json.dumps({"id": repo, "sha": COMMIT, "siblings": names, "tags": [], "private": False})
                data = content.encode()
            elif path.startswith(f"/api/models/{repo}/tree/"):
                files = [
                    {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0"} for f in folder.iterdir()
                ]
                data = json.dumps(files).encode()
            elif path.startswith(prefix) and (folder / path.removeprefix(prefix)).is_file():
                data = (folder / path.removeprefix(prefix)).read_bytes()
                headers["ETag"] = f'"{sha256(data).hexdigest()}"'
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Be quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
