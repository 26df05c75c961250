"""Workers are learned of from a file, DNS and a Kubernetes API, and the roster follows."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from tercet.core.errors import RequestError, UsageError
from tercet.core.stage import Mode
from tercet.http.server import Request, Responder, Server
from tercet.router.config import RouterConfig
from tercet.router.discovery.dns import DnsSource
from tercet.router.discovery.file import read
from tercet.router.discovery.kubernetes import Cluster, KubernetesSource
from tercet.router.discovery.source import DiscoveryError, Found
from tests.unit.router.fake_worker import FakeWorker, Tickets
from tests.unit.router.harness import Setup, routing, until
from tests.unit.router.test_roster import load


@asynccontextmanager
async def workers(letters: str) -> AsyncIterator[list[FakeWorker]]:
    tickets = Tickets()
    started = [await FakeWorker(letter, tickets).start() for letter in letters]
    yield started
    for worker in started:
        await worker.stop()


def write(path: Path, mode: str, *named: FakeWorker) -> None:
    roles = {"P": "prefill", "D": "decode", "A": "worker"}
    entries = [{"url": worker.url, "role": roles[worker.role]} for worker in named]
    path.with_suffix(".new").write_text(json.dumps({"mode": mode, "workers": entries}))
    os.replace(path.with_suffix(".new"), path)


def urls(setup: Setup) -> set[str]:
    return set(setup.router.parts.fleet.workers)


async def test_a_file_of_workers_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "workers.yaml"
    async with workers("APDD") as (whole, prefill, first, second):
        write(path, "pd", prefill, first)
        async with routing("", workers_file=str(path), discovery_interval_s=0.05, wait=False) as setup:
            await until(lambda: len(urls(setup)) == 2)
            await setup.ready()
            assert (await setup.complete("a b c")).route == "P0>D0"
            first.gate, first.gate_after = asyncio.Event(), 1
            stream = asyncio.create_task(setup.complete("a b c", stream=True, max_tokens=3))
            await until(lambda: len(first.inferences) == 2)
            write(path, "ppd", prefill, second, whole)
            await until(lambda: setup.router.parts.fleet.mode is Mode.PPD and second.url in urls(setup))
            assert first.url in urls(setup), "it drains"
            first.gate.set()
            assert (await stream).streamed == "w3 w4 w5"
            await until(lambda: urls(setup) == {prefill.url, second.url, whole.url})
            await setup.ready()
            assert (await setup.complete("x y z")).status == 200
            path.write_text("workers: [{url: nonsense")
            await asyncio.sleep(0.2)
            assert urls(setup) == {prefill.url, second.url, whole.url}, "nonsense changes nothing"


async def test_deadlines_follow_the_file_under_load_and_what_cant_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "workers.yaml"

    def say(**more: object) -> None:
        entries = [{"url": worker.url, "role": "worker"} for worker in named]
        path.with_suffix(".new").write_text(json.dumps({"workers": entries, **more}))
        os.replace(path.with_suffix(".new"), path)

    async with workers("AA") as named:
        say(settings={"first_byte_timeout": 30, "max_retries": 1})
        async with routing("", workers_file=str(path), discovery_interval_s=0.02, wait=False) as setup:
            live, reloads = setup.router.parts.live, setup.router.parts.metrics.reloads.values
            await setup.ready()
            assert (live.first_byte_timeout_s, live.max_retries, live.idle_timeout_s) == (30, 1, 30)
            async with load(setup) as answers:
                for i in range(10):
                    say(settings={"first_byte_timeout": 20 + i, "connect_timeout": 3}, mode="replicated")
                    await until(lambda i=i: live.first_byte_timeout_s == 20 + i)  # type: ignore[misc]
                    await asyncio.sleep(0.01)
                await until(lambda: len(answers) > 20)
            assert live.max_retries == 2, "what is not named is as configured"
            assert setup.router.parts.client.connect_timeout_s == 3
            assert reloads["followed",] >= 11
            wrong: list[dict[str, object]] = [
                {"settings": {"idle_timeout": 0}},
                {"settings": {"port": 9}},
                {"settings": {"max_retries": 1.5}},
                {"settings": {"drain_timeout": -1}},
                {"settings": {"idle_timeout": "x"}},
                {"settings": {"idle_timeout": None}},
                {"settings": {"balancer": "the_best"}},
                {"settings": {"balancer": 3}},
                {"settings": {"max_concurrent": 0}},
                {"settings": {"max_queue": 1.5}},
                {"settings": {"breaker_failures": 0}},
                {"settings": {"ppd_threshold": True}},
                {"refused": "prefill-0 can't change its devices"},
            ]
            for count, said in enumerate(wrong, 1):
                say(**said)
                await until(lambda count=count: reloads["refused",] == count)  # type: ignore[misc]
                assert live.first_byte_timeout_s == 29
            assert await setup.metric("tercet:router_reloads_total", result="refused") == len(wrong)
            gate = named[0].gate = named[1].gate = asyncio.Event()
            say(settings={"answer_timeout": 0.2, "max_retries": 0})
            await until(lambda: live.answer_timeout_s == 0.2)
            assert (await setup.complete("a")).status == 504
            gate.set()


class Said:
    """A workers file that says settings."""

    def __init__(self, path: Path, setup: Setup) -> None:
        self.path, self.setup = path, setup

    async def say(self, **settings: object) -> None:
        """Say these, and return when they are followed."""
        followed = self.setup.router.parts.metrics.reloads.values["followed",]
        roles = {"A": "worker", "P": "prefill", "D": "decode"}
        entries = [{"url": worker.url, "role": roles[worker.role]} for worker in self.setup.workers]
        self.path.with_suffix(".new").write_text(json.dumps({"workers": entries, "settings": settings}))
        os.replace(self.path.with_suffix(".new"), self.path)
        await until(lambda: self.setup.router.parts.metrics.reloads.values["followed",] > followed)


async def test_the_balancer_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "workers.yaml"
    async with routing("AA", "aggregated", workers_file=str(path), discovery_interval_s=0.02) as setup:
        said = Said(path, setup)
        await said.say(balancer="consistent_hash")
        routes = [(await setup.chat("hi", headers={"X-Session-Id": "s"})).route for _ in range(4)]
        assert len(set(routes)) == 1
        await said.say(balancer="round_robin")
        routes = [(await setup.chat("hi", headers={"X-Session-Id": "s"})).route for _ in range(4)]
        assert routes.count("A0") == 2 and (await setup.get("/status")).json["balancer"] == "round_robin"
        await said.say(balancer=None)
        assert (await setup.get("/status")).json["balancer"] == "least_loaded", "the mode's own"


async def test_the_threshold_of_ppd_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "workers.yaml"
    async with routing("PD", "ppd", workers_file=str(path), discovery_interval_s=0.02) as setup:
        said = Said(path, setup)
        await said.say(max_retries=1)
        texts = ["word " * 99]
        texts += [(await setup.chat(*texts)).text, "and now"]
        again = await setup.chat(*texts)
        assert again.route == "D0"
        await said.say(ppd_threshold=0)
        assert (await setup.chat(*texts, again.text, "and then")).route == "P0>D0"
        assert (await setup.get("/status")).json["ppd_threshold"] == 0


async def test_how_much_is_let_in_and_when_a_breaker_opens_follow_the_file(tmp_path: Path) -> None:
    path = tmp_path / "workers.yaml"
    settings: dict[str, Any] = {"discovery_interval_s": 0.02, "max_retries": 0, "breaker_pause_s": 30.0}
    async with routing("A", "aggregated", workers_file=str(path), **settings) as setup:
        said, (worker,) = Said(path, setup), setup.workers
        gate = worker.gate = asyncio.Event()
        await said.say(max_concurrent=1, max_queue=1)
        asked = [asyncio.create_task(setup.chat(f"hi {i}")) for i in range(2)]
        await until(lambda: worker.running == 1 and setup.router.parts.gates.waiting == 1)
        await said.say(max_concurrent=1, max_queue=0)
        assert (await setup.chat("more")).status == 429
        await said.say(max_concurrent=1, max_queue=4)
        asked += [asyncio.create_task(setup.chat(f"ho {i}")) for i in range(2)]
        await until(lambda: setup.router.parts.gates.waiting == 3)
        await said.say(max_concurrent=3, max_queue=0)
        await until(lambda: worker.running == 3 and setup.router.parts.gates.waiting == 1)  # at once
        gate.set()
        assert [(await task).status for task in asked] == [200] * 4
        worker.status = 500
        for _ in range(2):
            assert (await setup.chat("hi")).status == 500
        assert setup.router.parts.breakers.state(worker.url) == 0
        worker.status = 200
        assert (await setup.chat("hi")).status == 200
        await said.say(breaker_failures=1, breaker_pause=20)
        worker.status = 500
        await setup.chat("hi")
        assert setup.router.parts.breakers.state(worker.url) == 2


async def test_what_flags_named_is_the_files_once_it_names_it(tmp_path: Path) -> None:
    path = tmp_path / "workers.yaml"
    async with routing("AA", "replicated", workers_file=str(path), discovery_interval_s=0.05) as setup:
        write(path, "replicated", *setup.workers)
        await until(lambda: setup.router.parts.metrics.reloads.values["followed",])
        assert len(urls(setup)) == 2
        write(path, "aggregated", setup.workers[0])
        await until(lambda: urls(setup) == {setup.workers[0].url})
        assert (await setup.complete("a")).status == 200


async def test_what_an_operator_added_is_not_the_files_to_remove(tmp_path: Path) -> None:
    path = tmp_path / "workers.yaml"
    async with workers("AA") as (named, added):
        write(path, "aggregated", named)
        async with routing("", workers_file=str(path), discovery_interval_s=0.05, wait=False) as setup:
            await until(lambda: urls(setup))
            assert (await setup.post("/workers", {"url": added.url, "role": "worker"})).status == 201
            write(path, "aggregated")
            await until(lambda: urls(setup) == {added.url})
            await setup.ready()
            assert (await setup.complete("a")).status == 200


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "no YAML"),
        ("workers: [{url: 2026-13-45, role: decode}]", "no YAML"),
        ("[" * 100_000, "no YAML"),
        ("workers: 3", "write workers:"),
        ("workers: [{url: x}]", r"workers\[0\]: write"),
        ("workers: [{url: x, role: boss}]", "'boss' is none of encode, prefill"),
        ("workers: []\nmode: fast", "unknown mode"),
        ("workers: []\nmodes: pd", "write workers:"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read(text, "w.yaml")


async def test_a_name_stands_for_all_its_addresses() -> None:
    answers: list[Sequence[str] | OSError] = [["10.0.0.1", "fd00::2"], OSError("no such name"), []]

    async def resolver(name: str, port: int) -> Sequence[str]:
        assert (name, port) == ("decode.example", 8000)
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    source = DnsSource("decode=decode.example:8000", resolver)
    assert (await source.look()).workers == {"http://10.0.0.1:8000": "D", "http://[fd00::2]:8000": "D"}
    with pytest.raises(DiscoveryError, match="no such name"):
        await source.look()
    assert (await source.look()).workers == {}


async def test_what_a_name_says_of_its_workers_is_said_of_each() -> None:
    async def resolver(name: str, port: int) -> Sequence[str]:
        assert (name, port) == ("p.example", 8000)
        return ["10.0.0.1"]

    source = DnsSource("prefill=p.example:8000#ranks=2,bootstrap=8998", resolver)
    assert (await source.look()).workers == {"http://10.0.0.1:8000#ranks=2,bootstrap=8998": "P"}
    with pytest.raises(UsageError, match=r"--discover-dns .*bootstrap=x"):
        DnsSource("prefill=p.example:8000#bootstrap=x", resolver)


async def test_one_name_may_stand_for_workers_of_two_roles() -> None:
    async with workers("PD") as (prefill, decode):
        named = tuple(f"{role}=localhost:{w.server.port}" for role, w in (("prefill", prefill), ("decode", decode)))
        settings: dict[str, Any] = {"discover_dns": named, "discovery_interval_s": 0.02}
        async with routing("", "pd", wait=False, **settings) as setup:
            await until(lambda: prefill.url in urls(setup) and decode.url in urls(setup))
            await setup.ready()
            await asyncio.sleep(0.2)
            assert not setup.router.roster.draining
            assert (await setup.complete("a")).route == "P0>D0"


async def test_a_source_with_a_fault_is_looked_at_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with workers("A") as (worker,):
        settings: dict[str, Any] = {"discover_dns": (f"worker=localhost:{worker.server.port}",)}
        look, looks = DnsSource.look, 0

        async def faulty(source: DnsSource) -> Found:
            nonlocal looks
            looks += 1
            if looks <= 3:
                raise KeyError("of its own")
            return await look(source)

        monkeypatch.setattr(DnsSource, "look", faulty)
        async with routing("", "aggregated", wait=False, discovery_interval_s=0.02, **settings) as setup:
            await until(lambda: worker.url in urls(setup))
        assert [text for text in caplog.messages if "can't be followed: builtins.KeyError" in text]


async def test_a_worker_that_is_none_keeps_no_other_out(tmp_path: Path) -> None:
    path = tmp_path / "workers.yaml"
    async with workers("A") as (worker,):
        entries = [{"url": "http://[x:1", "role": "worker"}, {"url": worker.url, "role": "worker"}]
        path.write_text(json.dumps({"workers": entries}))
        async with routing("", workers_file=str(path), discovery_interval_s=0.02, wait=False) as setup:
            await until(lambda: urls(setup) == {worker.url})
            await setup.ready()
            assert (await setup.complete("a")).status == 200


async def test_a_worker_behind_a_name_gets_requests() -> None:
    async with workers("A") as (worker,):
        settings: dict[str, Any] = {"discover_dns": (f"worker=localhost:{worker.server.port}",)}
        async with routing("", "aggregated", wait=False, discovery_interval_s=0.1, **settings) as setup:
            await until(lambda: worker.url in urls(setup))
            await until(lambda: setup.router.parts.fleet.ready(worker.url))
            assert (await setup.complete("a")).status == 200


class FakeApi:
    """As much of an API server as a list of pods takes: a token, a namespace, a label selector."""

    def __init__(self) -> None:
        self.pods: list[dict[str, Any]] = []
        self.status = 200
        self.server = Server(self.handle)

    def add(self, ip: str, phase: str = "Running", **labels: str) -> dict[str, Any]:
        pod: dict[str, Any] = {"metadata": {"labels": labels}, "status": {"phase": phase, "podIP": ip}}
        self.pods.append(pod)
        return pod

    async def handle(self, request: Request, responder: Responder) -> None:
        if request.headers.get("authorization") != "Bearer of-this-hour":
            raise RequestError(401, "Unauthorized")
        if request.path != "/api/v1/namespaces/prod/pods":
            raise RequestError(403, "forbidden")
        wanted = dict(part.split("=") for part in parse_qs(request.query)["labelSelector"][0].split(","))
        items = [pod for pod in self.pods if wanted.items() <= pod["metadata"]["labels"].items()]
        await responder.send(self.status, json.dumps({"kind": "PodList", "items": items}).encode())


@asynccontextmanager
async def fake_cluster(tmp_path: Path) -> AsyncIterator[tuple[FakeApi, Cluster]]:
    api = FakeApi()
    await api.server.start()
    (tmp_path / "token").write_text("of-this-hour\n")
    (tmp_path / "namespace").write_text("prod")
    yield api, Cluster(f"http://127.0.0.1:{api.server.port}", None, tmp_path)
    await api.server.close(0)


async def test_pods_are_found_by_their_labels(tmp_path: Path) -> None:
    async with fake_cluster(tmp_path) as (api, cluster):
        source = KubernetesSource("decode:8000=app=tercet,stage=decode", cluster)
        api.add("10.0.0.1", app="tercet", stage="decode")
        api.add("10.0.0.2", app="tercet", stage="prefill")
        api.add("10.0.0.3", "Pending", app="tercet", stage="decode")
        leaving = api.add("10.0.0.4", app="tercet", stage="decode")
        assert (await source.look()).workers == {"http://10.0.0.1:8000": "D", "http://10.0.0.4:8000": "D"}
        leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        assert (await source.look()).workers == {"http://10.0.0.1:8000": "D"}
        other = KubernetesSource("decode:8000#ranks=2,events=5557=app=tercet,stage=decode", cluster)
        assert (await other.look()).workers == {"http://10.0.0.1:8000#ranks=2,events=5557": "D"}
        await other.close()
        api.status = 500
        with pytest.raises(DiscoveryError, match="answered 500"):
            await source.look()
        (tmp_path / "token").write_text("old")
        with pytest.raises(DiscoveryError, match="answered 401"):
            await source.look()
        await api.server.close(0)
        with pytest.raises(DiscoveryError, match="does not answer"):
            await source.look()
        await source.close()


async def test_a_pod_joins_and_leaves(tmp_path: Path) -> None:
    async with fake_cluster(tmp_path) as (api, cluster), workers("A") as (worker,):
        settings: dict[str, Any] = {
            "discover_kubernetes": (f"worker:{worker.server.port}=app=tercet",),
            "kubernetes_api": cluster.api,
            "kubernetes_account": str(tmp_path),
        }
        async with routing("", "aggregated", wait=False, discovery_interval_s=0.05, **settings) as setup:
            pod = api.add("127.0.0.1", app="tercet")
            await until(lambda: worker.url in urls(setup))
            await setup.ready()
            assert (await setup.complete("a")).status == 200
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            await until(lambda: not urls(setup))
            assert (await setup.complete("a")).status == 503


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"discover_dns": ("decode:x",)}, "ROLE=NAME:PORT"),
        ({"discover_dns": ("boss=x:1",)}, "'boss' is none of"),
        ({"discover_dns": ("decode=x:y",)}, "'y' is no port"),
        ({"discover_dns": ("decode=x:" + "9" * 5000,)}, "9' is no port"),
        ({"discover_dns": ("decode=x:1",), "mode": None}, "name the --mode"),
        ({"discover_kubernetes": ("decode=app",)}, "ROLE:PORT=SELECTOR"),
    ],
)
def test_sources_that_cannot_work(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        RouterConfig(**{"mode": Mode.PD, **settings})
