"""What a simulated conversation is made of: names of its pieces take the place of tokens.

A real hash of a block binds all tokens before it. Here a block's name says which pieces of content begin before its end
and where it lies: equal for the same prefixes, different for all others, and made at a fraction of the cost. The
scheduler and the router get these names where they would have hashed.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from xxhash import xxh3_64_digest

from tercet.core.hashing import CHUNK_HASH_BYTES
from tercet.routing.facts import CHUNK_IDS, RequestFacts, text_name
from tercet.routing.fleet import FleetState
from tercet.routing.pictures import Picture

_NAME_BYTES = 8


class Content:
    """One conversation's prompts, which only grow.

    `number` is its own; `shared` are (name, tokens) of the beginning that it has in common with others; `pictures` are
    keys (None: of its own) of `picture_tokens` tokens each, which come before everything else; the first turn's text
    has `first_text` tokens.
    """

    __slots__ = (
        "_blocks",
        "_chunks",
        "_first_text",
        "_segments",
        "_text_segments",
        "picture_tokens",
        "pictures",
        "session",
    )

    def __init__(
        self,
        number: int,
        session: str,
        *,
        shared: Sequence[tuple[str, int]] = (),
        pictures: Sequence[str | None] = (),
        picture_tokens: int = 0,
        first_text: int = 0,
    ) -> None:
        self.session = session
        self.pictures = tuple(pictures)
        self.picture_tokens = picture_tokens
        shown = [(f"{number} {i}" if key is None else key, picture_tokens) for i, key in enumerate(pictures)]
        own = number.to_bytes(_NAME_BYTES, "little")
        self._first_text = first_text
        self._segments = _chained((*shown, *shared), own)
        self._text_segments = _chained((*((key, 0) for key, _ in shown), *shared), own) if shown else self._segments
        self._blocks: list[bytes] = []
        self._chunks = b""

    @property
    def vision_tokens(self) -> int:
        """Tokens of the prompt that are pictures."""
        return len(self.pictures) * self.picture_tokens

    def blocks(self, tokens: int, size: int) -> list[bytes]:
        """Return the names of at least the full blocks of the first `tokens` tokens; not to be changed."""
        _extend(self._blocks, self._segments, tokens // size, size)
        return self._blocks

    def facts(self, length: int, later: bool, fleet: FleetState) -> RequestFacts:
        """Return what a router knows of a prompt of `length` tokens of token ids (and pictures)."""
        size = length - self.vision_tokens
        count = size // CHUNK_IDS
        have = len(self._chunks) // CHUNK_HASH_BYTES
        names: list[bytes] = []
        _extend(names, self._text_segments, count, CHUNK_IDS, have)
        self._chunks += b"".join(map(xxh3_64_digest, names))
        chunks = self._chunks[: count * CHUNK_HASH_BYTES]
        pictures: tuple[Picture, ...] = ()
        if self.pictures:
            known = fleet.picture_tokens
            pictures = tuple(
                Picture(key, self._first_text, (None if key is None else known.of("", key)) or known.typical(""))
                for key in self.pictures
            )
        return RequestFacts(
            model="",
            session=self.session,
            size=size,
            tokens_per_unit=1.0,
            exact=True,
            chunks=chunks,
            chunk_size=CHUNK_IDS,
            own=text_name(chunks),
            affinity=chunks[:CHUNK_HASH_BYTES] or self.session.encode(),
            later_turn=later,
            pictures=pictures,
        )


def _chained(pieces: Sequence[tuple[str, int]], own: bytes) -> list[tuple[int, bytes]]:
    """Return (end, name) of each piece, the name binding all before it; the last has no end."""
    segments: list[tuple[int, bytes]] = []
    end, parent = 0, b""
    for name, tokens in pieces:
        end += tokens
        parent = blake2b(name.encode(), key=parent, digest_size=_NAME_BYTES).digest()
        segments.append((end, parent))
    segments.append((1 << 62, own if not parent else blake2b(own, key=parent, digest_size=_NAME_BYTES).digest()))
    return segments


def _extend(
    names: list[bytes], segments: Sequence[tuple[int, bytes]], count: int, size: int, have: int | None = None
) -> None:
    """Add names up to that of the `count`-th piece; those of the first `have` are there: all of `names` when None."""
    if have is None:
        have = len(names)
    if count <= have:
        return
    for end, name in segments:
        fits = min(count, end // size)
        if fits > have:
            names.extend([name + i.to_bytes(4, "little") for i in range(have, fits)])
            have = fits
        if have >= count:
            return
