"""The same question to what runs already: a router's own findings, and what workers say of themselves."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from tercet.core.build import EngineBuild, misfit
from tercet.core.errors import TercetError, UsageError
from tercet.dialects.registry import dialect_named
from tercet.http.client import Client, ClientError
from tercet.launch.doctor import Finding

TIMEOUT_S = 10.0
_LABEL = re.compile(r'(\w+)="([^"]*)"')


async def examine_router(url: str, api_key: str | None = None) -> list[Finding]:
    """Return what a router knows of its workers and pairs. Raises TercetError when none answers there."""
    body = await _get(f"{url}/status", api_key)
    try:
        data = json.loads(body)
    except ValueError:
        data = None
    if not isinstance(data, dict) or "workers" not in data:
        raise TercetError(f"{url}/status does not answer as a tercet router does: is it one?")
    return list(_of_status(data))


def _of_status(data: dict[str, Any]) -> Iterator[Finding]:
    yield (
        Finding("ok", "router", f"mode {data['mode']}") if data["ready"] else Finding("fault", "router", data["reason"])
    )
    for worker in data["workers"]:
        names = ", ".join(rank["name"] for rank in worker["ranks"])
        ready = worker["ready"]
        yield Finding(
            "ok" if ready else "fault", names, worker["url"] if ready else worker["problem"] or "still probed"
        )
    for pair in data["pairs"]:
        crossed = "a request crossed" if pair["ready"] else pair["problem"] or "no request has crossed yet"
        yield Finding("ok" if pair["ready"] else "fault", pair["pair"], crossed)
    if data["unmatched"]:
        yield Finding("fault", "ranks", data["unmatched"])


async def examine_workers(
    prefill: Sequence[str], decode: Sequence[str], dialect: str, api_key: str | None = None
) -> list[Finding]:
    """Ask prefill and decode workers what they are made of, and compare. `dialect` is tercet or vllm.

    Raises UsageError for another dialect, whose workers don't say.
    """
    dialect_named(dialect)
    read = {"tercet": _tercet_build, "vllm": _vllm_build}.get(dialect)
    if read is None:
        raise UsageError(f"workers of {dialect} don't say what their KV is made of: start a router, it tries each pair")
    builds: dict[str, EngineBuild] = {}
    findings = []
    for url in [*prefill, *decode]:
        try:
            builds[url] = await read(url, api_key)
        except (TercetError, LookupError, ValueError, TypeError) as error:
            findings.append(Finding("fault", url, str(error)))
        else:
            build = builds[url]
            said = f"{build.model}, {build.dtype}, blocks of {build.block_size}, {build.engine} {build.version}"
            findings.append(Finding("ok", url, said))
    for p, d in product(prefill, decode):
        if p in builds and d in builds:
            reason = misfit(builds[p], builds[d])
            findings.append(Finding("fault" if reason else "ok", f"{p} > {d}", reason or "they fit"))
    return findings


async def _tercet_build(url: str, api_key: str | None) -> EngineBuild:
    engine = json.loads(await _get(f"{url}/ready", api_key, ok=(200, 503)))["engines"][0]
    build = EngineBuild.from_dict(engine.get("build"))
    if build is None:
        raise TercetError("it does not say what its KV is made of: an older worker?")
    return build


async def _vllm_build(url: str, api_key: str | None) -> EngineBuild:
    paths = ("/v1/models", "/version", "/metrics")
    models, version, metrics = await asyncio.gather(*(_get(url + path, api_key) for path in paths))
    line = next(line for line in metrics.decode().splitlines() if line.startswith("vllm:cache_config_info{"))
    config = dict(_LABEL.findall(line))
    return EngineBuild(
        engine="vllm",
        version=str(json.loads(version)["version"]),
        model=str(json.loads(models)["data"][0]["id"]),
        dtype=config["cache_dtype"],
        block_size=int(config["block_size"]),
        layout="",
        tensor_parallel=1,
        ticket_version=0,
        transports=("nixl",),
        fingerprint="",
    )


async def _get(url: str, api_key: str | None, ok: Sequence[int] = (200,)) -> bytes:
    headers = [("Authorization", f"Bearer {api_key}")] if api_key else []
    client = Client()
    try:
        response = await client.request("GET", url, headers=headers, first_byte_timeout_s=TIMEOUT_S)
        body = await response.read()
    except ClientError as error:
        raise TercetError(f"{url}: {error}") from error
    finally:
        await client.close()
    if response.status in (401, 403):
        raise TercetError(f"{url} answered {response.status}: --api-key-file gives it a key, a router an admin's")
    if response.status not in ok:
        raise TercetError(f"{url} answered {response.status}")
    return body
