from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from tercet.core.errors import MissingExtraError, UsageError
from tercet.core.stage import Mode, Stage
from tercet.core.topology import EngineSpec, RouterSpec, Topology
from tercet.launch.commands import TercetCommands, router_arguments, workers_file
from tercet.launch.placement import Placement
from tercet.launch.topology_file import load_topology, parse_topology, schema_text, topology_to_dict

FULL = """
name: two-by-two
model: smollm2-135m
mode: ppd
devices: [cpu:0, cpu:1]
workers:
  - stages: [prefill]
  - name: fast
    stages: [decode]
    ranks: 2
    devices: [cpu:0, cpu:1]
    port: 8102
engine: {engine: virtual, gpu: h100, dtype: fp32, lease: 5, block_size: 32}
router: {port: 9000, balancer: least_loaded, ppd_threshold: 64, connect_timeout: 1, idle_timeout: 7.5, max_retries: 0}
"""


def complaint(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse_topology(text, "t.yaml")
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_full_file_is_read_field_by_field() -> None:
    topology = parse_topology(FULL, "t.yaml")
    assert (topology.name, topology.mode, topology.short_form) == ("two-by-two", Mode.PPD, "1P1D")
    assert [worker.name for worker in topology.workers] == ["prefill-0", "fast"]
    assert topology.workers[1].stages == {Stage.DECODE}
    assert (topology.workers[1].ranks, topology.workers[1].port) == (2, 8102)
    assert (topology.engine.engine, topology.engine.gpu, topology.engine.lease_s) == ("virtual", "h100", 5.0)
    assert (topology.engine.block_size, topology.engine.max_num_seqs) == (32, None)
    assert (topology.router.connect_timeout_s, topology.router.idle_timeout_s) == (1.0, 7.5)
    assert (topology.router.first_byte_timeout_s, topology.router.max_retries) == (60.0, 0)
    assert (topology.router.port, topology.router.balancer, topology.router.ppd_threshold) == (9000, "least_loaded", 64)


@pytest.mark.parametrize("text", [FULL, "workers: 2A", "workers: 1P2D\nmode: ppd\nengine: {random_weights: tiny}"])
def test_a_written_topology_is_read_back_as_the_same(text: str) -> None:
    topology = parse_topology(text, "t.yaml")
    again = parse_topology(json.dumps(topology_to_dict(topology)), "again")
    assert again == topology


@pytest.mark.parametrize(
    ("workers", "mode"),
    [("1A", Mode.AGGREGATED), ("3A", Mode.REPLICATED), ("1P1D", Mode.PD), ("1P1D1A", Mode.PD), ("2E1A", Mode.EPD)],
)
def test_the_mode_follows_from_the_workers(workers: str, mode: Mode) -> None:
    assert parse_topology(f"workers: {workers}", "t.yaml").mode is mode


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("workers: 1P1D\nmoed: pd", "t.yaml:2: moed: unknown key; did you mean 'mode'?"),
        ("workers: 1P1D\nmode: pdd", "t.yaml:2: mode: 'pdd' is not one of aggregated, replicated, pd, ppd, epd, ep"),
        ("workers: 1P1D\nmode: epd", "t.yaml:2: mode: mode epd needs an encode worker (E); there is none"),
        (
            "workers: 1E1P1D\nrouter:\n  encode_fallback: local",
            "t.yaml:3: router.encode_fallback: encode_fallback local needs the stage encode on every worker that prefi",
        ),
        ("workers: 1A\nengine:\n  gpu: h1000", "t.yaml:3: engine.gpu: unknown GPU 'h1000': known are a100, h100"),
        ("workers:\n  - stages: [prefil]", "t.yaml:2: workers[0].stages[0]: 'prefil' is not one of"),
        (
            "workers:\n  - stages: [decode]\n    rank: 2",
            "t.yaml:3: workers[0].rank: unknown key; did you mean 'ranks'?",
        ),
        ("\nworkers: 1X", "t.yaml:2: workers: '1X' is not of the form 1P1D, 2A or 2E1P1D"),
        ("workers: 2A\nengine:\n  dtype: int4", "t.yaml:3: engine.dtype: 'int4' is not one of bf16, fp32"),
        ("workers: 2A\nrouter: {port: http}", "t.yaml:2: router.port: 'http' is not of type integer"),
        ("workers: 2A\nrouter: {port: 70000}", "t.yaml:2: router.port: 70000 is greater than the maximum"),
        ("workers: 2A\ndevices: [gpu0]", "t.yaml:2: devices[0]: 'gpu0' is not of the form cpu:0"),
        ("model: x", "t.yaml:1: 'workers' is a required property"),
        ("", "t.yaml:1: empty"),
        ("- 1\n- 2", "t.yaml:1: [1, 2] is not of type object"),
        ("workers: [\n", "t.yaml:2: not YAML"),
        ("workers: 1P1D\nmode: pd\nmode: ppd", "t.yaml:3: 'mode' is already set in line 2"),
        ("workers: 2A\nmode: pd", "t.yaml:2: mode: mode pd needs a prefill worker (P); there is none"),
        ("workers: 2P", "t.yaml:1: workers: mode pd needs a decode worker (D); there is none"),
        ("workers: &a [*a]", "t.yaml:1: an alias that holds itself"),
        (
            "workers:\n- {stages: [prefill, decode], ranks: 2,\n   devices: [cpu:0]}",
            "t.yaml:3: workers[0].devices: 1 devices for 2 ranks",
        ),
        (
            "workers:\n- {name: a, stages: [prefill]}\n- {name: a, stages: [decode]}",
            "t.yaml:3: workers[1].name: the name 'a' is taken",
        ),
        *(
            (
                f"workers:\n- {{name: {name}, stages: [prefill, decode]}}",
                f"t.yaml:2: workers[0].name: the name '{name}'",
            )
            for name in ("router", "launcher", "workers", "deployment")
        ),
        (
            "workers:\n- {port: 81, stages: [prefill]}\n- {port: 81, stages: [decode]}",
            "t.yaml:3: workers[1].port: port 81 is another worker's",
        ),
    ],
)
def test_a_fault_is_named_with_its_line(text: str, expected: str) -> None:
    assert complaint(text).startswith(expected)


