"""The dashboard's files and what they ask for. tests/integration/dashboard opens them in a browser."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tercet.core.api_keys import ApiKey, digest_of
from tercet.router.dashboard.pages import PAGES
from tercet.router.kv_use import shares
from tests.unit.router.harness import routing, until

ADMIN = ApiKey("ops", digest_of("ops"), admin=True).line()
STATIC = Path(__file__).parents[3] / "src" / "tercet" / "router" / "dashboard" / "static"
REFERENCE = re.compile(r"""(?:from |import |src=|href=|url\()["']([^"'#]+)["']""")


async def test_the_page_needs_no_key_but_what_it_shows_does() -> None:
    async with routing("A", api_keys=(ADMIN,)) as setup:
        for path, name in PAGES.items():
            got = await setup.get(path)
            assert (got.status, got.body) == (200, (STATIC / name).read_bytes()), path
            assert "default-src 'none'" in got.headers["content-security-policy"]
            assert "unsafe" not in got.headers["content-security-policy"]
            assert got.headers["x-content-type-options"] == "nosniff"
        for path in ("/status", "/requests", "/uix"):
            assert (await setup.get(path)).status == 401, path
        for path in (
            "/ui/status",
            "/ui/../status",
            "/ui/%2e%2e/status",
            "/ui/../pages.py",
            "/ui/index.html",
            "/ui//etc/passwd",
        ):
            assert (await setup.get(path)).status == 404, path
        assert (await setup.post("/ui")).status == 405


async def test_pages_are_fetched_once_and_work_below_a_prefix() -> None:
    async with routing("A") as setup:
        first = await setup.get("/ui/app.js")
        assert first.headers["content-type"].startswith("text/javascript")
        again = await setup.get("/ui/app.js", {"If-None-Match": first.headers["etag"]})
        assert (again.status, again.body) == (304, b"")
        assert (await setup.get("/ui/app.js", {"If-None-Match": '"other"'})).status == 200
        slash = await setup.get("/ui/")
        assert (slash.status, slash.headers["location"]) == (308, "../ui")
        assert (await setup.get("/ui/nothing.js")).status == 404


def test_every_file_that_is_named_is_here_and_none_is_elsewhere() -> None:
    named = set()
    for name in set(PAGES.values()):
        text = (STATIC / name).read_text()
        for reference in REFERENCE.findall(text):
            assert not reference.startswith(("http", "//", "/")), f"{name}: {reference}"
            named.add(reference.removeprefix("./").removeprefix("ui/"))
        assert "http://" not in text.replace("http://www.w3.org/", "").replace("https?:", "") and "https://" not in text
    assert named == set(PAGES.values()) - {"index.html"}, "files that nobody asks for, or that are missing"


async def test_another_sites_page_changes_nothing() -> None:
    async with routing("AA", "aggregated") as setup:
        host = f"127.0.0.1:{setup.router.port}"
        for headers in (
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site", "Origin": f"http://{host}"},
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
        ):
            got = await setup.post("/mode/replicated", headers=headers)
            assert (got.status, got.error["code"]) == (403, "cross_site"), headers
            assert (await setup.send("DELETE", "/workers/A0", headers=headers)).status == 403
            assert (await setup.post("/v1/%6coad_lora_adapter", {}, headers)).status == 403, "which changes an engine"
        assert (await setup.get("/mode")).json["mode"] == "aggregated"
        for headers in (
            {},
            {"Sec-Fetch-Site": "same-origin"},
            {"Sec-Fetch-Site": "none"},
            {"Origin": f"http://{host}"},
        ):
            assert (await setup.post("/mode/replicated", headers=headers)).status == 200, headers


@pytest.mark.parametrize(
    ("name", "settings", "status"),
    [
        ("evil.example", {}, 403),
        ("127.0.0.1.evil.example", {}, 403),
        ("[", {}, 400),
        ("localhost", {}, 200),
        ("ui.localhost", {}, 200),
        ("127.0.0.1", {}, 200),
        ("[::1]", {}, 200),
        ("evil.example", {"api_keys": ("sesame",)}, 200),
        ("router.intranet", {"host": "0.0.0.0"}, 200),
    ],
)
async def test_a_name_that_dns_says_is_this_machine_is_still_another_site(
    name: str, settings: dict[str, Any], status: int
) -> None:
    async with routing("AA", "aggregated", **settings) as setup:
        host = f"{name}:{setup.router.port}"
        lines = [f"Host: {host}", f"Origin: http://{host}", "Sec-Fetch-Site: same-origin"]
        lines += ["Authorization: Bearer sesame", "Content-Length: 0", "Connection: close"]
        reader, writer = await asyncio.open_connection("127.0.0.1", setup.router.port)
        writer.write("\r\n".join(["POST /mode/replicated HTTP/1.1", *lines, "", ""]).encode())
        assert int((await reader.read()).split()[1]) == status
        writer.close()
        by_hand = b"POST /mode/replicated HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", setup.router.port)
        writer.write(by_hand + b"Authorization: Bearer sesame\r\nContent-Length: 0\r\n\r\n")
        assert int((await reader.read()).split()[1]) == 200, "no browser sent it"
        writer.close()


async def test_status_says_how_full_the_kv_caches_are() -> None:
    async with routing("PD", "pd", ranks=2, worker_api_key="k") as setup:
        setup.role("D")[0].kv_use = 0.25
        use: list[list[float | None]] = []

        async def looked() -> bool:
            use[:] = [[rank["kv_use"] for rank in worker["ranks"]] for worker in (await setup.status())["workers"]]
            return use == [[None, None], [0.25, 0.25]]

        assert not await looked(), "nobody waits for a worker's answer"
        deadline = monotonic() + 30
        while not await looked():
            assert monotonic() < deadline, use
            await asyncio.sleep(0.01)
        assert (await setup.status())["version"]


async def test_a_leaving_workers_deadline_is_in_the_status() -> None:
    async with routing("AA", "aggregated") as setup:
        gate = asyncio.Event()
        for worker in setup.workers:
            worker.gate = gate
        asking = [asyncio.create_task(setup.complete("a", max_tokens=20)) for _ in range(4)]
        await until(lambda: setup.workers[0].running)
        assert (await setup.send("DELETE", "/workers/A0?timeout=60")).status == 202
        leaving, staying = (await setup.status())["workers"]
        gate.set()
        assert leaving["draining"] and 30 < leaving["drain_left_s"] <= 60 and staying["drain_left_s"] is None
        assert [got.status for got in await asyncio.gather(*asking)] == [200] * 4


@pytest.mark.parametrize(
    ("text", "label", "found"),
    [
        ('m{rank="0"} 0.5\nm{rank="1"} 0.25\nm_total{rank="0"} 9\n# m{rank="2"} 1\n', "rank", {0: 0.5, 1: 0.25}),
        ('m{model_name="x",engine="3"} 0.1\n', "engine", {3: 0.1}),
        ('m{tp_rank="0"} 0.1\nm{tp_rank="1"} 0.3\n', "dp_rank", {0: 0.3}),
        ("m 1.5\n", "rank", {0: 1.0}),
        ("m{} nothing\nother 1\n", "rank", {}),
    ],
)
def test_reading_shares(text: str, label: str, found: dict[int, float]) -> None:
    assert shares(text, "m", label) == found
