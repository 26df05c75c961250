"""The router's door: its port, and the files that guard it, looked at before anything is fetched or started."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from tercet.core.errors import UsageError
from tercet.core.topology import RouterSpec
from tercet.http.tls import server_context
from tercet.launch.ports import check_free
from tercet.launch.state import port_taken, running
from tercet.router.key_file import read_ring


def check_door(run_root: Path, router: RouterSpec) -> None:
    """Raise UsageError when the router's port is taken, by a deployment that is only starting too, or when its keys or
    certificates can't be used: its workers may take minutes to be ready for it."""
    if router.api_key_file is not None:
        read_ring(Path(router.api_key_file))
    if router.tls_cert is not None:
        server_context(router.tls_cert, router.tls_key, router.tls_client_ca)
    elif router.tls_key or router.tls_client_ca:
        raise UsageError("--tls-key and --tls-client-ca need --tls-cert: the certificate that is shown")
    for state in running(run_root) if router.port else ():
        if urlsplit(state.url).port == router.port:
            raise port_taken(router.port, "router", state.name, " with --port")
    check_free(router.host, router.port, "router", "--port")
