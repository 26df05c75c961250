from __future__ import annotations

import msgpack
import pytest

from tercet.core.errors import UsageError
from tercet.transfer.messages import (
    address_tag,
    derive_key,
    new_nonce,
    open_answer,
    open_request,
    seal_answer,
    seal_request,
    unpack_body,
    vouched,
)

KEY = derive_key(b"secret")


def test_round_trip() -> None:
    nonce = new_nonce()
    opened = open_request(KEY, seal_request(KEY, nonce, {"op": "renew"}))
    assert opened is not None
    assert opened[0] == nonce
    assert unpack_body(opened[1]) == {"op": "renew"}


def test_each_flipped_bit_is_noticed() -> None:
    frame = seal_request(KEY, new_nonce(), {"op": "renew"})
    for index in range(len(frame)):
        forged = bytearray(frame)
        forged[index] ^= 1
        assert open_request(KEY, bytes(forged)) is None
        assert open_request(KEY, frame[:index]) is None


def test_another_secret_or_purpose_does_not_open() -> None:
    frame = seal_request(KEY, new_nonce(), {"op": "renew"})
    assert open_request(derive_key(b"other"), frame) is None
    assert open_answer(KEY, frame) is None
    assert open_request(KEY, seal_answer(KEY, new_nonce(), {})) is None


@pytest.mark.parametrize("packed", [b"", b"\xc1", msgpack.packb([1]), msgpack.packb({1: 2}), msgpack.packb({}) + b"x"])
def test_what_is_no_body(packed: bytes) -> None:
    assert unpack_body(packed) is None


def test_an_address_is_vouched_for_with_its_control_and_transport() -> None:
    address = {"endpoint": "tcp://127.0.0.1:1", "num_blocks": 4}
    tag = address_tag(KEY, "tcp://127.0.0.1:2", "tcp", address)
    assert vouched(KEY, "tcp://127.0.0.1:2", "tcp", {**address, "tag": tag})
    assert not vouched(derive_key(b"other"), "tcp://127.0.0.1:2", "tcp", {**address, "tag": tag})
    assert not vouched(KEY, "tcp://127.0.0.1:3", "tcp", {**address, "tag": tag})
    assert not vouched(KEY, "tcp://127.0.0.1:2", "shm", {**address, "tag": tag})
    assert not vouched(KEY, "tcp://127.0.0.1:2", "tcp", {**address, "num_blocks": 5, "tag": tag})
    assert not vouched(KEY, "tcp://127.0.0.1:2", "tcp", address)
    assert not vouched(KEY, "tcp://127.0.0.1:2", "tcp", {**address, "tag": "\u00e9"})


def test_an_empty_secret_is_refused() -> None:
    with pytest.raises(UsageError):
        derive_key(b"")
