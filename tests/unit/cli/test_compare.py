"""`tercet compare` and `tercet bench`: flags, refusals, help."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tercet.cli.compare as command
from tercet.cli import comparing
from tercet.cli.main import build_app
from tercet.compare.plan import plan
from tercet.compare.spec import CompareSpec
from tercet.core.errors import UsageError
from tercet.core.topology import Topology
from tercet.results.codec import decode, encode
from tercet.results.record import RunRecord

from ..results.samples import run


def asked(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> CompareSpec:
    """Return the spec that a command line comes to."""
    seen: list[CompareSpec] = []

    def keep(spec: CompareSpec, output: Path, cache_dir: Path | None, resume: str) -> int:
        seen.append(spec)
        return 0

    monkeypatch.setattr(comparing, "run", keep)
    line = ["compare", *arguments]
    result = CliRunner().invoke(build_app(line), line, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return seen[0]


def topology(spec: CompareSpec, label: str) -> Topology:
    """Return what serves an architecture."""
    (found,) = [each.topology for each in spec.architectures if each.label == label]
    assert found is not None
    return found


def refused(*line: str) -> str:
    """Return the message of the UsageError that a command line ends with."""
    with pytest.raises(UsageError) as caught:
        CliRunner().invoke(build_app(line), line, catch_exceptions=False)
    return str(caught.value)


def test_the_issues_command_line_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "--modes replicated,pd,ppd --workload W1 --qps 1,0.5 --turns 2 --num-requests 8 --scale 0.125 --seed 3"
    spec = asked(monkeypatch, *line.split())
    assert [each.label for each in spec.architectures] == ["replicated", "pd", "ppd"]
    (traffic,) = spec.traffics
    assert (traffic.workload.input_tokens, traffic.workload.output_tokens) == (64, 32)
    assert (spec.load_kind, spec.loads, spec.blocks) == ("qps", (0.5, 1.0), 5)
    assert (traffic.turns, traffic.num_requests, traffic.seed) == (2, 8, 3)
    assert (spec.primary, spec.tie_margin, spec.keep, spec.probe) == (("ttft", "throughput"), 0.03, "turn", True)
    pd = topology(spec, "pd")
    assert (pd.model, pd.engine.dtype, pd.router.port, pd.short_form) == ("smollm2-135m", "bf16", 0, "1P1D")
    assert (pd.engine.max_num_seqs, pd.engine.max_num_batched_tokens) == (64, 512), "results tell them"


def test_a_preset_fills_in_what_was_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = asked(monkeypatch, "--num-requests", "6", "--preset", "demo")
    assert spec.traffics[0].turns == command.PRESETS["demo"]["turns"]
    assert spec.blocks == command.PRESETS["demo"]["blocks"]
    assert spec.traffics[0].num_requests == 6


def test_architectures_of_every_kind_and_settings_reach_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = ("--arch", "wide=1P2D", "--arch", "now=http://127.0.0.1:8000", "--url-devices", "now=3")
    flags = "--modes aggregated --allow-unequal --devices cpu:0,cpu:1 --random-weights tiny --dtype fp32"
    limits = ("--max-num-seqs", "7", "--max-num-batched-tokens", "99")
    more = "--transport tcp --ppd-threshold 64 --blocks 3 --keep warm --primary e2e --tie-margin 0.1 --no-probe"
    spec = asked(monkeypatch, *sources, *flags.split(), *more.split(), *limits, "--hybrid")
    assert [(each.label, each.mode) for each in spec.architectures] == [
        ("aggregated", "aggregated"),
        ("wide", "pd"),
        ("now", None),
    ]
    assert spec.architectures[2].url_devices == 3
    wide = topology(spec, "wide")
    assert [worker.devices for worker in wide.workers] == [("cpu:0",), ("cpu:1",), ("cpu:0",)]
    assert (wide.engine.random_weights, wide.engine.dtype, wide.engine.transport) == ("tiny", "fp32", "tcp")
    assert (wide.engine.max_num_seqs, wide.engine.max_num_batched_tokens) == (7, 99)
    assert wide.router.hybrid and not topology(asked(monkeypatch, *sources), "wide").router.hybrid
    assert (wide.router.ppd_threshold, spec.blocks, spec.allow_unequal, spec.keep) == (64, 3, True, "warm")
    assert (spec.primary, spec.tie_margin, spec.probe) == (("e2e",), 0.1, False)


def test_goodput_is_a_metric_where_limits_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = asked(monkeypatch, "--slo", "ttft:500", "--slo", "tpot:30", "--primary", "goodput")
    assert str(spec.slo) == "ttft:500 tpot:30" and spec.primary == ("goodput",)
    assert "give --slo" in refused("compare", "--primary", "goodput")
    assert "--slo 'ttft'" in refused("compare", "--slo", "ttft")


def test_all_workloads_closed_loops_and_durations(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = asked(monkeypatch, "--workload", "all", "--concurrency", "4,1", "--duration", "30")
    assert [traffic.name for traffic in spec.traffics] == ["W1", "W2", "W3", "W4"]
    assert (spec.load_kind, spec.loads) == ("concurrency", (1.0, 4.0))
    assert {(traffic.num_requests, traffic.duration_s) for traffic in spec.traffics} == {(0, 30.0)}


def test_pictures_are_workloads_too(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = asked(monkeypatch, "--workload", "images", "--images", "2-3", "--image-size", "64x32", "--concurrency", "1")
    pictures = spec.traffics[0].workload.pictures
    assert pictures is not None
    assert (pictures.low, pictures.high, pictures.width, pictures.height) == (2, 3, 64, 32)


def test_engines_are_made_long_enough_for_a_data_sets_texts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"prompt": "word " * 5000, "max_tokens": 16}))
    assert topology(asked(monkeypatch, "--dataset", str(path)), "pd").engine.max_model_len == 6400
    spec = asked(monkeypatch, "--dataset", str(path), "--max-model-len", "5000")
    assert topology(spec, "pd").engine.max_model_len == 5000, "how many tokens they have is a guess: nothing is refused"


def test_a_data_set_is_compared_as_it_was_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    lines = [{"timestamp": t, "input_length": 5000, "output_length": 3} for t in (0, 1000, 4000)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    spec = asked(monkeypatch, "--dataset", str(path), "--trace-speed", "2")
    (traffic,) = spec.traffics
    assert (spec.load_kind, spec.loads, traffic.arrivals, traffic.speed) == ("qps", (1.5,), "trace", 2.0)
    assert (traffic.name, traffic.turns, traffic.num_requests) == ("trace", 1, 3)
    assert topology(spec, "pd").engine.max_model_len == 5120
    spec = asked(monkeypatch, "--dataset", str(path), "--qps", "4,8", "--num-requests", "2")
    assert (spec.loads, spec.traffics[0].arrivals, spec.traffics[0].num_requests) == ((4.0, 8.0), "poisson", 2)
    spec = asked(monkeypatch, "--dataset", str(path), "--concurrency", "2")
    assert (spec.load_kind, spec.loads) == ("concurrency", (2.0,))
    for pattern in ("poisson", "constant", "gamma"):
        spec = asked(monkeypatch, "--dataset", str(path), "--arrivals", pattern)
        assert (spec.loads, spec.traffics[0].arrivals) == ((0.5,), pattern), "what is named wins"
    spec = asked(monkeypatch, "--dataset", str(path), "--arrivals", "trace")
    assert (spec.loads, spec.traffics[0].arrivals) == ((0.75,), "trace")
    for load in (["--qps", "1"], ["--concurrency", "1"]):
        assert "leave" in refused("compare", "--dataset", str(path), "--arrivals", "trace", *load)
    for flags in (["--workload", "W2"], ["--scale", "0.5"], ["--images", "2"], ["--preset", "demo"]):
        assert "--dataset takes the place of --workload" in refused("compare", "--dataset", str(path), *flags)
    assert "--trace-speed 0" in refused("compare", "--dataset", str(path), "--trace-speed", "0")


def test_recorded_chats_with_pictures_meet_the_model_that_sees(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    picture = {"type": "image_url", "image_url": {"url": "data:,"}}
    path.write_text(json.dumps({"messages": [{"role": "user", "content": [picture]}]}))
    assert topology(asked(monkeypatch, "--dataset", str(path)), "pd").model == "smollm2-vision"
    path.write_text(json.dumps({"prompt": "Say it."}))
    assert topology(asked(monkeypatch, "--dataset", str(path)), "pd").model == "smollm2-135m"


def test_the_engines_are_made_long_enough_for_the_conversations(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = asked(monkeypatch, "--workload", "W1,W4", "--scale", "1", "--turns", "1")
    assert topology(spec, "pd").engine.max_model_len == 8448
    assert topology(asked(monkeypatch, "--max-model-len", "512"), "pd").engine.max_model_len == 512


def test_a_virtual_gpu_has_a_name_without_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = asked(monkeypatch, "--engine", "virtual", "--gpu-slowdown", "1.1")
    engine = topology(spec, "pd").engine
    assert (engine.gpu, engine.gpu_slowdown) == ("h100", 1.1)


def test_runs_at_a_rate_of_many_digits_are_known_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal keeps six decimals: a third of a request a second was measured anew, beside what was there."""
    spec = asked(monkeypatch, "--modes", "pd", "--qps", "0.33333333,1", "--blocks", "1")
    for step in plan(spec, "s"):
        kept = decode(RunRecord, encode(replace(run("pd", ()), load=step.traffic.load)))
        assert kept.load == step.key[3]
    with pytest.raises(UsageError, match=r"--qps 0\.0000001 is out of range"):
        asked(monkeypatch, "--modes", "pd", "--qps", "0.0000001")


