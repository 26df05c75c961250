from __future__ import annotations

import math
from pathlib import Path

import pytest

from tercet.core.errors import UsageError
from tercet.core.stage import Mode
from tercet.core.topology import PRESETS
from tercet.launch.source import topology_from, with_settings


@pytest.mark.parametrize(
    ("source", "mode", "shape", "expected"),
    [
        (None, None, "1A", Mode.AGGREGATED),
        *((None, mode, shape, mode) for mode, shape in PRESETS.items()),
        ("1P1D", None, "1P1D", Mode.PD),
        ("1P1D", Mode.PPD, "1P1D", Mode.PPD),
        ("2A", None, "2A", Mode.REPLICATED),
        ("1E1A", None, "1E1A", Mode.EPD),
        ("1P2D1A", Mode.REPLICATED, "1P2D1A", Mode.REPLICATED),
    ],
)
def test_sources_and_modes(source: str | None, mode: Mode | None, shape: str, expected: Mode) -> None:
    topology = topology_from(source, mode)
    assert (topology.short_form, topology.mode) == (shape, expected)
    assert topology.name == shape.lower()


@pytest.mark.parametrize(
    ("source", "mode", "message"),
    [
        ("2A", Mode.PD, "mode pd needs a prefill worker"),
        ("1P1D", Mode.REPLICATED, "mode replicated needs a worker with prefill and decode"),
        ("1P1D", Mode.EPD, "mode epd needs an encode worker"),
        ("1E1P", Mode.EPPD, "mode eppd needs a decode worker"),
        ("1Q", None, "'1Q' is neither a file nor a short form"),
        ("absent.yaml", None, "'absent.yaml' is neither a topology file nor a short form"),
    ],
)
def test_what_cannot_be_started_is_said(source: str, mode: Mode | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        topology_from(source, mode)


@pytest.mark.parametrize(("shape", "model"), [("1E1P1D", "smollm2-vision"), ("1P1D", "smollm2-135m")])
def test_encode_workers_serve_a_model_that_sees(shape: str, model: str) -> None:
    assert topology_from(shape, None).model == model


def test_a_file_is_read_and_its_mode_overridden(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text("name: mine\nmode: pd\nworkers: 1P1D\n")
    assert topology_from(str(path), None).mode is Mode.PD
    assert topology_from(str(path), Mode.PPD).mode is Mode.PPD
    with pytest.raises(UsageError, match="mode aggregated needs"):
        topology_from(str(path), Mode.AGGREGATED)


def test_only_given_settings_win() -> None:
    topology = with_settings(
        topology_from("1P1D", None),
        {"name": "n", "model": None, "dtype": "fp32", "block_size": None, "port": 9, "balancer": "random"},
    )
    assert (topology.name, topology.model) == ("n", "smollm2-135m")
    assert (topology.engine.dtype, topology.engine.block_size) == ("fp32", 16)
    assert (topology.router.port, topology.router.balancer) == (9, "random")


def test_devices_at_the_terminal_replace_those_of_single_workers(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text("workers: [{stages: [prefill, decode], devices: [cpu:1]}]\n")
    topology = with_settings(topology_from(str(path), None), {"devices": ("cpu:0",)})
    assert topology.devices == ("cpu:0",)
    assert topology.workers[0].devices == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"balancer": "randm"}, "--balancer: 'randm' is not one of .*; did you mean 'random'?"),
        ({"lease_s": 0.0}, "--lease: 0.0 is less than or equal to the minimum of 0"),
        ({"connect_timeout_s": math.nan}, "--connect-timeout: nan is no number"),
        ({"gpu_slowdown": math.inf}, "--gpu-slowdown: inf is no number"),
        ({"otlp_endpoint": "collector"}, "--otlp-endpoint: 'collector' is not of the form http://HOST:4318"),
        ({"name": "Big Name"}, "--name: 'Big Name' is not of the form small letters"),
        ({"devices": ("gpu",)}, "--devices: 'gpu' is not of the form cpu:0"),
        ({"gpu": "h1000"}, "unknown GPU 'h1000': known are a100"),
        ({"encode_fallback": "local"}, "encode_fallback local needs the stage encode .* worker-0, worker-1 lacks it"),
        ({"max_num_seqs": 0}, "--max-num-seqs: 0 is less than the minimum of 1"),
        ({"data_parallel_size": 65}, "^--data-parallel-size: 65 is greater than the maximum of 64$"),
    ],
)
def test_a_flag_is_checked_like_the_file(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with_settings(topology_from("2A", None), settings)


def test_ranks_of_all_that_prefill_or_decode() -> None:
    topology = with_settings(topology_from("1E1P1D", None), {"data_parallel_size": 2, "rank_match": "exact"})
    assert [worker.ranks for worker in topology.workers] == [1, 2, 2]
    assert topology.router.rank_match == "exact"
