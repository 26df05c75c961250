"""The dashboard's files, as they lie in this package. No build step, nothing from elsewhere."""

from __future__ import annotations

from hashlib import sha256
from importlib.resources import files

from tercet.core.errors import RequestError
from tercet.http.server import Request, Responder

HOME = "/ui"
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""What the page may do: run its own files and ask its own router. Not be framed, nor send anything elsewhere."""

_STATIC = files("tercet.router.dashboard") / "static"


def _pages() -> dict[str, str]:
    names = sorted(entry.name for entry in _STATIC.iterdir() if entry.name.rpartition(".")[2] in _TYPES)
    return {HOME: "index.html"} | {f"{HOME}/{name}": name for name in names if name != "index.html"}


PAGES = _pages()
"""Files by path."""


async def page(request: Request, responder: Responder) -> None:
    """GET /ui, and its files: for everybody, as they hold no data. Raises RequestError 404."""
    headers = [
        ("Content-Security-Policy", POLICY),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Cache-Control", "no-cache"),
    ]
    if request.path == HOME + "/":  # the page's addresses are relative, so that it works below a proxy's prefix
        await responder.send(308, b"", headers=[*headers, ("Location", "../ui")], content_type="")
        return
    name = PAGES.get(request.path)
    if name is None:
        raise RequestError(404, f"no such file: {request.path}")
    body = (_STATIC / name).read_bytes()
    tag = f'"{sha256(body).hexdigest()[:32]}"'
    if request.headers.get("if-none-match") == tag:
        await responder.send(304, b"", headers=[*headers, ("ETag", tag)], content_type="")
        return
    content_type = _TYPES[name.rpartition(".")[2]]
    await responder.send(200, body, headers=[*headers, ("ETag", tag)], content_type=content_type)
