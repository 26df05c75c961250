"""The workers: a StatefulSet a group, whose headless Service gives every pod a name that lasts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

from tercet.core.secret import SECRET_VARIABLE
from tercet.core.stage import Stage
from tercet.core.topology import has_encoders
from tercet.launch.engines.protocol import WorkerProcess
from tercet.launch.engines.registry import engine_commands
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
from tercet.launch.kubernetes.placing import EMBEDDINGS, OWN_ENGINES, WORKER_PORT, Group, Placed, key_variable
from tercet.launch.placement import Placement

SECRET = "tercet-topology"
HUB_SECRET = "hf-token"
EMBEDDINGS_CLAIM = "embeddings"
PROBE_PERIOD_S = 10
STOP_MARGIN_S = 15
"""Between the end of the grace and Kubernetes' SIGKILL."""

UNDER_WAY = {
    "vllm": r"vllm:num_requests_(?:running|waiting)",
    "sglang": r"sglang:num_(?:running|(?:\w+_)?queue)_reqs",
}
"""The gauges of requests under way, of engines that cut them when they are told to end. Who waits for KV on its way is
under way, too: it runs when that is there."""

DRAIN = """\
import re, sys, time, urllib.request
end = time.monotonic() + {grace_s}
while time.monotonic() < end:
    text = urllib.request.urlopen("http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    if not sum(float(n) for n in re.findall(r"^{gauges}(?:{{.*}})? (\\S+)$", text, re.M)):
        break
    time.sleep(1)
"""


def worker_objects(placed: Placed, group: Group, options: DeployOptions) -> list[Manifest]:
    """Return the group's Service, options file (where the engine takes one), StatefulSet and PodDisruptionBudget."""
    said = labels("worker", group.name)
    process = container_of(placed.placement, group, options)
    service = manifest(
        "v1",
        "Service",
        group.name,
        said,
        spec={
            "clusterIP": "None",
            # The router proves a worker by an inference, which comes before Kubernetes calls it ready.
            "publishNotReadyAddresses": True,
            "selector": said,
            "ports": [{"name": "http", "port": WORKER_PORT, "targetPort": "http"}],
        },
    )
    files = {PurePosixPath(path).name: text for path, text in process.files.items()}
    config = [manifest("v1", "ConfigMap", f"{group.name}-options", said, data=files)] if files else []
    claims = [_cache_claim(options)] if options.storage_class else []
    stateful = manifest(
        "apps/v1",
        "StatefulSet",
        group.name,
        said,
        spec={
            "serviceName": group.name,
            "replicas": len(group.workers),
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": said},
            "template": {"metadata": {"labels": said}, "spec": _pod(placed, group, options, process)},
            **({"volumeClaimTemplates": claims} if claims else {}),
        },
    )
    return [service, *config, stateful, disruption_budget(group.name, said)]


def container_of(placement: Placement, group: Group, options: DeployOptions) -> WorkerProcess:
    """Return how the container of each of the group's pods is started; Kubernetes puts the pod's name into it."""
    engine = placement.topology.engine.engine
    first = next(worker for worker in placement.topology.workers if worker.name == f"{group.name}-0")
    process = engine_commands(engine).container(placement.of(first), first)
    if engine not in OWN_ENGINES:
        return process
    argv = ["$(POD_NAME)" if word == first.name else word for word in process.argv]
    return replace(process, argv=(*argv, "--shutdown-grace", str(options.grace_s)))


