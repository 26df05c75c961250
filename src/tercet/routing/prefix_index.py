"""Which prompt pieces a rank's cache is believed to hold."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class _Prompt:
    """One prompt that was stored: `chunks` to be evicted from the end on, of which `left` are. In a chain a chunk's
    hash binds its place, so that its tokens need not be kept with it. `alone`: no other prompt took one over."""

    __slots__ = ("alone", "chunks", "left", "per_chunk", "pictures")

    def __init__(self, chunks: tuple[bytes, ...], per_chunk: float, pictures: Sequence[tuple[int, int]]) -> None:
        self.chunks, self.left, self.per_chunk, self.pictures = chunks, len(chunks), per_chunk, pictures
        self.alone = True

    def tokens(self, count: int) -> int:
        """Return the tokens up to the end of its first `count` chunks."""
        text = round(count * self.per_chunk)
        return text + sum(more for before, more in self.pictures if before <= count) if self.pictures else text


class PrefixIndex:
    """Chunk hash -> the prompt that it was last seen in; bounded, the least recently used go first, and of a prompt its
    end: without its beginning that is worth nothing.

    A prompt is stored by one call that Python makes in C, not chunk by chunk: only its eviction is a loop. `entries`
    are for looking into, a thousand times a second: no method stands between."""

    __slots__ = ("_newer", "_older", "_outdated", "capacity", "entries")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.entries: dict[bytes, _Prompt] = {}
        self._older: deque[_Prompt] = deque()
        self._newer: deque[_Prompt] = deque()
        self._outdated = 0  # chunks listed by prompts that they no longer belong to

    def __len__(self) -> int:
        """Return the number of chunks held."""
        return len(self.entries)

    def match(self, chunks: Sequence[bytes]) -> tuple[int, int]:
        """Return (number of leading chunks held, tokens up to there)."""
        entries, count = self.entries, 0
        for chunk in chunks:
            if chunk not in entries:
                break
            count += 1
        return (count, entries[chunks[count - 1]].tokens(count)) if count else (0, 0)

    def store(self, chunks: Sequence[bytes], tokens_per_chunk: float, pictures: Sequence[tuple[int, int]] = ()) -> None:
        """Note that all `chunks` of a prompt are held, now the most recently used. `pictures` are (leading chunks that
        hold it, tokens) of what is in the prompt besides its text."""
        entries, capacity = self.entries, self.capacity
        prompt = _Prompt(tuple(chunks if len(chunks) <= capacity else chunks[:capacity]), tokens_per_chunk, pictures)
        if not entries.keys().isdisjoint(prompt.chunks):
            for chunk in prompt.chunks:
                if (before := entries.get(chunk)) is not None:
                    before.alone = False
                    self._outdated += 1
        entries.update(dict.fromkeys(prompt.chunks, prompt))
        self._newer.append(prompt)
        if len(entries) > capacity:
            self._evict()
        if self._outdated > capacity:
            self._tidy(2 * prompt.left + 1)

    def holds(self, chunks: Sequence[bytes], tokens_per_chunk: float) -> bool:
        """True when a prompt of these chunks is held, and believed to be as long."""
        prompt, count = self.entries.get(chunks[-1]), len(chunks)
        return prompt is not None and prompt.tokens(count) == round(count * tokens_per_chunk)

    def resize(self, capacity: int) -> None:
        """Hold at most `capacity` chunks from now on."""
        self.capacity = capacity
        self._evict()

    def forget(self, chunks: Sequence[bytes]) -> None:
        """Note that none of `chunks` is held."""
        for chunk in chunks:
            if (prompt := self.entries.pop(chunk, None)) is not None:
                prompt.alone = False
                self._outdated += 1

    def clear(self) -> None:
        """Forget everything."""
        self.entries.clear()
        self._older.clear()
        self._newer.clear()
        self._outdated = 0

    def _evict(self) -> None:
        entries = self.entries
        excess = len(entries) - self.capacity
        while excess > 0:
            prompts = self._older or self._newer
            prompt = prompts[0]
            chunks, left = prompt.chunks, prompt.left
            if prompt.alone:
                prompt.left = max(0, left - excess)
                for chunk in chunks[prompt.left : left]:
                    del entries[chunk]
                excess -= left - prompt.left
            else:
                while left and excess > 0:
                    left -= 1
                    if entries.get(chunks[left]) is prompt:
                        del entries[chunks[left]]
                        excess -= 1
                    else:
                        self._outdated -= 1
                prompt.left = left
            if not prompt.left:
                prompts.popleft()

    def _tidy(self, count: int) -> None:
        """Look through the oldest prompts, at least `count` chunks of them, for those that were stored again since:
        else what everybody asks for would be listed without end. Each time a little, so that nobody waits for it."""
        entries = self.entries
        while count > 0 and self._outdated:
            if not self._newer:
                self._newer, self._older = self._older, self._newer
            prompt = self._newer.popleft()
            count -= prompt.left + 1
            own = tuple([chunk for chunk in prompt.chunks[: prompt.left] if entries.get(chunk) is prompt])
            self._outdated -= prompt.left - len(own)
            if own:
                prompt.chunks, prompt.left, prompt.alone = own, len(own), True
                self._older.append(prompt)
