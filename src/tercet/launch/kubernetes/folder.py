"""The folder that is written: one YAML file a concern, `kustomization.yaml` over them, and the scripts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import yaml

from tercet.core.errors import UsageError
from tercet.core.stage import role_letter
from tercet.core.topology import Topology
from tercet.engine.models.hub import is_hub_id
from tercet.launch.kubernetes.manifest import Manifest, labels, manifest
from tercet.launch.kubernetes.network import network_objects
from tercet.launch.kubernetes.options import DeployOptions
from tercet.launch.kubernetes.placing import OWN_ENGINES, Placed, key_variable, place
from tercet.launch.kubernetes.router import KEYS_SECRET, access_objects, router_objects
from tercet.launch.kubernetes.workers import (
    EMBEDDINGS_CLAIM,
    HUB_SECRET,
    SECRET,
    needs_shared_embeddings,
    worker_objects,
)

MARK = ".tercet-deploy"
"""Names the files that were written, so that writing again leaves none of an earlier topology behind."""

KUSTOMIZATION = "kustomization.yaml"
SCRIPTS = ("deploy.sh", "cleanup.sh", "request.py")


def kubernetes_files(topology: Topology, options: DeployOptions) -> dict[str, str]:
    """Return the text of every file by name. Raises UsageError for what can't run in a cluster."""
    placed = place(topology, options)
    if needs_shared_embeddings(placed) and options.shared_storage_class is None:
        raise UsageError(
            "encode workers of vllm hand embeddings on as files, which all pods must see: name a storage class of "
            "volumes with many writers (ReadWriteMany) with --shared-storage-class"
        )
    documents: dict[str, list[Manifest]] = {
        "namespace.yaml": [_namespace(options)],
        "access.yaml": access_objects(options),
        "network.yaml": network_objects(placed),
    }
    if needs_shared_embeddings(placed):
        documents["storage.yaml"] = [_shared_claim(options)]
    for group in placed.groups:
        documents[f"workers-{group.name}.yaml"] = worker_objects(placed, group, options)
    documents["router.yaml"] = router_objects(placed, options)
    texts = {name: to_yaml(objects) for name, objects in documents.items()}
    kustomization: Manifest = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": options.namespace,
        "resources": list(documents),
    }
    texts[KUSTOMIZATION] = to_yaml([kustomization])
    texts |= _scripts(placed, options)
    return texts


def write_folder(texts: Mapping[str, str], folder: Path, *, force: bool = False) -> None:
    """Write the files, replacing those of an earlier call. Raises UsageError for a folder that holds anything else:
    manifests are no earlier call's for what watches them."""
    mark = folder / MARK
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file: name a folder")
    before = mark.read_text(encoding="utf-8").split() if mark.is_file() else []
    mine = not texts.keys().isdisjoint(before)
    if folder.is_dir() and any(folder.iterdir()) and not mine and not force:
        raise UsageError(
            f"--out {folder} holds files that are not of this `tercet deploy` command: name another, or add --force"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in before if mine else ():
            if re.fullmatch(r"[a-z0-9-]+\.(yaml|sh|py)", name) and name not in texts:
                (folder / name).unlink(missing_ok=True)
        for name, text in texts.items():
            path = folder / name
            path.write_text(text, encoding="utf-8")
            path.chmod(0o755 if name.endswith(".sh") else 0o644)
        mark.write_text("\n".join(texts) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write to --out {folder}: {error}") from error


def _namespace(options: DeployOptions) -> Manifest:
    said = {
        "app.kubernetes.io/part-of": "tercet",
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/warn": "restricted",
    }
    return manifest("v1", "Namespace", options.namespace, said)


def _shared_claim(options: DeployOptions) -> Manifest:
    spec = {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": options.shared_storage_class,
        "resources": {"requests": {"storage": options.cache_size}},
    }
    return manifest("v1", "PersistentVolumeClaim", EMBEDDINGS_CLAIM, labels("worker"), spec=spec)


def _scripts(placed: Placed, options: DeployOptions) -> dict[str, str]:
    from jinja2 import Environment, StrictUndefined

    topology = placed.source
    letters = {role_letter(worker.stages) for worker in topology.workers}
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
    environment.filters["sh"] = shlex.quote
    values = {
        "namespace": options.namespace,
        "groups": [group.name for group in placed.groups],
        "secret": SECRET if topology.engine.engine in OWN_ENGINES or key_variable(topology) else None,
        "keys_secret": KEYS_SECRET if topology.router.api_key_file else None,
        "keys_file": topology.router.api_key_file or "",
        "hub_secret": HUB_SECRET if is_hub_id(topology.model) and topology.engine.random_weights is None else None,
        "port": placed.placement.topology.router.port,
        # A first request through P and D proves that KV crosses; a whole worker answers alone.
        "route": "P.*>D" if {"P", "D"} <= letters and "A" not in letters else ".",
    }
    templates = files("tercet.launch.kubernetes").joinpath("templates")
    return {
        name: environment.from_string(templates.joinpath(f"{name}.j2").read_text(encoding="utf-8")).render(values)
        for name in SCRIPTS
    }


class _Dumper(yaml.SafeDumper):
    """Writes each repeated object in full, and text of several lines as a block."""

    def ignore_aliases(self, data: object) -> bool:
        """Return True: an alias is hard to read."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def to_yaml(objects: list[Manifest]) -> str:
    """Return objects as YAML, a document each."""
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=120, explicit_start=len(objects) > 1)
