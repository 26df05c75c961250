"""From token strings to bytes, and from bytes to text: what a `tokenizers` decoder does, made incremental.

A decoder of a `tokenizer.json` maps each token to bytes on its own, except at the very start of a text (where
sentencepiece families drop a space). That makes streaming exact: concatenate the bytes, decode UTF-8 as far as it is
complete.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tercet.core.errors import UsageError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_alphabet() -> dict[str, int]:
    """Return GPT-2's bijection: the printable character that stands for each of the 256 bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


@dataclass(frozen=True, slots=True)
class _Step:
    """One stage of a decoder: `kind` as in tokenizer.json, with what that kind needs."""

    kind: str
    pattern: str = ""
    content: str = ""
    start: int = 0
    stop: int = 0


class TokenDecoder:
    """The decoder of one `tokenizer.json`, as a function of a single token.

    Supported: ByteLevel, ByteFallback, Metaspace, Replace (of a string), Strip, Fuse, Sequences of these, and none.
    Bytes that are not UTF-8 become U+FFFD as in ByteLevel's decoder (one per maximal ill-formed part).
    """

    def __init__(self, spec: dict[str, Any] | None) -> None:
        """Compile `spec`, the "decoder" object of tokenizer.json. Raises UsageError for a decoder of another family."""
        self._alphabet = byte_alphabet()
        self._joined_by_space = spec is None
        self._steps: list[_Step] = []
        self.strip_char = ""
        self.strip_count = 0
        fused = False
        for item in _flatten(spec):
            step = _compile(item)
            if step.kind in ("Fuse", "ByteLevel"):
                fused = True
            elif fused and step.kind == "Strip" and not step.stop and not self.strip_count:
                self.strip_char, self.strip_count = step.content, step.start
                continue
            elif fused and not (step.kind == "Replace" and len(step.pattern) == 1):
                raise UsageError(
                    f"tokenizer.json: decoder {step.kind} after Fuse can't be streamed and is not supported"
                )
            self._steps.append(step)

    def piece(self, token: str, first: bool) -> bytes:
        """Return the bytes `token` stands for; `first` when no token precedes it in the text."""
        if self._joined_by_space:
            return (token if first else f" {token}").encode()
        for step in self._steps:
            if step.kind == "Replace":
                token = token.replace(step.pattern, step.content)
            elif step.kind == "Metaspace":
                token = token.replace(step.pattern, "" if first and step.start else " ")
            elif step.kind == "Strip":
                token = _strip(token, step)
            elif step.kind == "ByteFallback" and (match := _BYTE_TOKEN.fullmatch(token)):
                return bytes((int(match[1], 16),))
            elif step.kind == "ByteLevel" and all(char in self._alphabet for char in token):
                return bytes(self._alphabet[char] for char in token)
        return token.encode("utf-8", "replace")


class TextStream:
    """Turns the bytes of successive tokens into text as soon as characters are complete."""

    def __init__(self, decoder: TokenDecoder) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip_char = decoder.strip_char
        self._strip_left = decoder.strip_count

    def push(self, pieces: Iterable[bytes]) -> str:
        """Return the characters that `pieces` complete; up to 3 bytes of an unfinished one stay behind."""
        return self._strip(self._utf8.decode(b"".join(pieces)))

    def flush(self) -> str:
        """Return what is left at the end: "" or one U+FFFD for a character that never came to its end."""
        return self._strip(self._utf8.decode(b"", final=True))

    def _strip(self, text: str) -> str:
        while self._strip_left and text:
            if not text.startswith(self._strip_char):
                self._strip_left = 0
                break
            text = text[1:]
            self._strip_left -= 1
        return text


def _flatten(spec: dict[str, Any] | None) -> Sequence[dict[str, Any]]:
    if spec is None:
        return ()
    if spec["type"] == "Sequence":
        return [leaf for item in spec["decoders"] for leaf in _flatten(item)]
    return (spec,)


def _compile(item: dict[str, Any]) -> _Step:
    kind = item["type"]
    if kind in ("ByteLevel", "ByteFallback", "Fuse"):
        return _Step(kind)
    if kind == "Replace" and "String" in item["pattern"]:
        return _Step(kind, pattern=item["pattern"]["String"], content=item["content"])
    if kind == "Strip":
        return _Step(kind, content=item["content"], start=item["start"], stop=item["stop"])
    if kind == "Metaspace":
        drops = item.get("prepend_scheme", "always" if item.get("add_prefix_space", True) else "never") != "never"
        return _Step(kind, pattern=item["replacement"], start=int(drops))
    raise UsageError(
        f"tokenizer.json: decoder {kind} is not supported; known are ByteLevel, ByteFallback, Metaspace, Replace of a "
        "string, Strip and Fuse"
    )


def _strip(token: str, step: _Step) -> str:
    start, stop = 0, len(token)
    while start < min(step.start, stop) and token[start] == step.content:
        start += 1
    while stop > max(len(token) - step.stop, start) and token[stop - 1] == step.content:
        stop -= 1
    return token[start:stop]
