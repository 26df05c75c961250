"""Words that every object needs: names, labels, and what a container may do."""

from __future__ import annotations

from typing import Any

Manifest = dict[str, Any]
USER = 10001
"""Who the containers' processes are: nobody of the image's own, so that any image will do."""


def labels(component: str, group: str = "") -> dict[str, str]:
    """Return the labels of a component (router or worker) and, of workers, their group."""
    said = {"app.kubernetes.io/part-of": "tercet", "app.kubernetes.io/component": component}
    return said | ({"tercet/group": group} if group else {})


def manifest(api: str, kind: str, name: str, said: dict[str, str], **rest: object) -> Manifest:
    """Return an object with labels; `rest` are its other top-level fields. Kustomize fills in the namespace."""
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, "labels": said}, **rest}


def pod_security() -> Manifest:
    """Return what the Pod Security Standard "restricted" asks of a pod; files of volumes belong to the pod's group."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security(*, read_only: bool) -> Manifest:
    """Return what "restricted" asks of a container; `read_only` its own file system, volumes apart."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": read_only,
    }


def http_probe(path: str, port: str, period_s: int, failures: int, timeout_s: int = 5) -> Manifest:
    """Return a probe that asks every `period_s` seconds and gives up after `failures` failures in a row."""
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period_s,
        "timeoutSeconds": timeout_s,
        "failureThreshold": failures,
    }


def disruption_budget(name: str, said: dict[str, str]) -> Manifest:
    """Return a budget that lets a drained node take one pod at a time, also where there is only one."""
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": said}}
    return manifest("policy/v1", "PodDisruptionBudget", name, said, spec=spec)
