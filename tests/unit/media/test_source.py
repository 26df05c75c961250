from __future__ import annotations

import os
from pathlib import Path

import pytest

from tercet.media.errors import PictureError
from tercet.media.limits import MediaLimits
from tercet.media.source import Sources
from tests.unit.media.files import data_uri
from tests.unit.media.site import site

STRANGER = Sources(MediaLimits(max_bytes=1000))
FRIEND = Sources(MediaLimits(max_bytes=1000, allow_local=True))


def test_data_uris() -> None:
    assert STRANGER.read(data_uri(b"\x00\xffpicture")) == b"\x00\xffpicture"
    assert STRANGER.read(data_uri(b"\xff\xfb\xef").replace("+", "%2B").replace("/", "%2F")) == b"\xff\xfb\xef"
    assert STRANGER.read("DATA:,a%20b") == b"a b"
    assert STRANGER.read(data_uri(bytes(1000))) == bytes(1000)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (data_uri(bytes(1001)), "larger than 1000 bytes"),
        ("data:," + "x" * 1001, "larger than 1000 bytes"),
        ("data:image/png;base64,@@@@", "not base64"),
        ("data:image/png;base64,QUJD\nQUJD", "not base64"),
        ("data:image/png;base64,\ud800", "not base64"),
        ("data:,\ud800", "lone surrogate"),
        ("data:image/png;base64", "without a comma"),
        ("data:image/png;base64,", "empty"),
        ("ftp://host/a.png", "--allow-local-media"),
        ("file:///etc/hostname", "--allow-local-media"),
        ("/etc/hostname", "--allow-local-media"),
        ("picture.png", "--allow-local-media"),
        ("http://127.0.0.1/a.png", "public internet"),
    ],
)
def test_what_a_stranger_may_not(source: str, reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        STRANGER.read(source)


def test_local_files_and_addresses_for_friends(tmp_path: Path) -> None:
    path = tmp_path / "a picture.png"
    path.write_bytes(b"local")
    for source in (str(path), f"file://{path}", path.as_uri(), f"file://localhost{path}"):
        assert FRIEND.read(source) == b"local"
    with site(b"private") as server:
        assert FRIEND.read(server.url("/ok")) == b"private"


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(1001))
    (tmp_path / "empty").touch()
    for source, reason in (
        (str(tmp_path / "pipe"), "not a regular file"),
        ("/dev/zero", "not a regular file"),
        (str(tmp_path), "can't be read: Is a directory"),
        (str(tmp_path / "large"), "larger than 1000 bytes"),
        (str(tmp_path / "empty"), "empty"),
        (str(tmp_path / "gone"), "can't be read: No such file"),
        ("file://elsewhere/a", "not a data URI"),
        ("ftp://host/a.png", "not a data URI"),
        ("a\0b", "can't be read"),
    ):
        with pytest.raises(PictureError, match=reason):
            FRIEND.read(source)
