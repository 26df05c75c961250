"""The files that `tercet deploy monitoring` writes."""

from __future__ import annotations

from importlib.resources import files

import yaml

from tercet.launch.kubernetes.folder import to_yaml
from tercet.launch.kubernetes.manifest import Manifest, labels, manifest
from tercet.launch.kubernetes.options import check_name

DASHBOARD, ALERTS, KUBERNETES = "dashboard.json", "alerts.yaml", "kubernetes.yaml"
SIDECAR_LABEL = {"grafana_dashboard": "1"}
"""By which the sidecar of Grafana's Helm chart finds dashboards."""
OPERATOR = "monitoring.coreos.com/v1"


def monitoring_files(namespace: str | None = None) -> dict[str, str]:
    """Return the text of every file by name; with a `namespace`, that of a router in a cluster, the same as objects
    for Grafana's sidecar and the Prometheus operator, which is told whom to scrape. Raises UsageError for a name that
    is none."""
    check_name("--namespace", namespace)
    folder = files("tercet.launch.monitoring")
    texts = {name: folder.joinpath(name).read_text(encoding="utf-8") for name in (DASHBOARD, ALERTS)}
    if namespace is not None:
        objects = _objects(namespace, texts[DASHBOARD], yaml.safe_load(texts[ALERTS]))
        texts[KUBERNETES] = to_yaml(objects)
    return texts


def _objects(namespace: str, dashboard: str, rules: Manifest) -> list[Manifest]:
    said = labels("router")
    endpoints = [{"port": "http", "path": "/metrics", "interval": "10s"}]
    objects = [
        manifest("v1", "ConfigMap", "tercet-dashboard", said | SIDECAR_LABEL, data={DASHBOARD: dashboard}),
        manifest(OPERATOR, "PrometheusRule", "tercet-alerts", said, spec=rules),
        manifest(
            OPERATOR,
            "ServiceMonitor",
            "tercet-router",
            said,
            spec={"selector": {"matchLabels": said}, "endpoints": endpoints},
        ),
    ]
    for each in objects:
        each["metadata"]["namespace"] = namespace
    return objects
