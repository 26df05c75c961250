"""The dashboard and the alert rules ask for what a router tells, in PromQL that parses, in the form that is loaded."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import promql_parser
import pytest
import yaml
from jsonschema import Draft202012Validator
from prometheus_client.parser import text_string_to_metric_families
from tests.unit.router.harness import Setup, routing
from typer.testing import CliRunner

from tercet.cli.deploy import app
from tercet.core.errors import UsageError
from tercet.launch.kubernetes.manifest import labels
from tercet.launch.monitoring.files import ALERTS, DASHBOARD, KUBERNETES, monitoring_files
from tercet.router.gauges import FleetGauges

TESTS = Path(__file__).with_name("alerts_test.yaml")
ADDED = {"job", "instance", "le"}
"""Labels that Prometheus adds, and that of a histogram's buckets."""
SUFFIXES = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("_total",), "gauge": ("",)}
PANELS = {"row", "stat", "timeseries"}
BUILT_IN = {"__rate_interval"}

RULES = {
    "type": "object",
    "required": ["groups"],
    "additionalProperties": False,
    "properties": {
        "groups": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "rules"],
                "additionalProperties": False,
                "properties": {
                    "name": {"type": "string"},
                    "interval": {"type": "string"},
                    "rules": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "type": "object",
                            "required": ["alert", "expr", "labels", "annotations"],
                            "additionalProperties": False,
                            "properties": {
                                "alert": {"type": "string", "pattern": "^[A-Z][A-Za-z]+$"},
                                "expr": {"type": "string"},
                                "for": {"type": "string", "pattern": "^[0-9]+[smh]$"},
                                "labels": {
                                    "type": "object",
                                    "properties": {"severity": {"enum": ["warning", "critical"]}},
                                    "required": ["severity"],
                                },
                                "annotations": {"type": "object", "required": ["summary", "description"]},
                            },
                        },
                    },
                },
            },
        }
    },
}
"""Of Prometheus' documentation on alerting rules."""


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(monitoring_files()[DASHBOARD])
    return found


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(monitoring_files()[ALERTS])["groups"] for rule in group["rules"]]


def asked() -> Iterator[tuple[str, str]]:
    """Yield where an expression is, and the expression as Prometheus gets it."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"].replace("$__rate_interval", "5m")
            yield panel["title"], re.sub(r"\$(mode|worker|turn)", ".*", expression)
    for rule in rules():
        yield rule["alert"], rule["expr"]


EXPRESSIONS = list(asked())


async def told(setup: Setup) -> dict[str, set[str]]:
    """Return the labels that each series of a router's /metrics can have, by its name there."""
    parts = setup.router.parts
    gauges = FleetGauges(parts.fleet, parts.handoffs, parts.breakers, parts.gates)
    can = {
        metric.name: set(metric._labelnames)  # type: ignore[attr-defined]
        for metric in (*parts.metrics.collect(), *gauges.collect())
    }
    body = (await setup.get("/metrics")).body.decode()
    return {
        family.name + suffix: can[family.name] | ADDED
        for family in text_string_to_metric_families(body)
        for suffix in SUFFIXES[family.type]
    }


def selectors(node: Any) -> Iterator[tuple[str, set[str]]]:
    """Yield each series that an expression names, with the labels that it selects and groups by."""

    def walk(node: Any, grouped: frozenset[str]) -> Iterator[tuple[str, set[str]]]:
        if isinstance(node, promql_parser.VectorSelector):
            assert node.name is not None
            yield node.name, {matcher.name for matcher in node.matchers.matchers} | grouped
        elif isinstance(node, promql_parser.MatrixSelector):
            yield from walk(node.vector_selector, grouped)
        elif isinstance(node, promql_parser.AggregateExpr):
            by = set(node.modifier.labels) if node.modifier is not None else set()
            yield from walk(node.expr, grouped | by)
        elif isinstance(node, promql_parser.BinaryExpr):
            yield from walk(node.lhs, grouped)
            yield from walk(node.rhs, grouped)
        elif isinstance(node, promql_parser.Call):
            for argument in node.args:
                yield from walk(argument, grouped)
        elif isinstance(node, promql_parser.ParenExpr | promql_parser.UnaryExpr):
            yield from walk(node.expr, grouped)
        else:
            assert isinstance(node, promql_parser.NumberLiteral | promql_parser.StringLiteral), node

    return walk(node, frozenset())


