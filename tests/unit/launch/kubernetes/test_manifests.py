"""Every object by Kubernetes' own schemas, every file beside its golden one, and the promises of each kind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from tests.unit.launch.kubernetes.cases import CASES, LLAMA, case_files, files_of

from tercet.core.errors import UsageError

GOLDEN = Path(__file__).parent / "golden"
VERSION = "1.32"


def objects(files: dict[str, str]) -> Iterator[dict[str, Any]]:
    for name, text in files.items():
        if name.endswith(".yaml") and name != "kustomization.yaml":
            yield from yaml.safe_load_all(text)


def of_kind(files: dict[str, str], kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in objects(files) if each["kind"] == kind}


def container(files: dict[str, str], kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = of_kind(files, kind)[name]["spec"]["template"]["spec"]["containers"][0]
    return found


@pytest.mark.parametrize("case", CASES)
def test_every_object_is_what_kubernetes_takes(case: str) -> None:
    for each in objects(case_files(case)):
        kubernetes_validate.validate(each, VERSION, strict=True)


def test_the_validator_refuses_a_wrong_object() -> None:
    wrong = next(each for each in objects(case_files("tercet-pd")) if each["kind"] == "StatefulSet")
    wrong["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


@pytest.mark.parametrize("case", CASES)
def test_every_file_is_as_its_golden_one(case: str) -> None:
    """TERCET_GOLDEN=write makes them anew; the difference then shows in the change."""
    folder, files = GOLDEN / case, case_files(case)
    if os.environ.get("TERCET_GOLDEN") == "write":
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            path.unlink()
        for name, text in files.items():
            (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    # Named .txt so that neither linters nor the type checker take them for sources.
    assert {path.name for path in folder.iterdir()} == {f"{name}.txt" for name in files}
    for name, text in files.items():
        assert (folder / f"{name}.txt").read_text(encoding="utf-8") == text, name


@pytest.mark.parametrize("case", CASES)
def test_the_folder_is_whole(case: str) -> None:
    files = case_files(case)
    kustomization = yaml.safe_load(files["kustomization.yaml"])
    assert set(kustomization["resources"]) == {n for n in files if n.endswith(".yaml")} - {"kustomization.yaml"}
    kinds = [each["kind"] for each in objects(files)]
    for kind in (
        *("Namespace", "StatefulSet", "Deployment", "Service", "ConfigMap", "NetworkPolicy", "PodDisruptionBudget"),
        *("ServiceAccount", "Role", "RoleBinding"),
    ):
        assert kind in kinds
    assert "Secret" not in kinds, "secrets are made on the cluster"
    everything = {each["metadata"]["name"] for each in objects(files) if each["kind"] == "StatefulSet"}
    assert everything == set(of_kind(files, "Service")) - {"router"}


@pytest.mark.parametrize("case", CASES)
def test_no_pod_may_more_than_it_needs(case: str) -> None:
    files = case_files(case)
    for each in objects(files):
        if each["kind"] not in ("StatefulSet", "Deployment"):
            continue
        pod = each["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is False
        for part in pod["containers"]:
            assert part["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in part["resources"]["limits"]
            named = {volume["name"] for volume in pod["volumes"]}
            claimed = {claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", ())}
            assert {mount["name"] for mount in part["volumeMounts"]} <= named | claimed
            drain = case.startswith(("vllm", "sglang")) and part["name"] == "worker"
            assert pod["terminationGracePeriodSeconds"] > (120 if drain else 60)
    matched = {
        tuple(sorted(each["spec"]["selector"]["matchLabels"].items()))
        for each in objects(files)
        if each["kind"] == "PodDisruptionBudget"
    }
    pods = {
        tuple(sorted(each["spec"]["template"]["metadata"]["labels"].items()))
        for each in objects(files)
        if each["kind"] in ("StatefulSet", "Deployment")
    }
    assert matched == pods


def test_with_api_keys_vllms_workers_let_in_only_the_router() -> None:
    text = f"{{name: k, model: {LLAMA}, workers: 1P1D, engine: {{engine: vllm}}, router: {{api_key_file: /keys}}}}"
    files = files_of(text)
    for name in ("prefill", "decode"):
        env = {each["name"]: each for each in container(files, "StatefulSet", name)["env"]}
        assert env["VLLM_API_KEY"]["valueFrom"]["secretKeyRef"] == {"name": "tercet-topology", "key": "secret"}
    words = of_kind(files, "ConfigMap")["router-topology"]["data"]["arguments"].split("\n")
    path = words[words.index("--worker-api-key-file") + 1]
    pod = of_kind(files, "Deployment")["router"]["spec"]["template"]["spec"]
    mounted = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    folder, _, key = path.rpartition("/")
    assert (volumes[mounted[folder]]["secret"]["secretName"], key) == ("tercet-topology", "secret")
    assert "create secret generic tercet-topology --from-file=secret" in files["deploy.sh"]
    assert "VLLM_API_KEY" not in str(case_files("vllm-dp8")), "without keys everything is open"


def test_only_router_and_workers_reach_a_worker() -> None:
    policies = of_kind(case_files("tercet-pd"), "NetworkPolicy")
    assert policies["deny-ingress"]["spec"]["ingress"] == []
    (rule,) = policies["workers-from-router-and-workers"]["spec"]["ingress"]
    components = [each["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for each in rule["from"]]
    assert components == ["router", "worker"]
    assert all("namespaceSelector" not in each for each in rule["from"])


def test_ranks_are_gpus_of_one_pod() -> None:
    files = case_files("vllm-dp8")
    for name in ("prefill", "decode"):
        assert of_kind(files, "StatefulSet")[name]["spec"]["replicas"] == 1
        worker = container(files, "StatefulSet", name)
        assert worker["resources"]["limits"] == {"memory": "800Gi", "nvidia.com/gpu": "8"}
        assert worker["resources"]["requests"]["cpu"] == "176"
        words = worker["args"]
        assert words[words.index("--data-parallel-size") + 1] == "8"
        env = {each["name"]: each.get("value") for each in worker["env"]}
        assert env["VLLM_NIXL_SIDE_CHANNEL_HOST"] == "$(POD_IP)"
        assert "HF_HUB_OFFLINE" not in env and "CUDA_VISIBLE_DEVICES" not in env
        assert worker["startupProbe"]["httpGet"]["path"] == "/health"
    said = of_kind(files, "ConfigMap")["router-topology"]["data"]["arguments"].split()
    assert "http://prefill-0.prefill.tercet-dp8.svc:8000#ranks=8" in said
    assert said[said.index("--port") + 1] == "10001"


def test_unequal_workers_of_a_role_are_groups_of_their_own() -> None:
    sets = of_kind(case_files("virtual-ranks"), "StatefulSet")
    assert set(sets) == {"prefill", "decode-a", "decode-b"}
    claim = sets["prefill"]["spec"]["volumeClaimTemplates"][0]["spec"]
    assert (claim["storageClassName"], claim["resources"]["requests"]["storage"]) == ("fast", "10Gi")


def test_what_a_worker_has_unlike_the_others_its_pods_have() -> None:
    own = "{tensor_parallel: 2, max_num_batched_tokens: 8192, engine_python: /here/only}"
    files = files_of(
        f"{{name: own, model: {LLAMA}, engine: {{engine: vllm, max_num_batched_tokens: 1024}}, "
        f"workers: [{{stages: [prefill], engine: {own}}}, {{stages: [decode]}}]}}"
    )
    said = {name: container(files, "StatefulSet", name) for name in ("prefill", "decode")}
    flag = "--max-num-batched-tokens"
    words = {name: each["args"] for name, each in said.items()}
    assert [words[name][words[name].index(flag) + 1] for name in said] == ["8192", "1024"]
    assert words["prefill"][words["prefill"].index("--tensor-parallel-size") + 1] == "2"
    assert "--tensor-parallel-size" not in words["decode"] and "/here/only" not in str(words)
    assert [each["resources"]["limits"]["nvidia.com/gpu"] for each in said.values()] == ["2", "1"]


def test_cores_become_a_limit() -> None:
    worker = container(case_files("tercet-pd"), "StatefulSet", "prefill")
    assert worker["resources"]["limits"]["cpu"] == "2"
    assert worker["args"][worker["args"].index("--devices") + 1] == "cpu"


def test_the_router_starts_anew_when_its_arguments_change() -> None:
    def mark(text: str) -> str:
        template = of_kind(files_of(text), "Deployment")["router"]["spec"]["template"]
        return str(template["metadata"]["annotations"])

    assert mark("{name: a, workers: 1P1D}") != mark("{name: a, workers: 1P2D}")


@pytest.mark.parametrize("case", CASES)
def test_the_router_is_given_up_no_sooner_than_its_workers(case: str) -> None:
    files = case_files(case)
    probes = [container(files, "StatefulSet", name)["startupProbe"] for name in of_kind(files, "StatefulSet")]
    longest = max(probe["periodSeconds"] * probe["failureThreshold"] for probe in probes)
    assert of_kind(files, "Deployment")["router"]["spec"]["progressDeadlineSeconds"] > longest


@pytest.mark.parametrize(
    ("text", "given", "complaint"),
    [
        ("{workers: 1A, engine: {random_weights: /my/config.json}}", {}, "engine.random_weights: '/my/config.json'"),
        ("{workers: 1A, model: /my/model}", {}, "model: '/my/model' is neither a Hugging Face id"),
        ("{workers: 1A, engine: {engine: vllm}}", {}, "model: 'smollm2-135m' is a name of Tercet's own, unknown to vl"),
        ("{workers: 1A, engine: {transport: shm}}", {}, "engine.transport: shm joins workers of one machine"),
        ("{workers: [{stages: [prefill, decode], engine: {transport: shm}}]}", {}, "engine.transport: shm joins wo"),
        ("{workers: 1A, engine: {allow_local_media: true}}", {}, "engine.allow_local_media"),
        ("{workers: 1E1P1D, model: smollm2-135m}", {}, "encode-0 can't encode pictures"),
        (f"{{workers: 1A, model: {LLAMA}, engine: {{engine: vllm}}, devices: ['cpu:0']}}", {}, "pods of vllm compute"),
        (f"{{workers: 1E1A, model: {LLAMA}, engine: {{engine: vllm}}}}", {}, "--shared-storage-class"),
        (f"{{workers: 1E1A, model: {LLAMA}, engine: {{engine: trtllm}}}}", {}, "encode workers of trtllm are not"),
        (f"{{workers: 1P1D, mode: ppd, model: {LLAMA}, engine: {{engine: sglang}}}}", {}, "mode ppd needs decode"),
        (f"{{workers: 1P1D, model: {LLAMA}, engine: {{engine: sglang, transport: tcp}}}}", {}, "--transport tcp"),
        ("{workers: 1A, devices: ['cpu:0', 'cuda:0']}", {}, "in a pod all are cores, or all GPUs"),
        ("{workers: [{stages: [prefill, decode], devices: ['cpu:0', 'cpu:1-2']}]}", {}, "unequal numbers of cores"),
        ("{workers: 1A}", {"namespace": "No_Name"}, "--namespace 'No_Name'"),
        ("{workers: 1A}", {"memory_per_rank": "lots"}, "--memory-per-rank 'lots'"),
        ("{workers: 1A}", {"image_worker": "a b"}, "--image-worker 'a b'"),
        ("{workers: 1A}", {"cpus_per_rank": 0}, "--cpus-per-rank"),
    ],
)
def test_what_can_not_run_in_a_cluster_is_said(text: str, given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=r".") as caught:
        files_of(text, **given)
    assert complaint in str(caught.value)
