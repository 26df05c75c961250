"""What sequences need of the embedding pool: which pictures each has, waits for, or can't get."""

from __future__ import annotations

from tercet.core.image_ticket import blocks_for_rows
from tercet.engine.embedding_pool import EmbeddingPool, Entry
from tercet.engine.sequence import ImageFetch, Sequence


class Pictures:
    """The scheduler's use of an EmbeddingPool.

    A sequence pins what its chunks read, from its admission until its prompt is computed or it is preempted. A picture
    that it could not get a second time (`owned`: encoded here, or here without a ticket) is leased for it for life.
    """

    def __init__(self, pool: EmbeddingPool) -> None:
        self.pool = pool
        self._pinned: dict[str, list[str]] = {}
        self._missing: dict[str, set[str]] = {}  # sequence -> keys on their way
        self._waiters: dict[str, list[Sequence]] = {}  # key on its way -> who waits; by order of admission
        self._loading: dict[str, Sequence] = {}  # key on its way -> whose ticket it is read under
        self._due: list[ImageFetch] = []

    @property
    def frees(self) -> int:
        """See EmbeddingPool.frees."""
        return self.pool.frees

    def fits(self, sequence: Sequence) -> bool:
        """Return whether a sequence's pictures alone can ever be here together."""
        rows = {image.key: image.length for image in sequence.images}
        return sum(map(blocks_for_rows, rows.values())) <= self.pool.reserve

    def needed(self, sequence: Sequence, computed: int) -> dict[str, int]:
        """Return the pictures, key to rows, that a sequence still has to compute after `computed` tokens."""
        return {image.key: image.length for image in sequence.images if image.end > computed}

    def out_of_reach(self, sequence: Sequence, computed: int) -> tuple[int, ...]:
        """Return which of a sequence's pictures, by index, it needs and can't get."""
        missing: list[int] = []
        to_own: dict[str, int] = {}
        for index, image in enumerate(sequence.images):
            if image.end > computed and not self._in_reach(sequence, image.key, image.length, to_own):
                missing.append(index)
        return tuple(missing)

    def _in_reach(self, sequence: Sequence, key: str, tokens: int, to_own: dict[str, int]) -> bool:
        entry = self.pool.get(key)
        if entry is not None and entry.tokens != tokens:
            return False
        if key in sequence.sources:
            return True
        if entry is None or not (entry.ready or key in self._loading):
            return False
        if key in sequence.owned:
            return True
        if not self.pool.can_lease({**to_own, key: tokens}):
            return False
        to_own[key] = tokens
        return True

    def adopt(self, sequence: Sequence) -> None:
        """Lease what is here of the pictures that a new sequence has no ticket for."""
        for image in sequence.images:
            key, tokens = image.key, image.length
            ticketless = key not in sequence.sources and key not in sequence.owned
            if ticketless and self.pool.ready(key, tokens) and self.pool.can_lease({key: tokens}):
                self.pool.hits += 1
                self._own(sequence, key)

    def _own(self, sequence: Sequence, key: str) -> None:
        self.pool.lease(key)
        sequence.owned |= {key}

    def has_room(self, sequence: Sequence, computed: int) -> bool:
        """Return whether all that a sequence needs can be pinned now."""
        return self.pool.has_room(self.needed(sequence, computed))

    def take(self, sequence: Sequence, computed: int) -> bool:
        """Pin what a sequence needs, and load what is not here; True when it has to wait for that."""
        missing: set[str] = set()
        pool, pinned = self.pool, self._pinned.setdefault(sequence.id, [])
        # What is here first: making room for the rest must not evict it.
        needed = sorted(self.needed(sequence, computed).items(), key=lambda item: pool.get(item[0]) is None)
        for key, tokens in needed:
            entry = pool.get(key)
            if entry is None:
                entry = pool.reserve_entry(key, tokens)  # this pin is the load's
                self._load(entry, sequence)
                pool.misses += 1
            elif not entry.ready and key not in self._loading:  # an earlier load failed, and somebody leases the entry
                pool.pin(key)
                self._load(entry, sequence)
                pool.misses += 1
            elif key not in sequence.owned:
                pool.hits += entry.ready
                pool.joined += not entry.ready
                if key not in sequence.sources:
                    self._own(sequence, key)
            pool.pin(key)
            pinned.append(key)
            if not entry.ready:
                missing.add(key)
                self._waiters.setdefault(key, []).append(sequence)
        if missing:
            self._missing[sequence.id] = missing
        return bool(missing)

    def waits(self, sequence: Sequence) -> bool:
        """Return whether a sequence waits for pictures on their way."""
        return sequence.id in self._missing

    def due(self) -> tuple[ImageFetch, ...]:
        """Return the loads to start, each once."""
        due, self._due = self._due, []
        return tuple(due)

    def loaded(self, key: str) -> list[Sequence]:
        """Note that a load succeeded; return the sequences that wait for nothing more."""
        self.pool.loaded(key)
        self._end_load(key)
        complete = []
        for sequence in self._waiters.pop(key, []):
            missing = self._missing[sequence.id]
            missing.discard(key)
            if not missing:
                del self._missing[sequence.id]
                complete.append(sequence)
        return complete

    def failed(self, key: str) -> list[Sequence]:
        """Note that a load failed: try the next waiting sequence's ticket; return who can't get the picture any more.

        Those are still to be ended.
        """
        self._loading[key].sources.discard(key)
        waiters = self._waiters.get(key, [])
        for sequence in waiters:
            if key in sequence.sources:
                entry = self.pool.get(key)
                assert entry is not None
                self._load(entry, sequence)
                return []
        self._end_load(key)
        return list(waiters)

    def computed(self, sequence: Sequence) -> None:
        """Unpin a sequence's pictures once its chunks have read them all."""
        if sequence.id in self._pinned and sequence.computed >= sequence.images[-1].end:
            self.unpin(sequence)

    def unpin(self, sequence: Sequence) -> None:
        """Unpin a sequence's pictures: it is preempted, or through."""
        for key in self._pinned.pop(sequence.id, ()):
            self.pool.unpin(key)

    def end(self, sequence: Sequence) -> None:
        """Forget a sequence. A load under its ticket goes on: others may wait for it, and it can't be stopped."""
        for key in self._missing.pop(sequence.id, ()):
            self._waiters[key].remove(sequence)
            if not self._waiters[key]:
                del self._waiters[key]
        self.unpin(sequence)
        for key in sequence.owned:
            self.pool.unlease(key)
        sequence.owned = frozenset()

    def _load(self, entry: Entry, sequence: Sequence) -> None:
        self._loading[entry.key] = sequence
        self._due.append(ImageFetch(sequence, entry.key, entry.blocks))

    def _end_load(self, key: str) -> None:
        del self._loading[key]
        self.pool.unpin(key)
