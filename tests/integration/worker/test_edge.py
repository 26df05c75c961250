from __future__ import annotations

from urllib.parse import urlsplit

from tests.integration.worker.processes import Worker
from tests.unit.http.smuggling import faults


async def test_every_row_of_the_smuggling_table_has_its_one_answer(virtual: Worker) -> None:
    port = urlsplit(virtual.url).port
    assert port and await faults("127.0.0.1", port, get=200, post=405) == []
