from __future__ import annotations

from .smuggling import faults
from .wires import echo, serving


async def test_every_row_of_the_table_has_its_one_answer() -> None:
    async with serving(echo) as server:
        assert await faults("127.0.0.1", server.port, get=200, post=200) == []
