"""What vLLM says of its prefix cache: its events decoded, and the blocks that a rank holds because of them.

Facts read in vllm 0.32.0 (`distributed/kv_events.py`): a batch is [ts, events, data_parallel_rank]; an event is a map
with its `type`, in older versions a list that begins with it.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from tercet.core.hashing import DIGEST_BYTES, block_hash

_STORED = (
    "block_hashes",
    "parent_block_hash",
    "token_ids",
    "block_size",
    "lora_id",
    "medium",
    "lora_name",
    "extra_keys",
)
_NAMES = {"BlockStored": (*_STORED, "group_idx"), "BlockRemoved": ("block_hashes", "medium", "group_idx")}
_ROOT = b""

Name = bytes | int
"""vLLM's own name of a block: opaque."""


@dataclass(frozen=True, slots=True)
class BlocksStored:
    """Blocks that follow `parent` (None: the prompt's start) one after the other. `plain` ones depend on their tokens
    alone: neither on an adapter, nor on pictures, nor on a salt."""

    names: tuple[Name, ...]
    parent: Name | None
    tokens: tuple[int, ...]
    block_size: int
    plain: bool = True


@dataclass(frozen=True, slots=True)
class BlocksRemoved:
    """Blocks that are held no longer."""

    names: tuple[Name, ...]


@dataclass(frozen=True, slots=True)
class BlocksCleared:
    """No block is held any more."""


@dataclass(frozen=True, slots=True)
class BlocksHeld:
    """What a rank holds by all it said so far, as one process tells another that comes later: names, and the joined
    hashes of these blocks. Not `whole`: that is left out, for it is too much."""

    names: tuple[Name, ...]
    hashes: bytes
    block_size: int
    whole: bool = True


BlockEvent = BlocksStored | BlocksRemoved | BlocksCleared | BlocksHeld


def decode_batch(payload: bytes) -> tuple[BlockEvent, ...]:
    """Return the events of one message about blocks in the engine's own memory. Raises ValueError when it is none."""
    try:
        events = msgpack.unpackb(payload, raw=False, strict_map_key=False)[1]
        decoded = tuple(map(_event, events))
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError, msgpack.UnpackException) as error:
        raise ValueError(f"not a batch of KV events: {error}") from error
    return tuple(event for event in decoded if event is not None)


def _event(event: Any) -> BlockEvent | None:
    if isinstance(event, dict):
        kind, said = event["type"], event
    else:
        kind, *values = event
        said = dict(zip(_NAMES.get(kind, ()), values, strict=False))
    if kind == "AllBlocksCleared":
        return BlocksCleared()
    if said.get("medium") not in (None, "GPU") or said.get("group_idx"):
        return None  # a slower tier, or another group's view of the same tokens
    if kind == "BlockRemoved":
        return BlocksRemoved(_names(said["block_hashes"]))
    if kind != "BlockStored":
        return None
    names, size, parent = _names(said["block_hashes"]), int(said["block_size"]), said["parent_block_hash"]
    tokens = tuple(said["token_ids"])
    if size < 1 or len(tokens) != size * len(names):
        raise ValueError(f"{len(names)} blocks of {size} with {len(tokens)} tokens")
    array("I", tokens)  # as they are hashed: raises for what is no token
    if parent is not None:
        _names((parent,))
    other = said.get("lora_id") is not None or said.get("lora_name") or any(said.get("extra_keys") or ())
    return BlocksStored(names, parent, tokens, size, not other)


def _names(given: Any) -> tuple[Name, ...]:
    """Return names of blocks. Raises TypeError for what can be none."""
    names = tuple(given)
    if not all(isinstance(name, bytes | int) for name in names):
        raise TypeError("a block's name is bytes or a number")
    return names


class TokenBlocks:
    """The blocks that one rank holds, by their tokens from the prompt's start on."""

    __slots__ = ("_held", "_names", "_size")

    def __init__(self) -> None:
        self._names: dict[Name, bytes] = {}
        self._held: set[bytes] = set()
        self._size = 0

    def __len__(self) -> int:
        """Return the number of blocks held."""
        return len(self._names)

    def apply(self, event: BlockEvent) -> None:
        """Take in one event. Blocks after one that is not known can't be placed, and count as not held."""
        if isinstance(event, BlocksCleared):
            self.clear()
        elif isinstance(event, BlocksRemoved):
            for name in event.names:
                self._held.discard(self._names.pop(name, _ROOT))
        elif isinstance(event, BlocksHeld):
            self._take(event)
        elif event.plain:
            self._store(event)

    def held(self) -> BlocksHeld:
        """Return what is held, by which others come to know the same."""
        names = {name: block for name, block in self._names.items() if block in self._held}
        return BlocksHeld(tuple(names), b"".join(names.values()), self._size)

    def clear(self) -> None:
        """Forget everything."""
        self._names.clear()
        self._held.clear()

    def match(self, tokens: Sequence[int]) -> int:
        """Return how many of the first `tokens` are held, in whole blocks."""
        size, parent = self._size, _ROOT
        if not size:
            return 0
        for end in range(size, len(tokens) + 1, size):
            parent = block_hash(parent, tokens[end - size : end])
            if parent not in self._held:
                return end - size
        return len(tokens) // size * size

    def _take(self, event: BlocksHeld) -> None:
        self._size = event.block_size
        hashes = [event.hashes[i : i + DIGEST_BYTES] for i in range(0, len(event.hashes), DIGEST_BYTES)]
        self._names.update(zip(event.names, hashes, strict=True))
        self._held.update(hashes)

    def _store(self, event: BlocksStored) -> None:
        parent = _ROOT if event.parent is None else self._names.get(event.parent)
        if parent is None:
            return
        self._size = event.block_size
        for i, name in enumerate(event.names):
            parent = block_hash(parent, event.tokens[i * event.block_size : (i + 1) * event.block_size])
            self._names[name] = parent
            self._held.add(parent)
