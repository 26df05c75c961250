"""Fetching from real servers that redirect, drip, lie and hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tercet.media.errors import PictureError
from tercet.media.fetch import Fetcher
from tercet.media.limits import MediaLimits
from tests.unit.media.site import CERTIFICATE, Site, site

LOCAL = MediaLimits(allow_local=True, max_bytes=100_000, timeout_s=20.0)
HASTY = MediaLimits(allow_local=True, timeout_s=0.3)


@pytest.fixture(scope="module")
def pictures() -> Iterator[Site]:
    with site(b"a picture of some bytes") as server:
        yield server


def test_a_picture_is_fetched_directly_and_by_redirects(pictures: Site) -> None:
    fetcher = Fetcher(LOCAL)
    assert fetcher.fetch(pictures.url("/ok.png?x=1&y=%20")) == pictures.body
    assert pictures.paths[-1] == "/ok.png?x=1&y=%20"
    assert fetcher.fetch(pictures.url("/ok.png?ö b")) == pictures.body
    assert pictures.paths[-1] == "/ok.png?%C3%B6%20b"
    assert fetcher.fetch(pictures.url("/to?url=/ok")) == pictures.body
    assert fetcher.fetch(pictures.url("/to?url=" + pictures.url("/ok", "localhost"))) == pictures.body
    assert pictures.hosts[-1] == f"localhost:{pictures.server_address[1]}"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/missing.png", "HTTP 404"),
        ("/short", "can't be fetched from 127.0.0.1:.*"),
        ("/endless", "larger than 100000 bytes"),
        ("/announced", "larger than 100000 bytes"),
        ("/announced?digits=5000", "larger than 100000 bytes"),
        ("/noise", "can't be fetched from"),
        ("/round", "more than 3 redirects"),
        ("/to?url=file:///etc/passwd", "not an http URL: 'file:///etc/passwd'"),
        ("/to?url=http://user:word@localhost/", "user name or password"),
        ("/to?url=data:,x", "not an http URL"),
    ],
)
def test_what_is_wrong_is_said(pictures: Site, path: str, reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        Fetcher(LOCAL).fetch(pictures.url(path))


@pytest.mark.parametrize("url", ["http://", "http:///x", "http://[::1", "http://a:99999/", "ftp://a/", "http://a b/"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(PictureError):
        Fetcher(LOCAL).fetch(url)


def test_nobody_listens() -> None:
    with site() as gone:
        url = gone.url("/ok")
    with pytest.raises(PictureError, match="refused"):
        Fetcher(LOCAL).fetch(url)


@pytest.mark.parametrize("path", ["/silent", "/drip?part=head", "/drip?part=body", "/drip?part=body&length=1"])
def test_the_deadline_is_of_the_whole(pictures: Site, path: str) -> None:
    """A server that sends a byte now and then would keep a timeout on the socket from ever firing."""
    before, started = threading.active_count(), time.monotonic()
    with pytest.raises(PictureError, match=r"no whole answer within 0\.3 s"):
        Fetcher(HASTY).fetch(pictures.url(path))
    assert time.monotonic() - started < 20
    assert threading.active_count() <= before + 2, "the site's own threads, and none of the fetch"


def test_many_addresses_of_a_host_leave_no_less_time_for_the_answer(pictures: Site) -> None:
    """Each gets its share of the time to be connected to; whoever was connected to has what is left."""
    fetcher = Fetcher(
        MediaLimits(allow_local=True, timeout_s=40.0),
        resolve=lambda host, port: [f"127.0.0.{i}" for i in range(1, 101)],
    )
    assert fetcher.fetch(pictures.url("/late", "many.example")) == pictures.body


def test_a_url_is_not_in_the_log_of_a_library(pictures: Site, caplog: pytest.LogCaptureFixture) -> None:
    assert Fetcher(LOCAL).fetch(pictures.url("/strange?signature=xyzzy")) == pictures.body
    assert "xyzzy" not in caplog.text


# --- where it must not go ---


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "169.254.169.254",
        "10.0.0.1",
        "192.168.1.1",
        "172.16.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "0.0.0.0",
        "224.0.0.1",
        "[fe80::1]",
        "[fec0::1]",
        "[fd00:ec2::254]",
    ],
)
def test_the_inside_is_refused_without_a_connection(pictures: Site, host: str) -> None:
    asked = len(pictures.paths)
    with pytest.raises(PictureError, match="public internet"):
        Fetcher(MediaLimits()).fetch(pictures.url("/ok", host))
    assert len(pictures.paths) == asked


def test_a_redirect_inside_is_refused() -> None:
    """127.0.0.1 plays the internet here, 127.0.0.2 the house."""
    with site(b"outside") as outside, site(b"secret", "127.0.0.2") as inside:
        fetcher = Fetcher(MediaLimits(), may_reach=lambda address: address == "127.0.0.1")
        assert fetcher.fetch(outside.url("/ok")) == b"outside"
        with pytest.raises(PictureError, match=r"'127\.0\.0\.2' is not on the public internet"):
            fetcher.fetch(outside.url("/to?url=" + inside.url("/ok")))
        assert not inside.paths


def test_a_name_that_resolves_to_another_address_the_second_time() -> None:
    """DNS rebinding: what is connected to is the address that was checked."""
    answers = ["127.0.0.1", "127.0.0.2", "127.0.0.2"]
    with site(b"outside") as outside, site(b"secret", "127.0.0.2") as inside:
        ports = {"127.0.0.1": outside.server_address[1], "127.0.0.2": inside.server_address[1]}
        assert ports["127.0.0.1"] != ports["127.0.0.2"]
        fetcher = Fetcher(
            MediaLimits(),
            resolve=lambda host, port: [answers.pop(0)],
            may_reach=lambda address: address == "127.0.0.1",
        )
        assert fetcher.fetch(outside.url("/ok", "rebind.example")) == b"outside"
        assert outside.hosts == [f"rebind.example:{ports['127.0.0.1']}"]
        with pytest.raises(PictureError, match="public internet"):
            fetcher.fetch(inside.url("/ok", "rebind.example"))
        assert not inside.paths


def test_of_a_names_addresses_those_that_answer_and_may_are_used() -> None:
    with site(b"outside", "127.0.0.3") as outside:
        fetcher = Fetcher(
            MediaLimits(),
            resolve=lambda host, port: ["127.0.0.2", "127.0.0.4", "127.0.0.3"],
            may_reach=lambda address: address != "127.0.0.2",
        )
        assert fetcher.fetch(outside.url("/ok", "many.example")) == b"outside"


# --- TLS ---


def test_tls_is_verified_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with site(b"secure", tls=True) as secure:
        with pytest.raises(PictureError, match="certificate verify failed"):
            Fetcher(LOCAL).fetch(secure.url("/ok", "localhost", "https"))
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        assert Fetcher(LOCAL).fetch(secure.url("/ok", "localhost", "https")) == b"secure"
        with pytest.raises(PictureError, match="certificate"):
            Fetcher(LOCAL).fetch(secure.url("/ok", "127.0.0.1", "https"))
