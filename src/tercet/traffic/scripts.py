"""Data sets: conversations in ShareGPT's format, requests as JSON lines, and traces to replay."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate, count, islice
from pathlib import Path
from typing import Any

from tercet.core.errors import UsageError

BLOCK_TOKENS = 512
"""Tokens that one of a Mooncake trace's `hash_ids` stands for."""

CHARACTERS_A_TOKEN = 4
"""How long a token is taken to be where a data set has only a text."""

DEFAULT_OUTPUT = 128
"""Tokens to ask for where a data set doesn't say."""


@dataclass(frozen=True, slots=True)
class ScriptTurn:
    """One turn: what is said (None: so many tokens, to be made up), and how many tokens are asked for.

    `messages` are whole chat messages to send instead of `text`, as JSON; in them are so many `characters` of text, and
    so many `images`. These are counted once: a plan asks for them thousands of times, and pictures make them long.
    """

    output_tokens: int
    text: str | None = None
    messages: str | None = None
    input_tokens: int = 0
    characters: int = 0
    images: int = 0

    @property
    def new_tokens(self) -> int:
        """Return its input tokens; of real text, which only a tokeniser knows, one for every four characters.

        Of whole messages what is said counts, not the JSON around it, and no picture's bytes.
        """
        return self.input_tokens or max(1, (len(self.text or "") + self.characters) // CHARACTERS_A_TOKEN)


@dataclass(frozen=True, slots=True)
class Script:
    """One conversation of a data set. `at_s` is when it starts; `hash_ids` name the blocks of its first prompt."""

    turns: tuple[ScriptTurn, ...]
    at_s: float | None = None
    hash_ids: tuple[int, ...] = ()

    @property
    def made_up(self) -> bool:
        """True when only lengths are known, as in a trace."""
        return all(turn.text is None and turn.messages is None for turn in self.turns)


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a file held. `kind` is "sharegpt", "jsonl" or "trace" (lengths and prefixes only)."""

    kind: str
    scripts: tuple[Script, ...]

    @property
    def turns(self) -> tuple[ScriptTurn, ...]:
        """Every turn of every conversation."""
        return tuple(turn for script in self.scripts for turn in script.turns)

    @property
    def fingerprint(self) -> str:
        """Return what tells it from data sets of its kind."""
        return blake2b(repr(self.scripts).encode(), digest_size=8).hexdigest()

    @property
    def most_turns(self) -> int:
        """Return the turns of the longest conversation."""
        return max(len(script.turns) for script in self.scripts)

    @property
    def timed(self) -> bool:
        """True when every conversation has a time stamp."""
        return all(script.at_s is not None for script in self.scripts)

    def conversations_for(self, turns: int) -> int:
        """Return how many conversations, in their order and again from the first, hold at least so many turns."""
        rounds, left = divmod(turns, self.turns_in(len(self.scripts)))
        ends = accumulate(len(script.turns) for script in self.scripts)
        return rounds * len(self.scripts) + (next(i for i, end in enumerate(ends, 1) if end >= left) if left else 0)

    def turns_in(self, conversations: int) -> int:
        """Return the turns of so many conversations, in their order and again from the first."""
        rounds, left = divmod(conversations, len(self.scripts))
        turns = [len(script.turns) for script in self.scripts]
        return rounds * sum(turns) + sum(turns[:left])

    def rate(self, speed: float = 1.0) -> float:
        """Return the conversations a second of timed scripts that are replayed at `speed`; 1 when all start at once."""
        span = max(script.at_s or 0.0 for script in self.scripts)
        return round(len(self.scripts) / span * speed, 6) if span else 1.0

    def part(self, number: int, which: int = 0) -> Dataset:
        """Return `number` scripts in a row, of timed ones the first starts at once: the first ones, or another part for
        another `which`, as far as there are others."""
        starts = max(len(self.scripts) - number, 0) + 1
        step = next(step for step in count(number) if math.gcd(step, starts) == 1)  # which comes to each of them
        first = which * step % starts
        chosen = self.scripts[first : first + number]
        begin = chosen[0].at_s or 0.0
        moved = [None if each.at_s is None else each.at_s - begin for each in chosen]
        return Dataset(
            self.kind, tuple(Script(each.turns, at, each.hash_ids) for each, at in zip(chosen, moved, strict=True))
        )


def read_dataset(path: Path, *, limit: int | None = None, turns: int | None = None) -> Dataset:
    """Read a data set: a JSON array in ShareGPT's format, or JSON lines. Raises UsageError naming file and line.

    A line is a request: `prompt` (text), `messages` (a chat) or `input_length` (Mooncake's trace format, with
    `hash_ids` for shared prefixes); `output_length` or `max_tokens`; and `timestamp` in milliseconds. At most `limit`
    conversations of at most `turns` turns are taken, from the start.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows puts a mark in front
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"can't read the data set {path}: {error}") from error
    array = text.lstrip()[:1] == "["
    found = _sharegpt(path, text, turns) if array else _lines(path, text)
    scripts = tuple(islice(found, limit))
    if not scripts:
        raise UsageError(f"{path} holds no conversation that starts with a person and has an answer")
    if array:
        return Dataset("sharegpt", scripts)
    timed = [script.at_s for script in scripts if script.at_s is not None]
    first = min(timed, default=0.0)
    if len(timed) == len(scripts):
        scripts = tuple(sorted(scripts, key=lambda script: script.at_s or 0.0))
    shifted = tuple(
        script if script.at_s is None else Script(script.turns, script.at_s - first, script.hash_ids)
        for script in scripts
    )
    return Dataset("trace" if all(script.made_up for script in shifted) else "jsonl", shifted)


