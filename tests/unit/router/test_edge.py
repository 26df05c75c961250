from __future__ import annotations

from tests.unit.http.smuggling import faults, statuses

from .harness import routing


async def test_every_row_of_the_smuggling_table_has_its_one_answer() -> None:
    async with routing("A") as setup:
        assert await faults("127.0.0.1", setup.router.port, get=200, post=405) == []
        assert setup.workers[0].faults == []


async def test_a_whole_url_as_target_goes_to_the_worker_as_a_path() -> None:
    async with routing("A") as setup:
        sent = b"GET http://elsewhere:1/v1/echo HTTP/1.1\r\nHost: h\r\n\r\n"
        assert await statuses("127.0.0.1", setup.router.port, sent) == (200, 200)