def test_a_journal_of_another_comparison_is_refused_and_auto_begins_without_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = asked(monkeypatch, "--modes", "pd")
    begun = comparing.journal_for(spec, tmp_path, "auto")
    assert begun.kept.runs == []
    begun.note("x")
    begun.close()
    assert comparing.journal_for(spec, tmp_path, "auto").path == begun.path
    other = asked(monkeypatch, "--modes", "ppd")
    with pytest.raises(UsageError, match="of another comparison: its architectures"):
        comparing.journal_for(other, tmp_path, str(begun.path))


def test_prompts_for_a_running_server_are_new_every_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ours, theirs = (asked(monkeypatch, "--arch", f"pd={source}") for source in ("1P1D", "http://127.0.0.1:8000"))
    nonces = [comparing.journal_for(spec, tmp_path, "").header["nonce"] for spec in (ours, ours, theirs, theirs)]
    assert nonces[0] == nonces[1] == "s0"
    assert len({*nonces}) == 3


def test_bursts_are_compared_too(monkeypatch: pytest.MonkeyPatch) -> None:
    (traffic,) = asked(monkeypatch, "--arrivals", "gamma", "--burstiness", "0.3").traffics
    assert (traffic.arrivals, traffic.burstiness) == ("gamma", 0.3)


def test_headers_are_for_servers_named_by_url(monkeypatch: pytest.MonkeyPatch) -> None:
    url = ("--arch", "now=http://127.0.0.1:8000")
    spec = asked(monkeypatch, *url, "--api-key", "k", "--header", "X-Tenant: a: b", "--header", "Empty:")
    assert spec.headers == (("Authorization", "Bearer k"), ("X-Tenant", "a: b"), ("Empty", ""))
    assert "X-Tenant" not in repr(spec)
    assert "write 'NAME: VALUE'" in refused("compare", *url, "--header", "nothing")
    for flags in (("--api-key", "k"), ("--header", "X-Tenant: a")):
        assert "are for servers that --arch names by URL" in refused("compare", "--modes", "pd", *flags)


