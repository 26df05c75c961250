"""The router: its arguments and topology in a ConfigMap, a Deployment, a Service, and who may look for pods."""

from __future__ import annotations

import hashlib

import yaml

from tercet.core.secret import SECRET_VARIABLE
from tercet.launch.commands import router_arguments
from tercet.launch.kubernetes.manifest import (
    Manifest,
    container_security,
    disruption_budget,
    http_probe,
    labels,
    manifest,
    pod_security,
)
from tercet.launch.kubernetes.options import DeployOptions
from tercet.launch.kubernetes.placing import KEYS_FILE, OWN_ENGINES, Placed, key_variable
from tercet.launch.kubernetes.workers import PROBE_PERIOD_S, SECRET, start_failures
from tercet.launch.topology_file import topology_to_dict

NAME = "router"
CONFIG = "router-topology"
KEYS_SECRET = "router-api-keys"
FOLDER = "/etc/tercet/router"
ARGUMENTS = "arguments"
WORKER_KEY_FILE = "/etc/tercet/workers/secret"
STOP_MARGIN_S = 15
PROGRESS_MARGIN_S = 600
LEAVE_S = 5
"""How long the Service may go on sending requests to a router that is about to end."""


def router_objects(placed: Placed, options: DeployOptions) -> list[Manifest]:
    """Return the router's ConfigMap, Deployment, Service and PodDisruptionBudget."""
    said = labels("router")
    topology = placed.placement.topology
    arguments = router_arguments(placed.placement, options.grace_s)
    if key_variable(placed.source):
        arguments += ["--worker-api-key-file", WORKER_KEY_FILE]
    data = {
        ARGUMENTS: "\n".join(arguments) + "\n",
        "topology.yaml": yaml.safe_dump(topology_to_dict(placed.source), sort_keys=False),
    }
    digest = hashlib.sha256(data[ARGUMENTS].encode()).hexdigest()[:16]
    deployment = manifest(
        "apps/v1",
        "Deployment",
        NAME,
        said,
        spec={
            "replicas": 1,
            # What a router knows of prefixes and handoffs is its own: two at once would each know half.
            "strategy": {"type": "Recreate"},
            # It is ready after its workers; `kubectl rollout status` gives up what has passed this, ready soon or not.
            "progressDeadlineSeconds": start_failures(placed) * PROBE_PERIOD_S + PROGRESS_MARGIN_S,
            "selector": {"matchLabels": said},
            "template": {
                # A changed topology starts the router anew.
                "metadata": {"labels": said, "annotations": {"tercet/arguments": digest}},
                "spec": _pod(placed, options),
            },
        },
    )
    service = manifest(
        "v1",
        "Service",
        NAME,
        said,
        spec={"selector": said, "ports": [{"name": "http", "port": topology.router.port, "targetPort": "http"}]},
    )
    return [
        manifest("v1", "ConfigMap", CONFIG, said, data=data),
        deployment,
        service,
        disruption_budget(NAME, said),
    ]


def access_objects(options: DeployOptions) -> list[Manifest]:
    """Return the router's account and its right to find the pods of its namespace, and no more."""
    said = labels("router")
    rules = [
        {"apiGroups": [""], "resources": ["pods", "endpoints"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]},
    ]
    subject = {"kind": "ServiceAccount", "name": NAME, "namespace": options.namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NAME}
    return [
        # The token is mounted for nobody: a worker's DNS name is enough for the router as it is.
        manifest("v1", "ServiceAccount", NAME, said, automountServiceAccountToken=False),
        manifest("rbac.authorization.k8s.io/v1", "Role", NAME, said, rules=rules),
        manifest("rbac.authorization.k8s.io/v1", "RoleBinding", NAME, said, subjects=[subject], roleRef=role),
    ]


def _pod(placed: Placed, options: DeployOptions) -> Manifest:
    topology = placed.placement.topology
    volumes: list[Manifest] = [{"name": "topology", "configMap": {"name": CONFIG}}, {"name": "tmp", "emptyDir": {}}]
    mounts: list[Manifest] = [
        {"name": "topology", "mountPath": FOLDER, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    env: list[Manifest] = [{"name": "HOME", "value": "/tmp"}]
    if topology.router.api_key_file:
        volumes.append({"name": "keys", "secret": {"secretName": KEYS_SECRET}})
        mounts.append({"name": "keys", "mountPath": KEYS_FILE.rpartition("/")[0], "readOnly": True})
        if placed.source.engine.engine in OWN_ENGINES:  # they let in only who knows it
            env.append({"name": SECRET_VARIABLE, "valueFrom": {"secretKeyRef": {"name": SECRET, "key": "secret"}}})
        elif key_variable(placed.source):
            volumes.append({"name": "worker-key", "secret": {"secretName": SECRET}})
            mounts.append({"name": "worker-key", "mountPath": WORKER_KEY_FILE.rpartition("/")[0], "readOnly": True})
    container = {
        "name": NAME,
        "image": options.image_router,
        "command": ["python"],
        "args": ["-m", "tercet", "router", f"@{FOLDER}/{ARGUMENTS}"],
        "env": env,
        "ports": [{"name": "http", "containerPort": topology.router.port}],
        "startupProbe": http_probe("/health", "http", 2, 60),
        "readinessProbe": http_probe("/ready", "http", 5, 3),
        "livenessProbe": http_probe("/health", "http", 10, 6),
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(LEAVE_S)]}}},
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "4Gi"}},
        "securityContext": container_security(read_only=True),
        "volumeMounts": mounts,
    }
    return {
        "serviceAccountName": NAME,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": options.grace_s + LEAVE_S + STOP_MARGIN_S,
        "securityContext": pod_security(),
        "containers": [container],
        "volumes": volumes,
    }
