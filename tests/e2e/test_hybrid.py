"""A worker that does both beside a pair of P and D: one fleet, and the same tokens wherever a request goes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.conftest import TINY, Answer, call, start_serve, stop_serve, wait_until

pytestmark = pytest.mark.slow

TALKS = 12


def tokens(answer: Answer) -> list[int]:
    assert answer.status == 200, answer.body
    ids: list[int] = answer.body["choices"][0]["token_ids"]
    return ids


@pytest.mark.parametrize("mode", ["pd", "ppd"])
def test_a_hybrid_fleet_gives_the_same_tokens_on_every_route(mode: str, tmp_path: Path) -> None:
    serve = start_serve(tmp_path, "1P1D1A", "--mode", mode, "--hybrid", *TINY)
    try:
        # It is ready as soon as one of both ways is.
        wait_until(lambda: all(pair["ready"] for pair in call(f"{serve.url}/status").body["pairs"]), 60, "the pair")
        sampling = {"max_tokens": 12, "ignore_eos": True, "temperature": 0, "return_token_ids": True}
        prompts = [[(7 * i + k) % 250 for k in range(90)] for i in range(TALKS)]

        def talk(prompt: list[int]) -> tuple[list[list[int]], list[str]]:
            first = serve.complete({"prompt": prompt, **sampling})
            later = [*prompt, *tokens(first), 5, 6, 7]
            second = serve.complete({"prompt": later, **sampling})
            return [tokens(first), tokens(second)], [each.headers["x-tercet-route"] for each in (first, second)]

        with ThreadPoolExecutor(TALKS) as clients:
            hybrid = list(clients.map(talk, prompts))
        serve.mode("aggregated")
        alone = [talk(prompt) for prompt in prompts]
        assert [made for made, _ in hybrid] == [made for made, _ in alone]
        again = {"pd": "P0>D0", "ppd": "D0"}[mode]
        # A conversation that began on A stays there; all at once they are more than one rank's fair share.
        assert {routes[0] for _, routes in hybrid} == {"A0", "P0>D0"}
        assert {tuple(routes) for _, routes in hybrid if routes[0] == "A0"} == {("A0", "A0")}
        assert ("P0>D0", again) in {tuple(routes) for _, routes in hybrid}
        serve.wait_idle()
    finally:
        stop_serve(serve)
