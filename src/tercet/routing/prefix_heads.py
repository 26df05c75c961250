"""Who may hold the beginning of a prompt: a decision among hundreds of ranks need not ask each of them."""

from __future__ import annotations

from collections.abc import Mapping

from tercet.routing.prefix_index import PrefixIndex

FEWEST = 1024
"""So many beginnings are kept before any is looked at again."""


class PrefixHeads:
    """First chunk of a prompt -> addresses of the ranks that were told to hold it.

    What an index lost since is found out when it is asked for, or when the number doubled: the memory stays in
    proportion to what the indexes hold.
    """

    def __init__(self) -> None:
        self._ranks: dict[bytes, tuple[str, ...]] = {}
        self._most = FEWEST

    def __len__(self) -> int:
        """Return the number of beginnings kept."""
        return len(self._ranks)

    def add(self, chunk: bytes, address: str, indexes: Mapping[str, PrefixIndex]) -> None:
        """Note that a rank holds prompts that begin with `chunk`."""
        ranks = self._ranks.get(chunk)
        if ranks is not None:
            if address not in ranks:
                self._ranks[chunk] = (*ranks, address)
            return
        self._ranks[chunk] = (address,)
        if len(self._ranks) > self._most:
            for known in list(self._ranks):
                self.holding(known, indexes)
            self._most = max(FEWEST, 2 * len(self._ranks))

    def holding(self, chunk: bytes, indexes: Mapping[str, PrefixIndex]) -> tuple[str, ...]:
        """Return the addresses of the ranks whose index holds `chunk` now."""
        ranks = self._ranks.get(chunk)
        if ranks is None:
            return ()
        if len(ranks) == 1:  # as most
            index = indexes.get(ranks[0])
            if index is not None and chunk in index.begins:
                return ranks
        left = tuple(address for address in ranks if address in indexes and chunk in indexes[address].begins)
        if len(left) == len(ranks):
            return ranks
        if left:
            self._ranks[chunk] = left
        else:
            del self._ranks[chunk]
        return left
