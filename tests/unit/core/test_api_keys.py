from __future__ import annotations

import pytest

from tercet.core.api_keys import ApiKey, KeyRing, digest_of, key_lines, new_key, read_line
from tercet.core.errors import RequestError, UsageError
from tercet.core.secret import SECRET_VARIABLE, key_of_workers, take_secret


def test_a_line_reads_back() -> None:
    key = ApiKey("alice", digest_of("k"), True, 60, 100_000, 4)
    assert read_line(key.line(), 1, admin=False) == key
    assert "k" not in key.line().split()
    bare = ApiKey("bob", digest_of("k"))
    assert read_line(bare.line(), 1, admin=True) == bare and not bare.limited and key.limited


@pytest.mark.parametrize(
    "line",
    [
        "sha256:abc",
        "sha256:" + "g" * 64,
        "sha256:" + "a" * 64 + " admin=yes",
        "sha256:" + "a" * 64 + " concurrent=0",
        "sha256:" + "a" * 64 + " concurrent=x",
        "sha256:" + "a" * 64 + " concurrent=" + "9" * 5000,
        "sha256:" + "a" * 64 + " name=",
        "sha256:" + "a" * 64 + " colour=red",
        "sha256:" + "a" * 64 + " admin admin",
    ],
)
def test_a_line_that_is_none_is_named(line: str) -> None:
    with pytest.raises(UsageError, match="line 7 of the API keys"):
        read_line(line, 7, admin=False)


def test_only_the_key_itself_opens() -> None:
    key = new_key()
    ring = KeyRing([ApiKey("a", digest_of(key)).line(), "plain key"])
    assert ring.find(f"Bearer {key}").name == "a" and ring.find("bearer plain key").name == "line-2"
    wrong = [
        "",
        key,
        f"Basic {key}",
        f"Bearer {key[:-1]}",
        f"Bearer {digest_of(key)}",
        f"Bearer sha256:{digest_of(key)}",
    ]
    wrong += ["Bearer \udcff", "Bearer", f"Bearer {ApiKey('a', digest_of(key)).line()}"]
    for header in wrong:
        with pytest.raises(RequestError) as caught:
            ring.find(header)
        assert caught.value.status == 401


def test_who_is_admin() -> None:
    """Where every key lies there as it is, as before there were others, all are admin's; else only who is marked."""
    assert all(key.admin for key in KeyRing(["k1", "k2"]))
    mixed = KeyRing(["k1", ApiKey("a", digest_of("a")).line(), ApiKey("b", digest_of("b"), admin=True).line()])
    assert [key.admin for key in mixed] == [False, False, True]
    assert not KeyRing() and KeyRing(["k"])


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="two API keys are named 'a'"):
        KeyRing([ApiKey("a", digest_of("x")).line(), ApiKey("a", digest_of("y")).line()])


def test_keys_are_random_and_long() -> None:
    assert len({new_key() for _ in range(100)}) == 100 and len(new_key()) >= 43
    assert key_lines("# no\n\n a \nb\n") == ("a", "b")


def test_the_secret_leaves_the_environment_and_is_not_in_the_workers_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, "5a" * 32)
    secret = take_secret()
    assert secret == b"\x5a" * 32 and take_secret() is None
    assert key_of_workers(secret) == key_of_workers(b"\x5a" * 32) != key_of_workers(b"\x5b" * 32)
    assert "5a" * 8 not in key_of_workers(secret)
    monkeypatch.setenv(SECRET_VARIABLE, "no hex")
    with pytest.raises(UsageError, match="hex digits"):
        take_secret()
