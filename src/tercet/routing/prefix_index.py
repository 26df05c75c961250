"""Which prompt pieces a rank's cache is believed to hold."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from tercet.core.hashing import CHUNK_HASH_BYTES as WIDTH

Pictures = Sequence[tuple[int, int]]
"""(leading chunks that hold it, tokens) of each picture of a prompt."""


class _Run:
    """Chunks in a row: where prompts part or end, other runs begin, `after` it by their first chunk. `parent` is the
    run before it. `chunks` are their hashes, one after the other: one object, whose end costs as much as one chunk's.
    Of the prompt that was stored last the tokens are told by `per_chunk` and `pictures`. Not `held`: its
    rank turned out not to hold it, but may hold what comes after."""

    __slots__ = ("after", "chunks", "held", "parent", "per_chunk", "pictures")

    def __init__(self, chunks: bytes, parent: _Run | None) -> None:
        self.chunks, self.parent, self.held = chunks, parent, True
        self.after: dict[bytes, _Run] = {}
        self.per_chunk = 0.0
        self.pictures: Pictures = ()

    def tokens(self, count: int) -> int:
        """Return the tokens up to the end of the prompt's first `count` chunks."""
        text = round(count * self.per_chunk)
        return text + sum(more for before, more in self.pictures if before <= count) if self.pictures else text


class PrefixIndex:
    """A tree of the prompts that a rank holds, each a string of chunk hashes (`chunk_hashes`); bounded, the least
    recently used go first, and of a prompt its end: without its beginning that is worth nothing.

    Where two strings part is found by halving. A new prompt costs as much as one chunk, however long it is. `begins`
    are the runs with which prompts begin, to be looked into a thousand times a second: no method stands between.
    `capacity` counts chunks."""

    __slots__ = ("_latest", "_listed", "_lost", "_runs", "begins", "capacity")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.begins: dict[bytes, _Run] = {}
        self._runs: OrderedDict[_Run, None] = OrderedDict()  # by their last use; of one prompt's its last first
        self._listed = self._lost = 0  # bytes in the tree, and those of them that are not held
        self._latest: tuple[bytes, float] | None = None  # stored last, and nothing was lost since

    def __len__(self) -> int:
        """Return the number of chunks held."""
        return (self._listed - self._lost) // WIDTH

    def match(self, chunks: bytes) -> tuple[int, int]:
        """Return (number of leading chunks held, tokens up to there)."""
        level, at, last = self.begins, 0, None
        while at < len(chunks):
            run = level.get(chunks[at : at + WIDTH])
            if run is None or not run.held:
                break
            same = _in_common(run.chunks, chunks, at)
            at, last, level = at + same, run, run.after
            if same < len(run.chunks):
                break
        return (0, 0) if last is None else (at // WIDTH, last.tokens(at // WIDTH))

    def store(self, chunks: bytes, tokens_per_chunk: float, pictures: Pictures = ()) -> None:
        """Note that all `chunks` of a prompt are held, now the most recently used. `pictures` are what is in the prompt
        besides its text."""
        bound, runs = self.capacity * WIDTH, self._runs
        kept = chunks[:bound]
        begin = kept[:WIDTH]
        if begin and begin not in self.begins:  # as most: nothing of it is known
            new = self.begins[begin] = _Run(kept, None)
            new.per_chunk, new.pictures = tokens_per_chunk, pictures
            runs[new] = None
            self._listed += len(kept)
        else:
            for run in reversed(self._path(kept)):  # a beginning is used after its end: it stays for longer
                run.per_chunk, run.pictures = tokens_per_chunk, pictures
                if not run.held:
                    run.held = True
                    self._lost -= len(run.chunks)
                runs[run] = None
                runs.move_to_end(run)
        if self._listed > bound:
            self._evict()
        self._latest = (chunks, tokens_per_chunk) if len(kept) == len(chunks) and not pictures else None

    def holds(self, chunks: bytes, tokens_per_chunk: float) -> bool:
        """True when a prompt of these chunks is held, and believed to be as long."""
        if self._latest == (chunks, tokens_per_chunk):
            return True
        count = len(chunks) // WIDTH
        return self.match(chunks) == (count, round(count * tokens_per_chunk))

    def resize(self, capacity: int) -> None:
        """Hold at most `capacity` chunks from now on."""
        self.capacity, self._latest = capacity, None
        self._evict()

    def forget(self, chunks: bytes) -> None:
        """Note that none of a prompt's `chunks` is held."""
        self._latest = None
        count, _ = self.match(chunks)
        for run in reversed(self._path(chunks[: count * WIDTH])):
            run.held = False
            self._lost += len(run.chunks)
            self._runs.move_to_end(run)  # a run that was divided became the latest: its beginnings still go after it

    def clear(self) -> None:
        """Forget everything."""
        self.begins.clear()
        self._runs.clear()
        self._listed = self._lost = 0
        self._latest = None

    def _path(self, chunks: bytes) -> list[_Run]:
        """Return the runs that these chunks are, made where they were not."""
        path: list[_Run] = []
        level, parent, at = self.begins, None, 0
        while at < len(chunks):
            begin = chunks[at : at + WIDTH]
            run = level.get(begin)
            if run is None:
                run = level[begin] = _Run(chunks[at:], parent)
                self._listed += len(chunks) - at
            else:
                same = _in_common(run.chunks, chunks, at)
                if same < len(run.chunks):
                    run = self._divide(run, same, level)
            path.append(run)
            level, parent, at = run.after, run, at + len(run.chunks)
        return path

    def _divide(self, run: _Run, size: int, level: dict[bytes, _Run]) -> _Run:
        """Return a new run of the first `size` bytes of `run`, which becomes the rest, as old as it is."""
        head = _Run(run.chunks[:size], run.parent)
        head.held, head.per_chunk, head.pictures = run.held, run.per_chunk, run.pictures
        run.chunks, run.parent = run.chunks[size:], head
        head.after[run.chunks[:WIDTH]] = run
        level[head.chunks[:WIDTH]] = head
        self._runs[head] = None
        return head

    def _evict(self) -> None:
        while (excess := self._listed - self.capacity * WIDTH) > 0:
            run = next(iter(self._runs))  # nothing comes after it, or that would have gone before
            gone = min(excess, len(run.chunks))
            self._listed -= gone
            if not run.held:
                self._lost -= gone
            if gone < len(run.chunks):
                run.chunks = run.chunks[:-gone]
            else:
                del self._runs[run]
                del (self.begins if run.parent is None else run.parent.after)[run.chunks[:WIDTH]]


def _in_common(run: bytes, chunks: bytes, at: int) -> int:
    """Return how many bytes of whole chunks a run, and `chunks` from `at` on, have in common: at least one chunk."""
    size = min(len(run), len(chunks) - at)
    if chunks.startswith(run[:size], at):
        return size
    low, high = 1, size // WIDTH  # so many chunks are the same, and so many not
    while low < high - 1:
        middle = (low + high) // 2
        if run[low * WIDTH : middle * WIDTH] == chunks[at + low * WIDTH : at + middle * WIDTH]:
            low = middle
        else:
            high = middle
    return low * WIDTH
