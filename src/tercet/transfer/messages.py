"""Authenticated messages between readers and handoff servers, and the marks that vouch for addresses.

A request is one frame: MAC (32 bytes), nonce (16), body (msgpack map). An answer's first frame has the same form and
the request's nonce; data frames follow, whose checksums the body lists. MAC is HMAC-SHA256 under a key derived from the
topology's secret. It keeps out who doesn't know the secret. It hides nothing: somebody who sits on the wire between two
machines can read the data of `tcp`, and could forge its checksum, which is there against faults.
"""

from __future__ import annotations

import hmac
import json
import secrets
from typing import Any

import msgpack

from tercet.core.errors import UsageError

MAC_BYTES = 32
NONCE_BYTES = 16
_REQUEST, _ANSWER, _ADDRESS = b"Q", b"A", b"T"  # one key, three purposes: no message of one kind passes as another


def derive_key(secret: bytes) -> bytes:
    """Return the key of the handoff protocol. Raises UsageError when the secret is empty."""
    if not secret:
        raise UsageError("the topology's secret is empty: every worker needs the same random one")
    return hmac.digest(secret, b"tercet handoff 1", "sha256")


def new_nonce() -> bytes:
    """Return 128 random bits that name one request."""
    return secrets.token_bytes(NONCE_BYTES)


def seal_request(key: bytes, nonce: bytes, body: dict[str, Any]) -> bytes:
    """Return the frame of a request."""
    return _seal(key, _REQUEST, nonce, body)


def seal_answer(key: bytes, nonce: bytes, body: dict[str, Any]) -> bytes:
    """Return the first frame of the answer to the request called `nonce`."""
    return _seal(key, _ANSWER, nonce, body)


def open_request(key: bytes, frame: bytes) -> tuple[bytes, bytes] | None:
    """Return (nonce, packed body), or None when the frame was not made with this key."""
    return _open(key, _REQUEST, frame)


def open_answer(key: bytes, frame: bytes) -> tuple[bytes, bytes] | None:
    """Return (nonce, packed body), or None when the frame was not made with this key."""
    return _open(key, _ANSWER, frame)


def unpack_body(packed: bytes) -> dict[str, Any] | None:
    """Return the body, or None when it is no map with text keys. For authenticated bytes only."""
    try:
        body = msgpack.unpackb(packed)
    except (ValueError, msgpack.UnpackException):
        return None
    return body if isinstance(body, dict) and all(isinstance(key, str) for key in body) else None


def address_tag(key: bytes, control: str, transport: str, address: dict[str, Any]) -> str:
    """Return the mark by which a reader knows that an address and its control endpoint come from its own topology."""
    fields = {name: value for name, value in address.items() if name != "tag"}
    text = json.dumps([control, transport, fields], sort_keys=True, separators=(",", ":"))
    return hmac.digest(key, _ADDRESS + text.encode(), "sha256").hex()


def vouched(key: bytes, control: str, transport: str, address: dict[str, Any]) -> bool:
    """Return whether the address carries its topology's mark."""
    tag = address.get("tag")
    return isinstance(tag, str) and hmac.compare_digest(
        tag.encode(), address_tag(key, control, transport, address).encode()
    )


def _seal(key: bytes, purpose: bytes, nonce: bytes, body: dict[str, Any]) -> bytes:
    message: bytes = nonce + msgpack.packb(body)
    return hmac.digest(key, purpose + message, "sha256") + message


def _open(key: bytes, purpose: bytes, frame: bytes) -> tuple[bytes, bytes] | None:
    if len(frame) < MAC_BYTES + NONCE_BYTES:
        return None
    mac, message = frame[:MAC_BYTES], frame[MAC_BYTES:]
    if not hmac.compare_digest(mac, hmac.digest(key, purpose + message, "sha256")):
        return None
    return message[:NONCE_BYTES], message[NONCE_BYTES:]
