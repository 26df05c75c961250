"""One hash chain for router, engine and caches.

A block's hash is H(parent hash, token ids, pictures in it); the chain's root binds everything else that decides the KV
values: model fingerprint (which covers how pictures are encoded), LoRA name and cache salt.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from xxhash import xxh3_128_digest

from tercet.core.image import ImageSpan

DIGEST_BYTES = 16


def _digest(*parts: bytes) -> bytes:
    h = blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        h.update(len(part).to_bytes(4, "little"))
        h.update(part)
    return h.digest()


def root_hash(fingerprint: str, *, lora: str = "", cache_salt: str = "", media: Iterable[str] = ()) -> bytes:
    """Return the parent of a sequence's first block. `media` name what is known to be in it without its place."""
    return _digest(fingerprint.encode(), lora.encode(), cache_salt.encode(), *(m.encode() for m in media))


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


def text_chunk_hashes(text: bytes, chunk_bytes: int, root: bytes) -> list[bytes]:
    """Return the chain over full `chunk_bytes` pieces of rendered text: the router's cheap prefix facts.

    They decide where a request goes, never what is computed, so that a fast hash will do: it takes a fifth of the time.
    """
    parent, starts = root, range(0, len(text) - chunk_bytes + 1, chunk_bytes)
    return [parent := xxh3_128_digest(parent + text[start : start + chunk_bytes]) for start in starts]
