"""Token ids to text while they are being generated."""

from __future__ import annotations

from collections.abc import Iterable

from tercet.text.tokenizer import Tokenizer


class IncrementalDetokenizer:
    """Text of one growing answer. Never splits a character, and the pieces join to exactly the whole.

    `prompt_ids_tail` are the last tokens of the prompt (any number; a few suffice): they decide whether the answer's
    first token begins a text or continues one. With an empty tail the pieces join to `tokenizer.decode(ids)`; otherwise
    to `decode(tail + ids)` less `decode(tail)`. A push costs time linear in the new tokens alone.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids_tail: Iterable[int] = (), *, skip_special_tokens: bool = True):
        self._tokenizer = tokenizer
        self._stream = tokenizer.new_stream()
        self._first = True
        self._skip_special = skip_special_tokens
        self.push(prompt_ids_tail)

    def push(self, ids: Iterable[int]) -> str:
        """Return the text that `ids` complete; "" while a character is unfinished."""
        pieces: list[bytes] = []
        for token in ids:
            piece = self._tokenizer.piece(token, self._first, self._skip_special)
            if piece is not None:
                pieces.append(piece)
                self._first = False
        return self._stream.push(pieces)

    def flush(self) -> str:
        """Return what is still held back, once, when the answer has ended."""
        return self._stream.flush()
