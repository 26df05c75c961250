"""Workers that are pods of a cluster, found by their labels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from tercet.core.errors import UsageError
from tercet.http.client import Client, ClientError
from tercet.http.tls import client_context
from tercet.router.discovery.source import DiscoveryError, Found, host_in_url, letter_of, port_of, said_of

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its own token, namespace and the API's authority."""
API_TIMEOUT_S = 5.0
_TEXT = re.compile(r"([^:=]*):([^#=]*)(#[a-z-]+(?:=[0-9]+)?(?:,[a-z-]+(?:=[0-9]+)?)*)?=(.+)")
MAX_LIST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Cluster:
    """How to reach a cluster's API."""

    api: str = "https://kubernetes.default.svc"
    namespace: str | None = None
    account: Path = ACCOUNT


class KubernetesSource:
    """The running pods that a label selector names: `decode:8000=app=tercet,stage=decode`, or with ports besides, as in
    a worker's URL, `prefill:8000#bootstrap=8998=app=...`.

    A pod that is being deleted is no worker any more: it is drained. Whether the others are ready is for a probe to
    say.
    """

    def __init__(self, text: str, cluster: Cluster) -> None:
        """Raises UsageError for a text that is not ROLE:PORT=SELECTOR."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise UsageError(f"--discover-kubernetes {text!r}: write ROLE:PORT=SELECTOR")
        role, port, said, selector = match.groups()
        where = f"--discover-kubernetes {text}"
        self.name = f"pods {text}"
        self._letter, self._port, self._selector = letter_of(role, where), port_of(port, where), selector
        self._said = said_of(said or "", where)
        self._cluster = cluster
        self._client: Client | None = None

    async def look(self) -> Found:
        """Ask the API. Raises DiscoveryError."""
        cluster = self._cluster
        try:
            namespace = cluster.namespace or (cluster.account / "namespace").read_text().strip()
            token = (cluster.account / "token").read_text().strip()  # anew each time: it is exchanged every hour
            if self._client is None:
                authority = cluster.account / "ca.crt"
                tls = client_context(str(authority)) if cluster.api.startswith("https:") else None
                self._client = Client(tls=tls)
            asked = urlencode({"labelSelector": self._selector})
            response = await self._client.request(
                "GET",
                f"{cluster.api}/api/v1/namespaces/{quote(namespace)}/pods?{asked}",
                headers=[("Authorization", f"Bearer {token}"), ("Accept", "application/json")],
                first_byte_timeout_s=API_TIMEOUT_S,
                idle_timeout_s=API_TIMEOUT_S,
            )
            body = await response.read(max_bytes=MAX_LIST_BYTES)
        except (OSError, ClientError, UsageError) as error:
            raise DiscoveryError(f"the Kubernetes API does not answer: {error}") from error
        if response.status != 200:
            raise DiscoveryError(
                f"the Kubernetes API answered {response.status}: {body[:200].decode(errors='replace')}"
            )
        try:
            addresses = list(_addresses(json.loads(body)))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise DiscoveryError("the Kubernetes API answered something else than a list of pods") from error
        return Found({f"http://{host_in_url(a)}:{self._port}{self._said}": self._letter for a in addresses})

    async def close(self) -> None:
        """Close the connection to the API."""
        if self._client is not None:
            await self._client.close()


def _addresses(pods: dict[str, Any]) -> Iterator[str]:
    for pod in pods["items"]:
        status = pod.get("status", {})
        leaving = pod["metadata"].get("deletionTimestamp") is not None
        if status.get("phase") == "Running" and status.get("podIP") and not leaving:
            yield str(status["podIP"])