def faults(expression: str, series: dict[str, set[str]]) -> list[str]:
    """Return what an expression asks for that no router tells."""
    found = list(selectors(promql_parser.parse(expression)))
    unknown = [name for name, _ in found if name not in series]
    return unknown + [f"{name}: {label}" for name, asked in found if name in series for label in asked - series[name]]


async def test_every_metric_and_label_is_one_that_a_router_tells() -> None:
    async with routing("PD", "ppd") as setup:
        await setup.chat("hello", max_tokens=3, stream=True)
        series = await told(setup)
        for where, expression in EXPRESSIONS:
            assert faults(expression, series) == [], where
        # The check can fail.
        assert faults('rate(tercet:router_requests_total{worker="x"}[5m])', series) == [
            "tercet:router_requests_total: worker"
        ]
        assert faults("sum by (mode) (tercet:router_absent)", series) == ["tercet:router_absent"]
    with pytest.raises(ValueError, match="parenthesis"):
        promql_parser.parse("sum(tercet:router_in_flight")


def test_the_dashboard_is_such_as_grafana_loads() -> None:
    board = dashboard()
    assert board["uid"] and board["title"] and board["schemaVersion"] >= 36 and board.get("id") is None
    assert {"time", "templating", "annotations", "panels"} <= board.keys()
    variables = {each["name"]: each for each in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert panel["type"] in PANELS and panel["title"] and place["x"] + place["w"] <= 24
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["fieldConfig"]["defaults"]["unit"] and panel["targets"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for each in (panel, *panel["targets"]):
            assert each["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            used = set(re.findall(r"\$(\w+)", target["expr"]))
            assert used <= variables.keys() | BUILT_IN, panel["title"]
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                assert re.search(rf"by \([^)]*\b{label}\b", target["expr"]) or label in ("rank", "pair")


def test_the_rules_are_such_as_prometheus_loads() -> None:
    document = yaml.safe_load(monitoring_files()[ALERTS])
    Draft202012Validator(RULES).validate(document)
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        # An annotation names only labels that are left: those of the outermost `by`, or all.
        by = re.match(r"(?:histogram_quantile\([^,]+, )?sum by \(([^)]*)\)", rule["expr"])
        for text in rule["annotations"].values():
            for label in re.findall(r"\$labels\.(\w+)", text):
                assert by is None or label in by[1].split(", "), rule["alert"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, of Debian's package prometheus, is not here")
def test_the_alerts_fire_when_they_should(tmp_path: Path) -> None:
    (tmp_path / ALERTS).write_text(monitoring_files()[ALERTS], encoding="utf-8")
    (tmp_path / TESTS.name).write_text(TESTS.read_text(encoding="utf-8"), encoding="utf-8")
    for command in (["check", "rules", ALERTS], ["test", "rules", TESTS.name]):
        done = subprocess.run(["promtool", *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_for_a_cluster_they_are_objects(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["monitoring", "--out", str(tmp_path / "w"), "--namespace", "tercet-pd"])
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "w").iterdir()} >= {DASHBOARD, ALERTS, KUBERNETES}
    board, alerts, monitor = yaml.safe_load_all((tmp_path / "w" / KUBERNETES).read_text(encoding="utf-8"))
    kubernetes_validate.validate(board, "1.32", strict=True)
    assert (
        board["metadata"]["labels"]["grafana_dashboard"] == "1" and json.loads(board["data"][DASHBOARD]) == dashboard()
    )
    assert alerts["kind"] == "PrometheusRule" and alerts["spec"] == yaml.safe_load(monitoring_files()[ALERTS])
    assert monitor["spec"]["selector"]["matchLabels"] == labels("router")
    assert {each["metadata"]["namespace"] for each in (board, alerts, monitor)} == {"tercet-pd"}
    assert KUBERNETES not in monitoring_files()
    with pytest.raises(UsageError, match="--namespace 'Foo Bar': write small letters"):
        monitoring_files("Foo Bar")
