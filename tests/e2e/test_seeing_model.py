"""smollm2-vision through the full server: it names what it sees."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from benchmarks.encode.accuracy import ask, drawn

from tests.e2e.conftest import start_serve, stop_serve

pytestmark = pytest.mark.slow


def test_it_sees(logs: Path) -> None:
    serve = start_serve(logs / "sees", "--mode", "epd")
    try:
        answered = asyncio.run(ask(serve.url, drawn(40)))
        right = sum(answer.right for answer in answered)
        assert right >= 0.7 * len(answered), [(a.facts, a.answer) for a in answered if not a.right]
    finally:
        stop_serve(serve)
