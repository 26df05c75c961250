"""Whole deployments of a model that sees: every mode, transport and number of encoders gives the same tokens."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Answer, Serve, call, metric, stop_serve, wait_until
from tests.e2e.looking import (
    Turn,
    forwards,
    logprobs,
    look,
    picture,
    processes,
    start_everything,
    switch,
    token_ids,
    url_of,
    wait_nothing_held,
)
from tests.unit.transfer.transports import usable

pytestmark = pytest.mark.slow

APART = ("epd", "eppd")
SPLIT = ("pd", "ppd", *APART)
MANY: list[list[Turn | str]] = [
    [[*(picture(f"{count}/{i}") for i in range(count)), "what is in these"]] for count in range(1, 9)
]
FIRST: list[Turn | str] = [["look", picture("one"), "at this"]]
SECOND: list[Turn | str] = [*FIRST, "I see", ["and", picture("two"), picture("three"), "at these"]]
THIRD: list[Turn | str] = [*SECOND, "yes", ["is the first", picture("one"), "like the last", picture("four")]]
TEXT: list[Turn | str] = [*THIRD, "no", "and in one word?"]
CONVERSATION = [FIRST, SECOND, THIRD, TEXT]


@pytest.fixture(scope="module")
def three(logs: Path) -> Iterator[Serve]:
    serve = start_everything(logs / "eyes-3", 3, "shm")
    yield serve
    stop_serve(serve)


@pytest.fixture(scope="module")
def one(logs: Path) -> Iterator[Serve]:
    serve = start_everything(logs / "eyes-1", 1, "tcp")
    yield serve
    stop_serve(serve)


def ask_all(serve: Serve, mode: str) -> list[Answer]:
    switch(serve, mode)
    return [look(serve, turns) for turns in (*MANY, *CONVERSATION)]


@pytest.fixture(scope="module")
def whole(three: Serve) -> list[Answer]:
    answers = ask_all(three, "aggregated")
    assert {answer.headers["x-tercet-route"] for answer in answers} == {"A0"}
    other = look(three, [[picture("another"), "what is in these"]])
    assert logprobs(other) != pytest.approx(logprobs(answers[0]), abs=1e-3), "the pictures make no difference"
    return answers


@pytest.fixture(scope="module")
def expected(whole: list[Answer]) -> list[list[int]]:
    return [token_ids(answer) for answer in whole]


@pytest.mark.parametrize("mode", SPLIT)
@pytest.mark.parametrize("fixture", ["three", "one"])
def test_the_same_tokens(whole: list[Answer], fixture: str, mode: str, request: pytest.FixtureRequest) -> None:
    serve: Serve = request.getfixturevalue(fixture)
    answers = ask_all(serve, mode)
    assert [token_ids(answer) for answer in answers] == [token_ids(answer) for answer in whole]
    for answer, right in zip(answers, whole, strict=True):
        assert logprobs(answer) == pytest.approx(logprobs(right), abs=1e-3)
    routes = [answer.headers["x-tercet-route"] for answer in answers]
    if mode in APART:
        many = {"three": "E0+E1+E2>P0>D0", "one": "E0>P0>D0"}[fixture]
        assert routes[2:8] == [many] * 6
        later = {"epd": "P0>D0", "eppd": "D0"}[mode]
        assert routes[-1] == later, "the last turn has no new picture"
        assert all(route.endswith(later) for route in routes[-3:])
    else:
        assert not any("E" in route for route in routes)
    wait_nothing_held(serve)


@pytest.mark.parametrize(("transport", "encoders"), [("nixl", 2), ("mooncake", 1)])
def test_transports_of_others(logs: Path, whole: list[Answer], transport: str, encoders: int) -> None:
    usable(transport)
    serve = start_everything(logs / f"eyes-{transport}", encoders, transport)
    try:
        for mode in APART:
            answers = ask_all(serve, mode)
            assert [token_ids(answer) for answer in answers] == [token_ids(answer) for answer in whole]
            many = "E0+E1>P0>D0" if encoders == 2 else "E0>P0>D0"
            assert answers[7].headers["x-tercet-route"] == many
        wait_nothing_held(serve)
    finally:
        stop_serve(serve)


def test_encoding_apart_from_a_whole_worker(expected: list[list[int]], one: Serve) -> None:
    """The shape 1E1A: with no decode worker left, epd goes by the whole one."""
    switch(one, "epd")
    front = processes(one, "decode-0")[0]
    front.suspend()
    try:
        wait_until(lambda: not ready(one, url_of(one, "decode")), 30, "a stopped worker stays ready")
        answers = [look(one, turns) for turns in (*MANY[:3], *CONVERSATION)]
        assert [token_ids(answer) for answer in answers] == [*expected[:3], *expected[-4:]]
        assert {answer.headers["x-tercet-route"] for answer in answers} == {"E0>A0", "A0"}
    finally:
        front.resume()
    wait_until(lambda: ready(one, url_of(one, "decode")), 60, "D did not come back")
    wait_nothing_held(one)


def ready(serve: Serve, url: str) -> bool:
    return any(worker["ready"] for worker in serve.workers() if worker["url"] == url)


def test_a_picture_is_encoded_once(three: Serve) -> None:
    switch(three, "epd")
    before = forwards(three)
    seen = picture("again")
    first = look(three, [[seen, "what"]])
    assert first.headers["x-tercet-cache"] == "miss=1" and "encode-leg" in first.headers["server-timing"]
    again = look(three, [["something else", seen]])
    assert again.headers["x-tercet-cache"] == "held=1" and "encode-leg" not in again.headers["server-timing"]
    assert again.headers["x-tercet-route"] == "P0>D0"
    assert forwards(three) - before == 1
    text = look(three, [["no picture at all"]])
    assert text.headers["x-tercet-route"] == "P0>D0" and "x-tercet-cache" not in text.headers
    wait_nothing_held(three)


def test_one_encoder_slow_and_one_killed(expected: list[list[int]], three: Serve) -> None:
    switch(three, "epd")
    slow, killed = processes(three, "encode-0"), processes(three, "encode-1")
    assert len(slow) == len(killed) == 2
    for process in (*slow, *killed):
        process.suspend()
    box: dict[int, Answer] = {}

    def ask(number: int) -> None:
        box[number] = look(three, MANY[number])

    began = time.monotonic()
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4, 8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: call(f"{three.url}/status").body["in_flight"] == len(threads), 60, "they are not on their way")
    for process in killed:
        process.kill()
    time.sleep(1.0)  # how slow the other one is
    for process in slow:
        process.resume()
    for thread in threads:
        thread.join(60)
    assert time.monotonic() - began < 60, "the deadline"
    assert {number: token_ids(answer) for number, answer in box.items()} == dict(enumerate(expected[4:8], 4))
    wait_until(lambda: all(worker["ready"] for worker in three.workers()), 90, "the encoder did not come back")
    wait_nothing_held(three)


def test_without_any_encoder_p_encodes(expected: list[list[int]], one: Serve) -> None:
    switch(one, "epd")
    front = processes(one, "encode-0")[0]
    front.suspend()
    try:
        wait_until(lambda: not ready(one, url_of(one, "encode")), 30, "a stopped encoder stays ready")
        answer = look(one, MANY[1])
        assert token_ids(answer) == expected[1] and answer.headers["x-tercet-route"] == "P0>D0"
        assert metric(one.url, "tercet:router_encode_fallbacks_total") >= 1
    finally:
        front.resume()
    wait_until(lambda: ready(one, url_of(one, "encode")), 60, "the encoder did not come back")
    wait_nothing_held(one)


def test_d_recomputes_when_its_tickets_have_expired(logs: Path, expected: list[list[int]]) -> None:
    serve = start_everything(logs / "eyes-short", 1, "shm", lease=1.0)
    try:
        for mode in ("pd", "epd"):
            switch(serve, mode)
            (engine,) = processes(serve, "decode-0")[1:]
            prefill, decode = url_of(serve, "encode", "prefill"), url_of(serve, "decode")
            recomputed = metric(decode, "tercet:remote_recomputes_total")
            expired = metric(prefill, "tercet:handoffs_total", result="expired")
            engine.suspend()
            box: list[Answer] = []
            thread = threading.Thread(target=lambda answers: answers.append(look(serve, THIRD)), args=(box,))
            thread.start()
            wait_for_more(prefill, expired)
            engine.resume()
            thread.join(60)
            assert token_ids(box[0]) == expected[-2]
            assert metric(decode, "tercet:remote_recomputes_total") > recomputed
            assert metric(serve.url, "tercet:router_images_needed_total", mode=mode) == 1
            wait_nothing_held(serve)
    finally:
        stop_serve(serve)


def wait_for_more(url: str, expired: float) -> None:
    wait_until(lambda: metric(url, "tercet:handoffs_total", result="expired") > expired, 30, "no ticket expired")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (picture("cut")[:500], "picture 1"),
        (b"just a text", "picture 1"),
        ("http://169.254.169.254/x.png", "picture 1"),
    ],
    ids=["truncated", "text", "private"],
)
def test_a_bad_picture_is_a_400_that_names_it(three: Serve, bad: str | bytes, reason: str) -> None:
    for mode in ("epd", "pd"):
        switch(three, mode)
        answer = look(three, [[picture("good"), bad, "hm"]])
        assert answer.status == 400 and reason in answer.body["error"]["message"], answer
        assert answer.body["error"]["param"] == "messages[0].content[1]"
        wait_nothing_held(three)
