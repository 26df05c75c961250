"""Which prompt pieces a rank's cache is believed to hold."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

Pictures = Sequence[tuple[int, int]]
"""(leading chunks that hold it, tokens) of each picture of a prompt."""


class _Run:
    """Chunks in a row: where prompts part or end, other runs begin, `after` it by their first chunk. `parent` is the
    run before it. Of the prompt that was stored last the tokens are told by `per_chunk` and `pictures`. Not `held`: its
    rank turned out not to hold it, but may hold what comes after."""

    __slots__ = ("after", "chunks", "held", "parent", "per_chunk", "pictures")

    def __init__(self, chunks: tuple[bytes, ...], parent: _Run | None) -> None:
        self.chunks, self.parent, self.held = chunks, parent, True
        self.after: dict[bytes, _Run] = {}
        self.per_chunk = 0.0
        self.pictures: Pictures = ()

    def tokens(self, count: int) -> int:
        """Return the tokens up to the end of the prompt's first `count` chunks."""
        text = round(count * self.per_chunk)
        return text + sum(more for before, more in self.pictures if before <= count) if self.pictures else text


class PrefixIndex:
    """A tree of the prompts that a rank holds, as chains of chunk hashes; bounded, the least recently used go first,
    and of a prompt its end: without its beginning that is worth nothing.

    A chunk's hash binds all before it, so that two chains which have one in common have its whole beginning in common,
    and where they part is found by halving. A new prompt costs as much as one chunk, however long it is. `begins` are
    the runs with which prompts begin, to be looked into a thousand times a second: no method stands between."""

    __slots__ = ("_listed", "_lost", "_runs", "begins", "capacity")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.begins: dict[bytes, _Run] = {}
        self._runs: OrderedDict[_Run, None] = OrderedDict()  # by their last use; of one prompt's its last first
        self._listed = self._lost = 0  # chunks in the tree, and those of them that are not held

    def __len__(self) -> int:
        """Return the number of chunks held."""
        return self._listed - self._lost

    def match(self, chunks: Sequence[bytes]) -> tuple[int, int]:
        """Return (number of leading chunks held, tokens up to there)."""
        level, count, last = self.begins, 0, None
        while count < len(chunks):
            run = level.get(chunks[count])
            if run is None or not run.held:
                break
            same = _in_common(run.chunks, chunks, count)
            count, last, level = count + same, run, run.after
            if same < len(run.chunks):
                break
        return (0, 0) if last is None else (count, last.tokens(count))

    def store(self, chunks: Sequence[bytes], tokens_per_chunk: float, pictures: Pictures = ()) -> None:
        """Note that all `chunks` of a prompt are held, now the most recently used. `pictures` are what is in the prompt
        besides its text."""
        size = min(len(chunks), self.capacity)
        path = self._path(tuple(chunks[:size]))
        for run in reversed(path):  # a beginning is used after its end: it stays for longer
            run.per_chunk, run.pictures = tokens_per_chunk, pictures
            if not run.held:
                run.held = True
                self._lost -= len(run.chunks)
            self._runs[run] = None
            self._runs.move_to_end(run)
        if self._listed > self.capacity:
            self._evict()

    def holds(self, chunks: Sequence[bytes], tokens_per_chunk: float) -> bool:
        """True when a prompt of these chunks is held, and believed to be as long."""
        count = len(chunks)
        return self.match(chunks) == (count, round(count * tokens_per_chunk))

    def resize(self, capacity: int) -> None:
        """Hold at most `capacity` chunks from now on."""
        self.capacity = capacity
        self._evict()

    def forget(self, chunks: Sequence[bytes]) -> None:
        """Note that none of a prompt's `chunks` is held."""
        count, _ = self.match(chunks)
        for run in reversed(self._path(tuple(chunks[:count]))):
            run.held = False
            self._lost += len(run.chunks)
            self._runs.move_to_end(run)  # a run that was divided became the latest: its beginnings still go after it

    def clear(self) -> None:
        """Forget everything."""
        self.begins.clear()
        self._runs.clear()
        self._listed = self._lost = 0

    def _path(self, chunks: tuple[bytes, ...]) -> list[_Run]:
        """Return the runs that these chunks are, made where they were not."""
        path: list[_Run] = []
        level, parent, at = self.begins, None, 0
        while at < len(chunks):
            run = level.get(chunks[at])
            if run is None:
                run = level[chunks[at]] = _Run(chunks[at:], parent)
                self._listed += len(chunks) - at
            else:
                same = _in_common(run.chunks, chunks, at)
                if same < len(run.chunks):
                    run = self._divide(run, same, level)
            path.append(run)
            level, parent, at = run.after, run, at + len(run.chunks)
        return path

    def _divide(self, run: _Run, count: int, level: dict[bytes, _Run]) -> _Run:
        """Return a new run of the first `count` chunks of `run`, which becomes the rest, as old as it is."""
        head = _Run(run.chunks[:count], run.parent)
        head.held, head.per_chunk, head.pictures = run.held, run.per_chunk, run.pictures
        run.chunks, run.parent = run.chunks[count:], head
        head.after[run.chunks[0]] = run
        level[head.chunks[0]] = head
        self._runs[head] = None
        return head

    def _evict(self) -> None:
        while (excess := self._listed - self.capacity) > 0:
            run = next(iter(self._runs))  # nothing comes after it, or that would have gone before
            gone = min(excess, len(run.chunks))
            self._listed -= gone
            if not run.held:
                self._lost -= gone
            if gone < len(run.chunks):
                run.chunks = run.chunks[:-gone]
            else:
                del self._runs[run]
                del (self.begins if run.parent is None else run.parent.after)[run.chunks[0]]


def _in_common(run: tuple[bytes, ...], chunks: Sequence[bytes], at: int) -> int:
    """Return how many chunks a run and a chain from its chunk `at` on have in common: at least one."""
    high = min(len(run), len(chunks) - at)
    if run[high - 1] == chunks[at + high - 1]:
        return high
    low = 1
    while low < high - 1:
        middle = (low + high) // 2
        if run[middle - 1] == chunks[at + middle - 1]:
            low = middle
        else:
            high = middle
    return low
