from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tercet.cli.device_options import device_from
from tercet.cli.main import build_app
from tercet.core.errors import UsageError
from tercet.latency.calibration_file import read_calibration
from tercet.latency.registry import oracle_for

HEADER = "workload,mode,target_qps,turn2_prompt_tokens,mean_output_tokens,t2_ttft_avg_ms,t2_tpot_avg_ms,t2_e2e_avg_ms"


def measured(path: Path) -> Path:
    oracle = oracle_for("llama-3.1-8b", "h100").oracle
    lines = [HEADER]
    for workload, tokens in (("W1", 446), ("W2", 2746), ("W4", 5446)):
        ttft = 20 + 1.25 * oracle.prefill(1, tokens - 46, 46)
        tpot = 1.25 * oracle.decode(1, tokens + 50)
        for mode, hop in (("pd", 40), ("replication", 0)):
            lines.append(f"{workload},{mode},0.001,{tokens},100,{ttft + hop},{tpot},{ttft + hop + 99 * tpot}")
    path.write_text("\n".join(lines))
    return path


def run(*arguments: str) -> str:
    result = CliRunner().invoke(build_app(["calibrate"]), ["calibrate", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_constants_are_fitted_written_and_reported(tmp_path: Path) -> None:
    out = tmp_path / "stack.yaml"
    csv = measured(tmp_path / "m.csv")
    said = run(str(csv), "--csv", "--gpu", "h100", "--model", "llama-3.1-8b", "-o", str(out))
    assert "Residuals" in said and "scale" in said and str(out) in said
    stack = read_calibration(out).stack
    assert stack.scale == pytest.approx(1.25, rel=0.01)
    assert stack.hop_ms == pytest.approx(40, rel=0.02)
    assert stack.per_request_ms == pytest.approx(20, rel=0.05)
    assert "m.csv" in stack.source and "h100" in stack.source


def test_without_a_gpu_the_machine_itself_is_fitted(tmp_path: Path) -> None:
    out = tmp_path / "machine.json"
    said = run(str(measured(tmp_path / "m.csv")), "--csv", "--model", "llama-3.1-8b", "-o", str(out))
    assert "a prompt token" in said
    oracle = read_calibration(out).oracle
    assert oracle is not None
    assert oracle.prefill(1, 2700, 46) == pytest.approx(1.25 * 57, rel=0.4)
    assert oracle.kv_token_bytes == 131072


def test_what_can_not_be_fitted_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "m.csv"
    empty.write_text(HEADER + "\n")
    with pytest.raises(UsageError, match="no valid run"):
        run(str(empty), "--csv", "-o", str(tmp_path / "s.yaml"))
    with pytest.raises(UsageError, match="--gpu needs --model"):
        run(str(measured(empty)), "--csv", "--gpu", "h100", "-o", str(tmp_path / "s.yaml"))


def test_what_the_timings_can_not_tell_is_said(tmp_path: Path) -> None:
    csv = tmp_path / "m.csv"
    rows = [f"W{i},replication,0.001,{446 + i},100,50,{8 + i / 100},850" for i in range(6)]
    csv.write_text("\n".join([HEADER, *rows]))
    said = run(str(csv), "--csv", "-o", str(tmp_path / "s.yaml"))
    assert "Not known: what a further decoding sequence costs" in said
    assert "Not known: how a prompt's time grows" in said
    assert "unknown" in (tmp_path / "s.yaml").read_text()


def test_whoever_predicts_by_a_machine_is_told_how_far_it_was_measured(tmp_path: Path) -> None:
    file, alike = tmp_path / "machine.yaml", tmp_path / "alike.csv"
    said = run(str(measured(tmp_path / "m.csv")), "--csv", "-o", str(file))
    reach = "prompts of 400 to 5400 new tokens, batches of up to 1, contexts of up to 5496 tokens"
    assert f"Measured: {reach}; predictions beyond are extrapolated" in said

    def assumed(path: Path) -> str:
        flags = {"gpu": None, "gpu_spec": None, "model": "m", "engine": "tercet", "oracle": "auto"}
        return "; ".join(device_from(**flags, tp=1, memory_share=0.9, stack=str(path)).assumed)  # type: ignore[arg-type]

    assert f"what lies beyond the measured is extrapolated ({reach})" in assumed(file)
    alike.write_text(
        "\n".join([HEADER, *(f"W{i},replication,0.001,{446 + i},100,50,{8 + i / 100},850" for i in range(6))])
    )
    run(str(alike), "--csv", "-o", str(file))
    assert "not known is what a further decoding sequence costs" in assumed(file)
