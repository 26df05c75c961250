from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tercet.core.errors import UsageError
from tercet.launch.plan import planned_lines
from tercet.launch.source import topology_from, with_settings

CORE = f"cpu:{min(os.sched_getaffinity(0))}"


def lines_of(source: str, **settings: object) -> list[str]:
    return list(planned_lines(with_settings(topology_from(source, None), settings)))


def after(lines: list[str], name: str) -> list[str]:
    return shlex.split(lines[lines.index(f"# {name}") + 1])


def test_every_part_has_a_line_and_the_router_knows_all_ports() -> None:
    lines = lines_of("1P1D", engine="virtual", random_weights="tiny", devices=(CORE,), port=9100)
    assert any("share" in line and line.startswith("# ") for line in lines), "two ranks share a core: that is said"
    router = after(lines, "router")
    ports = []
    for name in ("prefill-0", "decode-0"):
        words = after(lines, name)
        assert words[:4] == [sys.executable, "-m", "tercet", "worker"]
        ports.append(words[words.index("--port") + 1])
    assert ports == ["9101", "9102"]
    assert [word for word in router if word.startswith("http")] == [f"http://127.0.0.1:{port}" for port in ports]


def test_an_engine_of_others_with_its_variables_and_files(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    (model / "tokenizer.json").write_text("{}")
    (model / "model.safetensors").write_text("")
    settings = {"engine_python": sys.executable, "model": str(model), "devices": ("cuda:0", "cuda:1")}
    lines = lines_of("1P1D", engine="sglang", port=9100, **settings)
    prefill = after(lines, "prefill-0")
    assert prefill[:4] == ["CUDA_VISIBLE_DEVICES=0", sys.executable, "-m", "sglang.launch_server"]
    assert prefill[prefill.index("--disaggregation-bootstrap-port") + 1] == "9103"
    assert "http://127.0.0.1:9101#bootstrap=9103" in after(lines, "router")
    lines = lines_of("1P1D", engine="trtllm", port=9100, **settings)
    text = lines[lines.index("# decode-0") + 1]
    assert text.startswith("cat > /tmp/tercet/decode-0.yaml <<'END'\n") and text.endswith("\nEND")
    assert "cache_transceiver_config" in text


def test_what_is_missing_is_said_in_one_line() -> None:
    command = [
        sys.executable,
        "-m",
        "tercet",
        "serve",
        "1P1D",
        "--engine",
        "sglang",
        "--dry-run",
        "--devices",
        "cuda:0",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == "" and "pip install sglang==" in done.stderr and done.stderr.count("\n") == 1
    with pytest.raises(UsageError, match="sglang is not installed"):
        lines_of("1A", engine="sglang", devices=("cuda:0",))
