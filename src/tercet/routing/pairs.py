"""Which ranks of P a request crossed from, to which ranks of D."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tercet.core.route import Rank


class Pairs:
    """Pairs of addresses (P, D) that were proved since either started."""

    def __init__(self) -> None:
        self._sources: dict[str, set[str]] = {}  # by the address of D
        self._found: dict[str, tuple[Sequence[Rank], Sequence[Rank]]] = {}
        """By the address of D what was asked last, and the answer: the same candidates come again and again."""

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((prefill, decode) for decode, sources in self._sources.items() for prefill in sorted(sources))

    def __contains__(self, pair: tuple[str, str]) -> bool:
        prefill, decode = pair
        return prefill in self._sources.get(decode, ())

    def reachable(self, prefills: Sequence[Rank], decode: str) -> Sequence[Rank]:
        """Return those of `prefills` that are paired with `decode`; `prefills` itself where all are."""
        asked, found = self._found.get(decode, ((), ()))
        if asked is prefills:
            return found
        sources = self._sources.get(decode, ())
        found = [rank for rank in prefills if rank.address in sources]
        if len(found) == len(prefills):
            found = prefills
        if isinstance(prefills, tuple):  # which can't change
            self._found[decode] = (prefills, found)
        return found

    def set(self, prefill: str, decode: str, proved: bool) -> None:
        """Note that a pair is proved, or not any more."""
        self._found.pop(decode, None)
        if proved:
            self._sources.setdefault(decode, set()).add(prefill)
        elif (sources := self._sources.get(decode)) is not None:
            sources.discard(prefill)
            if not sources:
                del self._sources[decode]

    def forget(self, address: str) -> None:
        """A rank left or started anew: none of its pairs is proved."""
        self._found.clear()
        self._sources.pop(address, None)
        for sources in self._sources.values():
            sources.discard(address)
