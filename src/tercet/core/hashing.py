"""One hash chain for router, engine and caches.

A block's hash is H(parent hash, token ids, pictures in it); the chain's root binds everything else that decides the KV
values: model fingerprint (which covers how pictures are encoded), LoRA name and cache salt.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from struct import Struct

from xxhash import xxh3_64_digest

from tercet.core.image import ImageSpan

DIGEST_BYTES = 16
CHUNK_HASH_BYTES = 8
_AT_ONCE = 256


def _digest(*parts: bytes) -> bytes:
    h = blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        h.update(len(part).to_bytes(4, "little"))
        h.update(part)
    return h.digest()


def root_hash(fingerprint: str, *, lora: str = "", cache_salt: str = "", media: Iterable[str] = ()) -> bytes:
    """Return the parent of a sequence's first block. `media` name what is known to be in it without its place. Clients'
    words among these may be no valid Unicode: whoever answers them says so."""
    return _digest(*(text.encode("utf-8", "surrogatepass") for text in (fingerprint, lora, cache_salt, *media)))


def block_hash(parent: bytes, tokens: Sequence[int]) -> bytes:
    """Return the hash of one full block of token ids that follows `parent`."""
    return blake2b(array("I", tokens).tobytes(), key=parent, digest_size=DIGEST_BYTES).digest()


def extend_block_hashes(
    hashes: list[bytes], tokens: Sequence[int], block_size: int, root: bytes, images: Sequence[ImageSpan] = ()
) -> None:
    """Append to `hashes` those of the full blocks of `tokens` that are not yet in it.

    A block that overlaps pictures binds the key of each, and where in the block and in the picture the overlap begins:
    their placeholder tokens are all alike. A picture in a later block changes nothing before it.
    """
    parent = hashes[-1] if hashes else root
    for i in range(len(hashes), len(tokens) // block_size):
        start, end = i * block_size, (i + 1) * block_size
        block_parent = parent
        for image in images:
            if image.start < end and start < image.end:
                block_parent = _digest(
                    block_parent, image.key.encode(), f"{image.start - start}:{image.length}".encode()
                )
        parent = block_hash(block_parent, tokens[start:end])
        hashes.append(parent)


def chunk_hashes(data: bytes, chunk_bytes: int, root: bytes = b"") -> bytes:
    """Return the hashes of the full `chunk_bytes` pieces of `data`, one after the other, CHUNK_HASH_BYTES each: the
    router's cheap prefix facts. That of the first binds `root` too, the others their piece alone: two texts begin alike
    as far as these strings do.

    They decide where a request goes, never what is computed, so that a fast hash will do. For each piece no line of
    Python runs, and no object stays.
    """
    count = len(data) // chunk_bytes
    if not count:
        return b""
    hashes = xxh3_64_digest(root + data[:chunk_bytes])
    for start in range(1, count, _AT_ONCE):
        cut = _cutter(chunk_bytes, min(_AT_ONCE, count - start))
        hashes += b"".join(map(xxh3_64_digest, cut(data, start * chunk_bytes)))
    return hashes


@lru_cache(maxsize=2 * _AT_ONCE)
def _cutter(piece_bytes: int, count: int) -> Callable[[bytes, int], tuple[bytes, ...]]:
    """Return what cuts so many pieces out of bytes, from an offset on."""
    return Struct(f"{piece_bytes}s" * count).unpack_from