def _pod(placed: Placed, group: Group, options: DeployOptions, process: WorkerProcess) -> Manifest:
    own = placed.source.engine.engine in OWN_ENGINES
    volumes: list[Manifest] = [
        # Where ranks keep what they hand on: a container has 64 MB there unless told otherwise.
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
        {"name": "tmp", "emptyDir": {}},
    ]
    mounts: list[Manifest] = [
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "cache", "mountPath": "/cache"},
    ]
    if not options.storage_class:
        volumes.append({"name": "cache", "emptyDir": {"sizeLimit": options.cache_size}})
    if needs_shared_embeddings(placed) and Stage.ENCODE in group.workers[0].stages | _consumers(group):
        volumes.append({"name": "embeddings", "persistentVolumeClaim": {"claimName": EMBEDDINGS_CLAIM}})
        mounts.append({"name": "embeddings", "mountPath": str(EMBEDDINGS)})
    if process.files:
        volumes.append({"name": "options", "configMap": {"name": f"{group.name}-options"}})
        folder = str(PurePosixPath(next(iter(process.files))).parent)
        mounts.append({"name": "options", "mountPath": folder, "readOnly": True})
    container = {
        "name": "worker",
        "image": options.image_worker,
        "command": list(process.argv[:1]),
        "args": list(process.argv[1:]),
        "env": _environment(placed, process),
        "ports": [{"name": "http", "containerPort": WORKER_PORT}],
        "startupProbe": http_probe(process.ready_path, "http", PROBE_PERIOD_S, start_failures(placed)),
        "readinessProbe": http_probe(process.ready_path, "http", PROBE_PERIOD_S, 3),
        "livenessProbe": http_probe("/health" if own else process.ready_path, "http", 30, 6, 20),
        "lifecycle": {"preStop": {"exec": {"command": _before_stop(placed, options)}}},
        "resources": _resources(group, options),
        "securityContext": container_security(read_only=own),
        "volumeMounts": mounts,
    }
    return {
        "automountServiceAccountToken": False,
        # Kubernetes would set variables such as VLLM_PORT, after a Service called vllm.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": options.grace_s * (1 if own else 2) + STOP_MARGIN_S,
        "securityContext": pod_security(),
        "containers": [container],
        "volumes": volumes,
    }


def needs_shared_embeddings(placed: Placed) -> bool:
    """True when encode workers hand embeddings on as files."""
    return placed.source.engine.engine == "vllm" and has_encoders(placed.source.workers)


def _consumers(group: Group) -> frozenset[Stage]:
    return frozenset({Stage.ENCODE}) if Stage.PREFILL in group.workers[0].stages else frozenset()


def start_failures(placed: Placed) -> int:
    """Return how many probes, a period apart, a starting worker may leave unanswered: for twice what a start on one
    machine may take, as the first one of a pod fetches the model, too."""
    engine = engine_commands(placed.source.engine.engine)
    return round(2 * max(engine.start_timeout_s, 600.0) / PROBE_PERIOD_S)


def _before_stop(placed: Placed, options: DeployOptions) -> list[str]:
    gauges = UNDER_WAY.get(placed.source.engine.engine)
    if gauges is None:  # answers under way end by --shutdown-grace; a moment for the router's next look
        return ["sleep", "2"]
    return ["python3", "-c", DRAIN.format(grace_s=options.grace_s, port=WORKER_PORT, gauges=gauges)]


def _environment(placed: Placed, process: WorkerProcess) -> list[Manifest]:
    own = placed.source.engine.engine in OWN_ENGINES
    env: list[Manifest] = [
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "HOME", "value": "/tmp"},
        {"name": "USER", "value": "tercet"},  # libraries ask for a name, which a bare number has not
        {"name": "HF_HOME", "value": "/cache/huggingface"},
        {"name": "TERCET_CACHE", "value": "/cache/tercet"},
        {
            "name": "HF_TOKEN",
            "valueFrom": {"secretKeyRef": {"name": HUB_SECRET, "key": "token", "optional": True}},
        },
    ]
    # An address that others are told must be the pod's, not the one that listens to all.
    env += [
        {"name": name, "value": "$(POD_IP)" if value == placed.placement.host else value}
        for name, value in process.env.items()
    ]
    variable = SECRET_VARIABLE if own else key_variable(placed.source)
    if variable is not None:
        env.append({"name": variable, "valueFrom": {"secretKeyRef": {"name": SECRET, "key": "secret"}}})
    return env


def _resources(group: Group, options: DeployOptions) -> Manifest:
    number, unit = int(options.memory_per_rank[:-2]), options.memory_per_rank[-2:]
    memory = f"{number * group.ranks}{unit}"
    cpu = str((group.cores or options.cpus_per_rank) * group.ranks)
    limits: dict[str, str] = {"memory": memory}
    if group.on_gpus:
        limits[options.gpu_resource] = str(group.gpus)
    else:
        limits["cpu"] = cpu
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": limits}


def _cache_claim(options: DeployOptions) -> Manifest:
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": options.storage_class,
        "resources": {"requests": {"storage": options.cache_size}},
    }
    return {"metadata": {"name": "cache"}, "spec": spec}
