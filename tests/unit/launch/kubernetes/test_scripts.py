"""deploy.sh and cleanup.sh, run against a kubectl that writes down what it is asked and fails when told to."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.unit.launch.kubernetes.cases import CASES, case_files
from tests.unit.router.harness import routing

from tercet.core.api_keys import ApiKey, digest_of, key_lines
from tercet.core.errors import UsageError
from tercet.launch.kubernetes.folder import MARK, write_folder
from tercet.launch.monitoring.files import monitoring_files

KUBECTL = """\
#!/usr/bin/env bash
echo "$*" >>"$FAKE_CALLS"
case "$*" in *"--filename -"* | *"/dev/stdin"* | *"exec --stdin"*) { sed "s/^/< /"; echo; } >>"$FAKE_CALLS" ;; esac
case "$*" in *"get statefulsets"*) echo "$FAKE_SETS" ;; esac
if [ -n "$FAKE_FAIL" ] && [[ "$*" =~ $FAKE_FAIL ]]; then exit 1; fi
"""


@dataclass
class Cluster:
    """A folder of the case, and a kubectl first on the PATH."""

    folder: Path
    calls: Path
    env: dict[str, str]

    def run(self, script: str, fail: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        self.calls.write_text("")
        given = {**self.env, "FAKE_FAIL": fail, "TIMEOUT": "1", **env}
        command = [str(self.folder / script)]
        cwd = self.folder.parent
        return subprocess.run(command, env=given, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)

    @property
    def called(self) -> str:
        return self.calls.read_text()


def cluster(tmp_path: Path, case: str) -> Cluster:
    write_folder(case_files(case), tmp_path / "out")
    (tmp_path / "bin").mkdir()
    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.write_text(KUBECTL)
    kubectl.chmod(0o755)
    env = {"PATH": f"{kubectl.parent}:{os.environ['PATH']}", "FAKE_CALLS": str(tmp_path / "calls")}
    return Cluster(tmp_path / "out", tmp_path / "calls", env)


@pytest.mark.parametrize("case", CASES)
def test_the_scripts_are_clean(tmp_path: Path, case: str) -> None:
    write_folder(case_files(case), tmp_path / "out")
    scripts = sorted(str(path) for path in (tmp_path / "out").glob("*.sh"))
    assert len(scripts) == 2 and all(os.access(path, os.X_OK) for path in scripts)
    for script in scripts:
        subprocess.run(["bash", "-n", script], check=True, timeout=60)
    shellcheck = Path(sysconfig.get_path("scripts"), "shellcheck")  # of this environment, which need not be on PATH
    done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    compile((tmp_path / "out" / "request.py").read_text(), "request.py", "exec")


def test_deploying_makes_secrets_applies_waits_and_asks(tmp_path: Path) -> None:
    fake = cluster(tmp_path, "tercet-pd")
    (tmp_path / "keys").write_text("secret-key\n")
    done = fake.run("deploy.sh", "get secret", API_KEYS="keys")
    assert done.returncode == 0, done.stderr
    calls = fake.called.splitlines()
    order = [
        "apply --filename namespace.yaml",
        "create secret generic tercet-topology",
        "create secret generic router-api-keys",
        "apply --kustomize .",
        "rollout status statefulset/prefill",
        "rollout status statefulset/decode",
        "rollout status deployment/router",
        "exec --stdin deployment/router -- python -",
    ]
    places = [next(i for i, call in enumerate(calls) if words in call) for words in order]
    assert places == sorted(places)
    assert re.search(r"^< [0-9a-f]{64}$", fake.called, re.M), "the topology's secret comes through a pipe"
    assert "http://router.tercet-pd.svc:8000/v1" in done.stdout
    for path in fake.folder.iterdir():
        assert "secret-key" not in path.read_text()


def test_workers_of_an_earlier_topology_go(tmp_path: Path) -> None:
    fake = cluster(tmp_path, "virtual-ranks")
    there = "statefulset.apps/decode-a statefulset.apps/decode statefulset.apps/prefill"
    assert fake.run("deploy.sh", FAKE_SETS=there).returncode == 0
    deleted = [call for call in fake.called.splitlines() if " delete " in call]
    kinds = "statefulset,service,poddisruptionbudget"
    assert deleted == [f"--namespace tercet-ranks delete {kinds} decode --ignore-not-found"]


def test_an_existing_secret_stays(tmp_path: Path) -> None:
    fake = cluster(tmp_path, "virtual-ranks")
    assert fake.run("deploy.sh").returncode == 0
    assert "create secret" not in fake.called


def test_the_hubs_token_goes_through_a_pipe(tmp_path: Path) -> None:
    fake = cluster(tmp_path, "vllm-dp8")
    for absent in ("get secret", ""):  # one that is there already may be the one that the hub refused
        assert fake.run("deploy.sh", absent, HF_TOKEN="hf_x").returncode == 0
        assert "create secret generic hf-token --from-file=token=/dev/stdin" in fake.called
        assert "\n< hf_x" in fake.called and "apply --filename -" in fake.called
    assert "tercet-topology" not in fake.called
    assert fake.run("deploy.sh", "get secret").returncode == 0
    assert "create secret" not in fake.called


@pytest.mark.parametrize(
    ("fail", "said"),
    [
        ("statefulset/decode", "the workers of decode-a did not start"),
        ("deployment/router --timeout", "the router found no ready workers"),
        ("exec --stdin", "no request crossed the topology"),
    ],
)
def test_what_does_not_come_up_is_said(tmp_path: Path, fail: str, said: str) -> None:
    fake = cluster(tmp_path, "virtual-ranks")
    done = fake.run("deploy.sh", fail)
    assert done.returncode == 1
    assert f"deploy.sh: {said}" in done.stderr
    assert "get pods" in fake.called
    assert "Ready" not in done.stdout


@pytest.mark.parametrize("fail", ["apply --filename namespace.yaml", "apply --kustomize"])
def test_a_cluster_that_refuses_ends_it(tmp_path: Path, fail: str) -> None:
    fake = cluster(tmp_path, "virtual-ranks")
    assert fake.run("deploy.sh", fail).returncode != 0
    assert "exec" not in fake.called


def test_unreadable_keys_are_named(tmp_path: Path) -> None:
    done = cluster(tmp_path, "tercet-pd").run("deploy.sh", API_KEYS="/nowhere")
    assert done.returncode == 1
    assert "/nowhere can't be read" in done.stderr


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["# whose they are", "a-key"], "answered along P0>D0"),
        ([ApiKey("a", digest_of("a-key")).line(), "b-key"], "answered along P0>D0"),
        ([ApiKey("a", digest_of("a-key")).line()], "ready in mode pd"),
    ],
)
async def test_the_request_is_asked_with_a_key_or_without_one_where_only_hashes_are(
    tmp_path: Path, lines: list[str], said: str
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("\n".join(lines) + "\n")
    async with routing("PD", "pd", api_keys=key_lines(keys.read_text())) as setup:
        text = case_files("tercet-pd")["request.py"].replace("http://127.0.0.1:8000", setup.url)
        (tmp_path / "request.py").write_text(text.replace("/etc/tercet/keys/keys", str(keys)))
        command = [sys.executable, str(tmp_path / "request.py")]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


def test_cleaning_up(tmp_path: Path) -> None:
    fake = cluster(tmp_path, "vllm-epd")
    assert fake.run("cleanup.sh").returncode == 0
    assert fake.called.splitlines() == ["delete namespace tercet-epd --ignore-not-found"]
    assert fake.run("cleanup.sh", KEEP_NAMESPACE="1").returncode == 0
    assert "delete --filename workers-encode.yaml" in fake.called
    for kept in ("namespace.yaml", "storage.yaml", "kustomization.yaml"):
        assert kept not in fake.called
    assert fake.run("cleanup.sh", "delete").returncode != 0


def test_writing_again_leaves_nothing_of_before(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_folder(case_files("virtual-ranks"), out)
    write_folder(case_files("tercet-pd"), out)
    assert {path.name for path in out.iterdir()} == {*case_files("tercet-pd"), MARK}


def test_manifests_are_left_alone_by_what_watches_them(tmp_path: Path) -> None:
    write_folder(case_files("tercet-pd"), tmp_path / "out")
    before = {path: path.read_text() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(UsageError, match="holds files that are not of this `tercet deploy` command"):
        write_folder(monitoring_files(), tmp_path / "out")
    assert {path: path.read_text() for path in (tmp_path / "out").iterdir()} == before
    write_folder(monitoring_files("pd"), tmp_path / "watch")
    write_folder(monitoring_files(), tmp_path / "watch")
    assert {path.name for path in (tmp_path / "watch").iterdir()} == {*monitoring_files(), MARK}


def test_a_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds files that are not of"):
        write_folder({"a.yaml": "x"}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    write_folder({"a.yaml": "x"}, tmp_path, force=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(UsageError, match="is a file"):
        write_folder({}, tmp_path / "notes.txt")
