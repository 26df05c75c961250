"""A place in the family, filled by small programs instead of routers; and what they are told of ending."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import pytest

from tercet.core.errors import TercetError, UsageError
from tercet.router.config import RouterConfig
from tercet.router.processes import family
from tercet.router.processes.child import Child
from tercet.router.processes.family import Member, reserve
from tercet.router.processes.main import MainRouter
from tercet.router.processes.wire import Kind

READY = f"os.write(fd, bytes((0, 0, 0, 0, {Kind.READY:d})))\n"
Fill = Callable[[str], None]


@pytest.fixture
def fill(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fill:
    """Return what has programs of this text fill the place from now on."""

    def put(text: str) -> None:
        program = tmp_path / "program"
        program.unlink(missing_ok=True)
        program.write_text(f"#!{python} -IS\nimport os, sys, time\nfd = int(sys.argv[4])\n{text}")
        program.chmod(0o755)

    python = sys.executable
    monkeypatch.setattr(sys, "executable", str(tmp_path / "program"))
    return put


def a_member() -> tuple[Member, MainRouter]:
    config = RouterConfig(workers=("http://127.0.0.1:1",), processes=2)
    router = MainRouter(config)
    return Member(router, config, 1), router


async def test_what_a_process_says_last_is_waited_for(fill: Fill, capfd: pytest.CaptureFixture[str]) -> None:
    fill("os.close(fd)\ntime.sleep(0.3)\nprint('error: the port is in use', file=sys.stderr)\nsys.exit(2)")
    with pytest.raises(TercetError, match="process 1 never got ready: it ended with 2"):
        await a_member()[0].keep()
    assert "the port is in use" in capfd.readouterr().err


async def test_one_that_let_go_and_does_not_end_is_killed(fill: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "END_S", 0.3)
    fill("os.close(fd)\ntime.sleep(60)")
    began = monotonic()
    with pytest.raises(TercetError, match="it ended with -9"):
        await a_member()[0].keep()
    assert monotonic() - began < 30


async def test_one_that_hangs_is_killed_at_once(fill: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "READY_S", 0.1)
    monkeypatch.setattr(family, "END_S", 60.0)
    fill("time.sleep(60)")
    began = monotonic()
    with pytest.raises(TercetError, match="it ended with -9"):
        await a_member()[0].keep()
    assert monotonic() - began < 30


async def test_one_that_stood_still_with_the_main_process_is_left_alone(
    fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(family, "SILENT_S", 2.0)
    monkeypatch.setattr(family, "LOOK_S", 0.1)
    speak = f"os.write(fd, bytes((0, 0, 0, 0, {Kind.READY:d})))\n"
    fill(READY + f"time.sleep(2.5)\nwhile True:\n time.sleep(0.05)\n {speak}")
    member, router = a_member()
    keeper = asyncio.create_task(member.keep())
    try:
        async with asyncio.timeout(30):
            while not (1 in router.peers and router.peers[1].ready):
                await asyncio.sleep(0.01)
        time.sleep(2.5)  # as if the machine paused
        await asyncio.sleep(1.5)
        assert not keeper.done() and router.peers[1].starts == 1
    finally:
        member.stop()
        member.kill()
        await keeper


async def test_one_that_can_not_be_started_at_first_is_an_error_that_says_so(fill: Fill) -> None:
    with pytest.raises(TercetError, match="process 1 never got ready: it could not be started: No such file"):
        await a_member()[0].keep()  # nothing fills the place


async def test_one_that_can_not_be_started_anew_is_tried_again(
    fill: Fill, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = tmp_path / "program"
    fill(READY + f"os.unlink({str(program)!r})")
    member, router = a_member()
    keeper = asyncio.create_task(member.keep())
    try:
        async with asyncio.timeout(30):
            while "could not be started: No such file or directory; it is started anew in" not in caplog.text:
                await asyncio.sleep(0.01)
                assert not keeper.done()
            fill(READY + "time.sleep(60)")
            while not (1 in router.peers and router.peers[1].ready):
                await asyncio.sleep(0.01)
                assert not keeper.done()
        assert router.peers[1].starts == 2, "those that failed are none"
    finally:
        member.stop()
        member.kill()
        await keeper


@pytest.fixture
def two_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name has an address of both kinds, as localhost does on most machines."""
    known = socket.getaddrinfo
    ways = ("127.0.0.1", "::1")
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda _, *more, **named: [p for w in ways for p in known(w, *more, **named)]
    )


@pytest.mark.usefixtures("two_addresses")
@pytest.mark.parametrize("taken", [socket.AF_INET, socket.AF_INET6])
def test_a_port_is_reserved_at_all_addresses(taken: socket.AddressFamily) -> None:
    with socket.socket(taken) as other:
        if taken == socket.AF_INET6:
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            other.bind(("", 0))
        except OSError:
            pytest.skip("no IPv6 here")
        other.listen()
        config = RouterConfig(workers=("http://127.0.0.1:1",), host="localhost", port=other.getsockname()[1])
        with pytest.raises(UsageError, match="the port is in use"):
            reserve(config)


@pytest.mark.usefixtures("two_addresses")
def test_the_port_that_is_chosen_is_the_same_at_all_addresses() -> None:
    places = reserve(RouterConfig(workers=("http://127.0.0.1:1",), host="localhost", port=0))
    try:
        assert len({place.getsockname()[1] for place in places}) == 1
        assert {place.family for place in places} >= {socket.AF_INET}
    finally:
        for place in places:
            place.close()


@pytest.mark.parametrize("signal_first", [True, False])
async def test_a_signal_and_an_order_are_one_request_to_end(signal_first: bool) -> None:
    child = Child()

    def ask(by_signal: bool) -> None:
        if by_signal:
            child._ask(signal.SIGTERM)
        else:
            child._heard(Kind.STOP, b"")

    ask(signal_first)
    assert child._stop.is_set()
    ask(not signal_first)
    assert not child._hurry.is_set()
    ask(signal_first)
    assert child._hurry.is_set()