def _sharegpt(path: Path, text: str, turns: int | None) -> Iterator[Script]:
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    for number, entry in enumerate(entries):
        said = entry.get("conversations", entry.get("conversation")) if isinstance(entry, dict) else None
        if not isinstance(said, list):
            raise UsageError(f'{path}: entry {number} has no "conversations": is this ShareGPT\'s format?')
        if not all(isinstance(part, dict) for part in said):
            raise UsageError(f"{path}: entry {number} holds what is no message: is this ShareGPT's format?")
        script = tuple(islice(_turns(said), turns))
        if script:
            yield Script(script)


def _turns(said: Sequence[Mapping[str, Any]]) -> Iterator[ScriptTurn]:
    """Pair what a person said with the answer that follows it."""
    for question, answer in zip(said[::2], said[1::2], strict=False):
        person = question.get("from", question.get("role"))
        text, reply = (str(part.get("value", part.get("content", ""))) for part in (question, answer))
        if person not in ("human", "user") or not text or not reply:
            return
        yield ScriptTurn(max(1, len(reply) // CHARACTERS_A_TOKEN), text)


def _lines(path: Path, text: str) -> Iterator[Script]:
    # Not splitlines: text may hold other separators of lines, which JSON lets stand as they are.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            yield _script(entry)
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise UsageError(f"{path}, line {number}: {error}") from error


def _script(entry: Mapping[str, Any]) -> Script:
    stamp = entry.get("timestamp")
    at_s = None if stamp is None else float(stamp) / 1e3
    if at_s is not None and not math.isfinite(at_s):
        raise ValueError(f"its timestamp is {stamp}")
    output = int(entry.get("output_length", entry.get("output_tokens", entry.get("max_tokens", DEFAULT_OUTPUT))))
    if output < 1:
        raise ValueError(f"it asks for {output} output tokens")
    if "messages" in entry:
        said = entry["messages"]
        if not isinstance(said, list) or not said or not all(isinstance(message, dict) for message in said):
            raise ValueError('its "messages" are no list of messages, such as [{"role": "user", "content": "..."}]')
        parts = list(_parts(said))
        characters = sum(len(str(part.get("text") or "")) for part in parts)
        images = sum(part.get("type") == "image_url" for part in parts)
        return Script((ScriptTurn(output, messages=json.dumps(said), characters=characters, images=images),), at_s)
    if isinstance(prompt := entry.get("prompt", entry.get("text_input")), str):
        return Script((ScriptTurn(output, prompt),), at_s)
    length = entry.get("input_length", entry.get("input_tokens"))
    if length is None:
        raise ValueError('it has neither "prompt" (text) nor "messages" nor "input_length"')
    if int(length) < 1:
        raise ValueError(f"an input of {length} tokens")
    return Script((ScriptTurn(output, input_tokens=int(length)),), at_s, tuple(map(int, entry.get("hash_ids") or ())))


def _parts(messages: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield what messages hold: texts and pictures."""
    for message in messages:
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        yield from (part for part in parts if isinstance(part, dict))
