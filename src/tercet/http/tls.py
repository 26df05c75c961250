"""TLS, 1.2 or newer: what a server shows and asks for, and whom a client believes."""

from __future__ import annotations

import ssl

from tercet.core.errors import UsageError


def server_context(cert: str, key: str | None, client_ca: str | None = None) -> ssl.SSLContext:
    """Return the context of a server with the certificate chain `cert`; `key` None: it lies in the same file.

    With `client_ca` clients are asked for a certificate of that authority. One of another ends the handshake; who sends
    none gets through it: whether that will do is for the server to say. Raises UsageError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    _load_chain(context, cert, key)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_OPTIONAL
        _load_authority(context, client_ca)
    return context


def client_context(ca: str | None = None, cert: str | None = None, key: str | None = None) -> ssl.SSLContext:
    """Return the context of a client that believes `ca` alone (None: the system's authorities) and, if asked, shows
    `cert`. Raises UsageError."""
    context = ssl.create_default_context() if ca is None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is not None:
        _load_authority(context, ca)
    if cert is not None:
        _load_chain(context, cert, key)
    return context


def unverified_context() -> ssl.SSLContext:
    """Return the context of a client that believes everybody: for asking one's own child whether it is up."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _load_chain(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    try:
        # A password would be asked for at the terminal: no server waits for that.
        context.load_cert_chain(cert, key, password=lambda: b"")
    except OSError as error:  # ssl.SSLError is one
        files = cert if key is None else f"{cert} and {key}"
        raise UsageError(f"cannot use certificate and key in {files} (PEM, without a password): {error}") from error


def _load_authority(context: ssl.SSLContext, ca: str) -> None:
    try:
        context.load_verify_locations(ca)
    except OSError as error:
        raise UsageError(f"cannot use the authority's certificates in {ca} (PEM): {error}") from error
