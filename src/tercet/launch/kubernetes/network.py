"""Who may reach whom: clients the router, the router and the workers the workers."""

from __future__ import annotations

from tercet.launch.kubernetes.manifest import Manifest, labels, manifest
from tercet.launch.kubernetes.placing import Placed

_PART = {"app.kubernetes.io/part-of": "tercet"}


def network_objects(placed: Placed) -> list[Manifest]:
    """Return three NetworkPolicies: nothing comes in, but requests to the router, and its own parts to the workers.

    What goes out is free: models are fetched from outside. Workers take KV blocks from each other on ports that their
    transports choose, so no port is named.
    """
    router, worker = labels("router"), labels("worker")
    port = placed.placement.topology.router.port
    return [
        _policy("deny-ingress", _PART, {}, []),
        _policy("router-from-clients", router, router, [{"ports": [{"protocol": "TCP", "port": port}]}]),
        _policy(
            "workers-from-router-and-workers",
            worker,
            worker,
            [{"from": [{"podSelector": {"matchLabels": each}} for each in (router, worker)]}],
        ),
    ]


def _policy(name: str, said: dict[str, str], pods: dict[str, str], ingress: list[Manifest]) -> Manifest:
    selector: Manifest = {"matchLabels": pods} if pods else {}
    spec = {"podSelector": selector, "policyTypes": ["Ingress"], "ingress": ingress}
    return manifest("networking.k8s.io/v1", "NetworkPolicy", name, said, spec=spec)
