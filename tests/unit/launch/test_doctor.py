"""What is said before traffic, of a file and of what runs."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.ports import free_port
from tests.unit.core.test_build import BUILD
from tests.unit.router.harness import routing, until

from tercet.core.errors import TercetError, UsageError
from tercet.core.topology import Topology
from tercet.http.server import Request, Responder, Server
from tercet.launch.doctor import Finding, examine
from tercet.launch.doctor_live import examine_router, examine_workers
from tercet.launch.topology_file import parse_topology

TINY = "engine: {random_weights: tiny, engine: virtual}"


def topology(workers: str, rest: str = TINY) -> Topology:
    return parse_topology(f"workers: {workers}\n{rest}\n", "t.yaml")


def faults(findings: Any) -> dict[str, str]:
    return {finding.what: finding.said for finding in findings if finding.level == "fault"}


def test_what_fits_has_no_fault() -> None:
    found = list(examine(topology("1P1D", TINY + "\nrouter: {port: 0}")))
    assert not faults(found)
    assert {"engine", "model", "devices", "ports", "mode", "ranks", "transport", "pairs"} <= {f.what for f in found}


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ("dtype: fp32", "dtype fp32 on P, bf16 on D"),
        ("block_size: 32", "block size 32 on P, 16 on D"),
        ("transport: tcp", "no transport that both have: tcp on P, shm on D"),
        ("random_weights: examples/models/llama-3.1-8b.json", "model random weights of"),
    ],
)
def test_a_pair_that_does_not_fit(own: str, words: str) -> None:
    engine = "engine: {random_weights: tiny, engine: virtual, transport: shm}"
    workers = f"[{{stages: [prefill], engine: {{{own}}}}}, {{stages: [decode]}}]"
    assert words in faults(examine(topology(workers, engine)))["prefill-0 > decode-0"]


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("{engine: sglang}", "sglang computes on GPUs, not on cpu:0"),
        ("{engine: tercet, gpu: h100}", "--gpu is what --engine virtual imitates"),
        ("{engine: vllm, transport: tcp}", "vllm's workers hand KV over by nixl"),
        ("{engine: trtllm}", "trtllm computes on GPUs, not on cpu:0"),
    ],
)
def test_settings_that_starting_would_refuse(engine: str, words: str) -> None:
    file = f"devices: [cpu:0]\nengine: {engine}"
    assert words in faults(examine(topology("1P1D", file)))["settings"]


def test_ranks_that_find_no_counterpart() -> None:
    workers = "[{stages: [prefill], ranks: 2}, {stages: [decode]}]"
    assert "ranks" not in faults(examine(topology(workers)))
    exact = topology(workers, TINY + "\nrouter: {rank_match: exact}")
    assert "P has 2 ranks and D 1" in faults(examine(exact))["ranks"]


def test_ports_devices_models_and_modes(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert str(port) in faults(examine(topology("1A", f"{TINY}\nrouter: {{port: {port}}}")))["ports"]
    port = free_port()
    twice = topology(f"[{{stages: [prefill, decode], port: {port}}}]", f"{TINY}\nrouter: {{port: {port}}}")
    assert f"port {port} (worker-0) is another part's" in faults(examine(twice))["ports"]
    assert "cpu:4000" in faults(examine(topology("1A", TINY + "\ndevices: ['cpu:4000']")))["devices"]
    assert "unknown model" in faults(examine(topology("1A", "model: nonesuch"), tmp_path))["model"]
    away = [f for f in examine(topology("1A", "model: smollm2-135m"), tmp_path) if f.what == "model"]
    assert [(f.level, "model pull" in f.said) for f in away] == [("warning", True)]
    ppd = replace(topology("1P1D", "engine: {engine: sglang}\nmode: ppd"))
    assert "ppd" in faults(examine(ppd))["mode"]


def test_a_pool_too_small_for_the_longest_request() -> None:
    small = topology("1A", "engine: {random_weights: tiny, engine: virtual, kv_blocks: 10}")
    assert next(f for f in examine(small) if f.what == "worker-0").level == "warning"


async def test_running_workers_are_asked() -> None:
    async with routing("PD", "pd", wait=False) as setup:
        prefill, decode = setup.role("P")[0], setup.role("D")[0]
        prefill.build, decode.build = BUILD.to_dict(), {**BUILD.to_dict(), "block_size": 32}
        found = await examine_workers([prefill.url], [decode.url], "tercet")
        assert "block size 16 on P, 32 on D" in faults(found)[f"{prefill.url} > {decode.url}"]
        decode.build = BUILD.to_dict()
        assert not faults(await examine_workers([prefill.url], [decode.url], "tercet"))
        decode.build = None
        assert "older worker" in faults(await examine_workers([prefill.url], [decode.url], "tercet"))[decode.url]
        with pytest.raises(UsageError, match="sglang don't say"):
            await examine_workers([prefill.url], [decode.url], "sglang")


async def test_a_router_is_asked() -> None:
    async with routing("PD", "pd", wait=False) as setup:
        setup.role("P")[0].build = BUILD.to_dict()
        setup.role("D")[0].build = {**BUILD.to_dict(), "dtype": "fp32"}
        await until(lambda: setup.router.prober.problem("P0>D0"))
        found = await examine_router(setup.url)
        assert Finding("fault", "P0>D0", "KV can't be handed on: dtype bf16 on P, fp32 on D") in found
        setup.role("D")[0].build = BUILD.to_dict()
        await setup.ready()
        assert not faults(await examine_router(setup.url))


async def test_what_is_no_router_is_said_to_be_none() -> None:
    async def page(request: Request, responder: Responder) -> None:
        status = {"/status": 200, "/closed/status": 401}.get(request.path, 404)
        await responder.send(status, b"<!DOCTYPE html>", content_type="text/html")

    server = Server(page, host="127.0.0.1", port=0)
    await server.start()
    url = f"http://127.0.0.1:{server.port}"
    try:
        for path, words in (("", "is it one"), ("/closed", "--api-key-file gives it a key"), ("/x", "answered 404")):
            with pytest.raises(TercetError, match=words):
                await examine_router(url + path)
    finally:
        await server.close(0)