def test_what_running_servers_are_sent_can_be_sent_again_and_merged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two topologies on the same GPUs, one after the other, started by somebody else: their files belong together."""
    first, second = ("--arch", "pd=http://127.0.0.1:8000"), ("--arch", "replicated=http://127.0.0.1:9000")
    specs = [asked(monkeypatch, *source, "--salt", "gpus-0-1") for source in (first, second)]
    journals = [comparing.journal_for(spec, tmp_path, "") for spec in specs]
    assert [journal.header["nonce"] for journal in journals] == ["s0-gpus-0-1"] * 2
    journals[0].note("begun")
    journals[0].close()
    with pytest.raises(UsageError, match='its salt is "gpus-0-1", not null'):
        comparing.journal_for(asked(monkeypatch, *first), tmp_path, str(journals[0].path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modes", "pd,fast"], "unknown mode 'fast': choose one of aggregated"),
        (["--modes", "pd,pd"], "twice"),
        (["--arch", "1P1D"], "write LABEL=SOURCE"),
        (["--workload", ","], "--workload names none"),
        (["--workload", "W9"], "unknown workload 'W9'"),
        (["--qps", "1,x"], "--qps '1,x'"),
        (["--qps", "0"], "--qps 0"),
        (["--qps", "1,1"], "not twice 1"),
        (["--concurrency", "0"], "--concurrency '0'"),
        (["--concurrency", "2", "--qps", "1"], "exclude each other"),
        (["--url-devices", "x"], "write LABEL=N"),
        (["--url-devices", "x=\u00b2"], "write LABEL=N"),
        (["--url-devices", "x=" + "9" * 5000], "write LABEL=N"),
        (["--turns", "0"], "--turns 0"),
        (["--num-requests", "0"], "--num-requests 0"),
        (["--scale", "0"], "--scale 0"),
        (["--blocks", "0"], "--blocks 0"),
        (["--primary", "speed"], "--primary 'speed' is unknown"),
        (["--arrivals", "uniform"], "choose poisson"),
        (["--burstiness", "0.5"], "add --arrivals gamma"),
        (["--arrivals", "gamma", "--burstiness", "0"], "--burstiness 0.0 is out of range"),
        (["--arrivals", "trace"], "--arrivals trace needs a --dataset"),
        (["--dtype", "int4"], "--dtype: 'int4' is not one of"),
        (["--gpu", "h100"], "--gpu is what --engine virtual imitates"),
        (["--gpu-slowdown", "2"], "--gpu-slowdown needs --engine virtual"),
        (["--preset", "fast"], "unknown preset 'fast': choose demo"),
        (["--resume", "none.journal"], "can't open the journal none.journal"),
        (["a.json"], "results files are for --merge"),
        (["--merge", "a.json"], "two results files or more"),
        (["--merge", "a.json", "b.json"], "can't read a.json"),
        (["--arch", "a=1A", "--arch", "b=1P1D", "--devices", "cpu:0,cpu:1"], "--allow-unequal"),
    ],
)
def test_wrong_input_is_refused_by_name(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused("compare", *arguments)


@pytest.mark.parametrize("name", ["compare", "bench"])
def test_help_teaches_with_examples(name: str) -> None:
    result = CliRunner().invoke(build_app([name]), [name, "--help"])
    assert result.exit_code == 0
    assert f"tercet {name} " in result.output.split("Examples:")[1]
    assert "--num-requests" in result.output
