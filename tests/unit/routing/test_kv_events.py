from __future__ import annotations

import math
from typing import Any

import msgpack
import pytest

from tercet.routing.kv_events import BlocksCleared, BlocksRemoved, BlocksStored, TokenBlocks, decode_batch


def batch(*events: Any) -> bytes:
    data: bytes = msgpack.packb([1.5, list(events), 0])
    return data


def stored(names: list[bytes], parent: bytes | None, tokens: list[int], **more: Any) -> dict[str, Any]:
    return {
        "type": "BlockStored",
        "block_hashes": names,
        "parent_block_hash": parent,
        "token_ids": tokens,
        "block_size": 2,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        **more,
    }


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (stored([b"a"], None, [1, 2]), BlocksStored((b"a",), None, (1, 2), 2)),
        (["BlockStored", [7], 6, [1, 2], 2, None, "GPU"], BlocksStored((7,), 6, (1, 2), 2)),
        (stored([b"a"], None, [1, 2], extra_keys=[["salt"]]), BlocksStored((b"a",), None, (1, 2), 2, False)),
        (stored([b"a"], None, [1, 2], lora_name="x"), BlocksStored((b"a",), None, (1, 2), 2, False)),
        (stored([b"a"], None, [1, 2], medium="CPU"), None),
        ({"type": "BlockRemoved", "block_hashes": [b"a"], "medium": "GPU"}, BlocksRemoved((b"a",))),
        (["BlockRemoved", [7]], BlocksRemoved((7,))),
        ({"type": "AllBlocksCleared"}, BlocksCleared()),
        (["AllBlocksCleared"], BlocksCleared()),
        ({"type": "Later"}, None),
    ],
)
def test_decoding(event: Any, expected: Any) -> None:
    assert decode_batch(batch(event)) == (() if expected is None else (expected,))


NO_BATCHES = [
    b"",
    b"\xc1",
    msgpack.packb(3),
    batch(stored([b"a"], None, [1])),
    batch({"x": 1}),
    # What could be read, and not be kept.
    batch({"type": "BlockRemoved", "block_hashes": [[7]]}),
    batch(stored([[7]], None, [1, 2])),  # type: ignore[list-item]
    batch(stored([b"a"], [7], [1, 2])),  # type: ignore[arg-type]
    batch(stored([b"a"], None, ["x", 2])),  # type: ignore[list-item]
    batch(stored([b"a"], None, [-1, 2])),
    batch(stored([b"a"], None, [1 << 40, 2])),
    batch(stored([b"a"], None, [1, 2], block_size=math.inf)),
]


@pytest.mark.parametrize("payload", NO_BATCHES)
def test_what_is_no_batch(payload: bytes) -> None:
    with pytest.raises(ValueError, match="not a batch"):
        decode_batch(payload)


def test_blocks_are_matched_by_their_tokens_from_the_start() -> None:
    blocks = TokenBlocks()
    assert blocks.match([1, 2]) == 0
    for event in decode_batch(batch(stored([b"a", b"b"], None, [1, 2, 3, 4]), stored([b"c"], b"b", [5, 6]))):
        blocks.apply(event)
    assert [blocks.match(ids) for ids in ([1], [1, 2], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6, 7], [3, 4])] == [
        0,
        2,
        4,
        6,
        0,
    ]
    blocks.apply(BlocksRemoved((b"b", b"unknown")))
    assert blocks.match([1, 2, 3, 4, 5, 6]) == 2
    blocks.apply(BlocksStored((b"z",), b"nobody", (9, 9), 2))
    blocks.apply(BlocksStored((b"y",), None, (8, 8), 2, plain=False))
    assert len(blocks) == 2 and blocks.match([8, 8]) == 0
    blocks.apply(BlocksCleared())
    assert len(blocks) == 0 and blocks.match([1, 2]) == 0
