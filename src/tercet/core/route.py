"""Routes: which ranks serve a request."""

from __future__ import annotations

from dataclasses import dataclass, field

from tercet.core.ids import join_rank
from tercet.core.record import record
from tercet.core.stage import Mode


@dataclass(frozen=True, slots=True)
class Rank:
    """One data-parallel engine of a worker. `letter` is its role (E, P, D, A), `index` its number among the ranks of
    that role.

    `rank` is None for a worker that has one rank only and need not be told which. `label` is the short name written in
    routes, `P0`; `address` is `url` or `url@rank`. Both are made once: a router asks for them several times a request.
    """

    letter: str
    index: int
    url: str
    rank: int | None = None
    label: str = field(init=False, compare=False)
    address: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Write label and address."""
        object.__setattr__(self, "label", f"{self.letter}{self.index}")
        object.__setattr__(self, "address", join_rank(self.url, self.rank))


@record(frozen=True, slots=True)
class EncodeShare:
    """What one encode rank does for a request: `pictures` are indices in the order of the prompt."""

    rank: Rank
    pictures: tuple[int, ...]


@record(frozen=True, slots=True)
class NamedPicture:
    """A picture, by its index in the prompt, that the prefilling rank is believed to hold, and its tokens there."""

    index: int
    key: str
    tokens: int


@record(frozen=True, slots=True)
class Route:
    """The legs of one request. `held` are the prompt tokens that the decode rank is believed to hold, `uncached`
    those it lacks; `prefill_uncached` those that the prefill rank lacks. All are estimates, exact for token-id
    prompts.

    `known` says that the request continues a remembered conversation; `fallback` that P was wanted and not to be had.

    Each of a request's pictures goes one of three ways: those in `encode` to encode ranks; those in `inline` as bytes
    to the rank that prefills, which encodes them itself (with `encode_fallback`, because no encode rank answered);
    those in `named` that rank holds already.
    """

    mode: Mode
    decode: Rank
    prefill: Rank | None = None
    held: int = 0
    uncached: int = 0
    prefill_uncached: int = 0
    known: bool = False
    fallback: bool = False
    encode: tuple[EncodeShare, ...] = ()
    inline: tuple[int, ...] = ()
    named: tuple[NamedPicture, ...] = ()
    encode_fallback: bool = False

    @property
    def prefills(self) -> Rank:
        """The rank that computes the prompt."""
        return self.prefill or self.decode

    @property
    def ranks(self) -> tuple[Rank, ...]:
        """Every rank that a leg goes to."""
        ahead = (self.prefill,) if self.prefill else ()
        return (*(share.rank for share in self.encode), *ahead, self.decode)

    def __str__(self) -> str:
        """Return for instance `P0>D1`, `A0` or `E0+E1>P0>D1`."""
        if not self.encode:
            return self.decode.label if self.prefill is None else f"{self.prefill.label}>{self.decode.label}"
        legs = [rank.label for rank in (self.prefill, self.decode) if rank]
        return ">".join(["+".join(share.rank.label for share in self.encode), *legs])
