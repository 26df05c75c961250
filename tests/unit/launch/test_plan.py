from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tercet.core.errors import TercetError, UsageError
from tercet.launch.engines.environment import engine_python
from tercet.launch.plan import planned_lines
from tercet.launch.source import topology_from, with_settings

CORE = f"cpu:{min(os.sched_getaffinity(0))}"


def lines_of(source: str, **settings: object) -> list[str]:
    return list(planned_lines(with_settings(topology_from(source, None), settings)))


def after(lines: list[str], name: str) -> list[str]:
    return shlex.split(lines[lines.index(f"# {name}") + 1])


def small_model(folder: Path) -> str:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_text("")
    return str(folder)


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
    model = small_model(tmp_path / "model")
    settings = {"engine_python": sys.executable, "model": model, "devices": ("cuda:0", "cuda:1")}
    lines = lines_of("1P1D", engine="sglang", port=9100, **settings)
    prefill = after(lines, "prefill-0")
    assert prefill[:4] == ["CUDA_VISIBLE_DEVICES=0", sys.executable, "-m", "sglang.launch_server"]
    assert prefill[prefill.index("--disaggregation-bootstrap-port") + 1] == "9103"
    assert "http://127.0.0.1:9101#bootstrap=9103" in after(lines, "router")
    lines = lines_of("1P1D", engine="trtllm", port=9100, **settings)
    text = lines[lines.index("# decode-0") + 1]
    assert text.startswith("cat > /tmp/tercet/decode-0.yaml <<'END'\n") and text.endswith("\nEND")
    assert "cache_transceiver_config" in text


def test_without_the_engine_and_without_gpus_the_lines_are_those_of_a_machine_with_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tercet.launch.plan.present_gpus", lambda: 0)
    model = small_model(tmp_path / "model")
    lines = lines_of("1P1D", engine="sglang", model=model, tensor_parallel=2)
    assert lines[0] == "# no GPU is here, and sglang needs some: these are assumed: cuda:0+1, cuda:2+3"
    assert "# sglang is not installed here: its program is named without a path" in lines
    assert after(lines, "decode-0")[:4] == ["CUDA_VISIBLE_DEVICES=2,3", "python3", "-m", "sglang.launch_server"]
    lines = lines_of("1A", engine="trtllm", model=model, devices=("cuda:0",))
    assert not any("assumed" in line for line in lines) and any(" trtllm-serve " in line for line in lines)
    with pytest.raises(UsageError, match="sglang is not installed"):
        engine_python("sglang", None)
    with pytest.raises(UsageError, match="no program there"):
        lines_of("1A", engine="sglang", model=model, devices=("cuda:0",), engine_python=str(tmp_path / "none"))


@pytest.mark.parametrize(("device", "sequences", "tokens"), [(CORE, 64, 512), ("cuda:0", 256, 8192)])
def test_an_engine_of_others_takes_as_much_at_once_as_its_device_bears(
    tmp_path: Path, device: str, sequences: int, tokens: int
) -> None:
    model = small_model(tmp_path / "model")
    settings = {"engine_python": sys.executable, "model": model, "devices": (device,)}
    lines = lines_of("1A", engine="vllm", **settings)
    words, router = after(lines, "worker-0"), after(lines, "router")
    assert words[words.index("--max-num-seqs") + 1] == str(sequences)
    assert words[words.index("--max-num-batched-tokens") + 1] == str(tokens)
    assert router[router.index("--max-concurrent") + 1] == str(2 * sequences)
    lines = lines_of("1A", engine="vllm", max_num_seqs=8, max_num_batched_tokens=99, **settings)
    words = after(lines, "worker-0")
    assert (
        words[words.index("--max-num-seqs") + 1] == "8" and words[words.index("--max-num-batched-tokens") + 1] == "99"
    )


def test_no_weights_are_fetched_for_a_dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def config_of(name: str, cache_dir: Path | None = None) -> dict[str, object]:
        return {"model_type": "llama"}

    monkeypatch.setattr("tercet.launch.model.model_config", config_of)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    lines = lines_of("1A", engine="vllm", model="somebody/large-8b", devices=("cuda:0",))
    words = after(lines, "worker-0")
    assert words[words.index("--model") + 1] == "somebody/large-8b"
    assert not any(word.startswith("HF_HUB_OFFLINE") for word in words), "who starts it fetches them"
    words = after(lines_of("1A", engine="vllm", model=small_model(tmp_path / "m"), devices=("cuda:0",)), "worker-0")
    assert words[words.index("--model") + 1] == str(tmp_path / "m") and "HF_HUB_OFFLINE=1" in words


def test_a_dry_run_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str, cache_dir: Path | None = None) -> dict[str, object]:
        raise TercetError(f"can't download {name} from Hugging Face: no route\nCheck the network")

    monkeypatch.setattr("tercet.launch.model.model_config", unreachable)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for form, assumed in (("1P1D", "no"), ("1E1P1D", "yes")):
        lines = lines_of(form, engine="vllm", model="somebody/large-8b", devices=("cuda:0", "cuda:1", "cuda:2"))
        words = after(lines, "prefill-0")
        assert ("--limit-mm-per-prompt" in words) == (assumed == "yes")
        assert any(
            line.endswith(f"no route: whether it takes pictures is not known; {assumed} is assumed") for line in lines
        )
    with pytest.raises(TercetError, match="no route"):
        lines_of("1A", engine="virtual", model="somebody/large-8b", devices=(CORE,))


def test_what_is_missing_is_said_in_one_line() -> None:
    command = [sys.executable, "-m", "tercet", "serve", "1P1D", "--engine", "sglang", "--devices", "cuda:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == "" and "pip install sglang==" in done.stderr and done.stderr.count("\n") == 1