def test_all_faults_are_named_in_the_order_of_their_lines() -> None:
    lines = complaint("workers: 1P1D\nrouter:\n  prot: 1\n  host: ''\nmoed: pd\n").splitlines()
    assert [line.split(":")[1] for line in lines] == ["3", "4", "5"]


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read topology file .*absent\.yaml"):
        load_topology(tmp_path / "absent.yaml")


def test_the_schema_covers_every_setting() -> None:
    schema = json.loads(schema_text())
    dumped = topology_to_dict(parse_topology(FULL, "t.yaml"))
    assert set(dumped) <= set(schema["properties"])
    for part in ("engine", "router"):
        assert set(dumped[part]) == set(schema["$defs"][part]["properties"])
    assert set(schema["properties"]["mode"]["enum"]) == {str(mode) for mode in Mode}


@pytest.mark.parametrize("path", sorted(Path("examples/topologies").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_loads(path: Path) -> None:
    topology = load_topology(path)
    assert isinstance(topology, Topology)
    assert topology.name == path.stem


def test_every_setting_is_in_the_example_of_that_name_at_its_default() -> None:
    path = Path("examples/topologies/every-setting.yaml")
    data, schema = yaml.safe_load(path.read_text(encoding="utf-8")), json.loads(schema_text())
    properties = {name: set(part["properties"]) for name, part in schema["$defs"].items() if "properties" in part}
    assert set(data) == set(schema["properties"]) - {"$schema"}
    assert (set(data["engine"]), set(data["router"])) == (properties["engine"], properties["router"])
    assert set().union(*data["workers"]) == properties["worker"]
    topology = load_topology(path)
    assert (topology.engine, topology.router) == (EngineSpec(), RouterSpec())


def test_one_workers_engine_may_differ() -> None:
    text = """
workers:
  - {stages: [prefill], engine: {max_num_batched_tokens: 4096, lease: 5}}
  - {stages: [decode]}
engine: {max_num_seqs: 8}
"""
    topology = parse_topology(text, "t.yaml")
    prefill, decode = topology.workers
    assert topology.of(prefill).engine.max_num_batched_tokens == 4096 and topology.of(prefill).engine.lease_s == 5.0
    assert topology.of(prefill).engine.max_num_seqs == topology.of(decode).engine.max_num_seqs == 8
    assert topology.of(decode).engine.limits(on_gpu=False).tokens == 512
    assert parse_topology(json.dumps(topology_to_dict(topology)), "again") == topology
    with pytest.raises(UsageError, match=r"workers\[0\].engine.engine: unknown key"):
        parse_topology("workers: [{stages: [prefill, decode], engine: {engine: virtual}}]", "t.yaml")


def test_the_deadlines_of_a_file_reach_the_router() -> None:
    topology = parse_topology("workers: 1P1D\nrouter: {first_byte_timeout: 5, max_retries: 1, idle_timeout: 30}", "t")
    words = router_arguments(Placement(topology, "id"))
    assert words[words.index("--first-byte-timeout") + 1] == "5.0" and words[words.index("--max-retries") + 1] == "1"
    assert "--idle-timeout" not in words, "the router's own default"
    topology = parse_topology("workers: 1E1P1D\nmode: epd\nmodel: smollm2-vision\nrouter: {encode_timeout: 9}", "t")
    words = router_arguments(Placement(topology, "id"))
    assert words[words.index("--encode-timeout") + 1] == "9.0"
    assert json.loads(workers_file(Placement(topology, "id")))["settings"]["encode_timeout"] == 9.0, "or while it runs"


def test_logs_and_traces_reach_the_router(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "{log_format: json, log_requests: true, otlp_endpoint: 'http://collector:4318'}"
    topology = parse_topology(f"workers: 1P1D\nrouter: {said}", "t")
    words = TercetCommands().router(Placement(topology, "id"))
    for flag, value in (("--log-format", "json"), ("--otlp-endpoint", "http://collector:4318")):
        assert words[words.index(flag) + 1] == value
    assert "--log-requests" in words
    assert "--log-format" not in router_arguments(Placement(parse_topology("workers: 1P1D", "t"), "id"))
    assert "otlp_endpoint" in complaint("workers: 1P1D\nrouter: {otlp_endpoint: collector}")
    assert "text" in complaint("workers: 1P1D\nrouter: {log_format: xml}")
    # Where nothing can be sent from, that is said before anything is started.
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    with pytest.raises(MissingExtraError, match=r"tercet\[otel\]"):
        TercetCommands().router(Placement(topology, "id"))


@pytest.mark.parametrize("text", ["name: 2026-13-01", "{router: {port: " + "9" * 5000 + "}}", "[" * 3000])
def test_text_that_yaml_itself_stumbles_over_is_a_complaint(text: str) -> None:
    assert complaint(text).startswith("t.yaml")
