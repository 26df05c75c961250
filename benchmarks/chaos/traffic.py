"""Mixed traffic whose right answers are known, and what became of it."""

from __future__ import annotations

import asyncio
import json
import struct
import zlib
from base64 import b64encode
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from time import monotonic
from typing import Any

from tercet.http.client import Client, ClientError
from tercet.http.sse import SSEParser

HANG_S = 45.0
"""No request may take longer: its wait for room, three legs' deadlines, and the quick failures before them."""
TOKENS = 16
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@dataclass(frozen=True, slots=True)
class Question:
    """One request, and its answer when nothing is wrong."""

    path: str
    body: dict[str, Any]
    answer: str


@dataclass(slots=True)
class Tally:
    """What became of the requests. `slowest_s` of those that ended by themselves; `said` are some of the failures."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    said: list[str] = field(default_factory=list)

    def add(self, outcome: str, seconds: float, words: str = "") -> None:
        """Count one."""
        self.outcomes[outcome] += 1
        if outcome != "left":
            self.slowest_s = max(self.slowest_s, seconds)
        if words and len(self.said) < 40:
            self.said.append(f"{outcome}: {' '.join(words.split())[:300]}")


def picture(seed: int) -> str:
    """Return a small PNG as a data URI."""
    random = Random(seed)
    rows = b"".join(b"\0" + random.randbytes(3 * 32) for _ in range(32))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0))
    whole = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + b64encode(whole).decode()


def unanswered(random: Random) -> list[tuple[str, dict[str, Any]]]:
    """Return requests of every kind: token ids, text, chats, long prompts, pictures."""
    asked: list[tuple[str, dict[str, Any]]] = []
    for _ in range(8):
        asked.append((TEXT, {"prompt": [random.randrange(256) for _ in range(random.choice((12, 60, 300)))]}))
        asked.append((TEXT, {"prompt": f"story {random.random()} " * random.choice((2, 12))}))
        asked.append((CHAT, {"messages": [{"role": "user", "content": f"what of {random.random()}?"}]}))
    for i in range(8):
        pictures = [{"type": "image_url", "image_url": {"url": picture(i + j)}} for j in range(1 + i % 2)]
        content = [{"type": "text", "text": f"see {i % 3}"}, *pictures]
        asked.append((CHAT, {"messages": [{"role": "user", "content": content}]}))
    return asked


async def questions(client: Client, url: str, random: Random) -> list[Question]:
    """Have one worker, of which nothing is wrong yet, answer everything; second turns of chats too."""
    found: list[Question] = []
    for path, body in unanswered(random):
        body = {**body, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
        found.append(Question(path, body, await _answer(client, url, path, body)))
        if path == CHAT:
            said = [{"role": "assistant", "content": found[-1].answer}, {"role": "user", "content": "and then?"}]
            more = {**body, "messages": [*body["messages"], *said]}
            found.append(Question(path, more, await _answer(client, url, path, more)))
    return found


async def _answer(client: Client, url: str, path: str, body: dict[str, Any]) -> str:
    response = await client.request("POST", url + path, headers=JSON, body=json.dumps(body).encode())
    return _text(json.loads(await response.read()))


JSON = [("Content-Type", "application/json")]


def _text(data: dict[str, Any]) -> str:
    choice = data["choices"][0]
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


class Clients:
    """Clients who ask one question after another, some streamed, some leaving before the end."""

    def __init__(self, url: str, asked: list[Question], seed: int) -> None:
        self._url, self._asked, self._random = url, asked, Random(seed)
        self._client = Client(connect_timeout_s=10.0)
        self._tasks: list[asyncio.Task[None]] = []
        self._ending = False
        self.tally = Tally()

    def start(self, count: int, pause_s: float) -> None:
        """Begin to ask."""
        self._tasks = [asyncio.get_running_loop().create_task(self._ask_on(pause_s)) for _ in range(count)]

    async def close(self) -> None:
        """Let those end that are under way."""
        self._ending = True
        await asyncio.gather(*self._tasks)
        await self._client.close()

    async def _ask_on(self, pause_s: float) -> None:
        while not self._ending:
            question, streamed = self._random.choice(self._asked), self._random.random() < 0.5
            leave_s = self._random.uniform(0, 0.4) if self._random.random() < 0.1 else None
            began = monotonic()
            outcome, words = "hang", json.dumps(question.body)
            try:
                async with asyncio.timeout(HANG_S if leave_s is None else leave_s):
                    outcome, words = await self._ask(question, streamed)
            except TimeoutError:
                if leave_s is not None:
                    outcome, words = "left", ""
            self.tally.add(outcome, monotonic() - began, words)
            await asyncio.sleep(self._random.uniform(0, 2 * pause_s))

    async def _ask(self, question: Question, streamed: bool) -> tuple[str, str]:
        body = json.dumps({**question.body, "stream": streamed}).encode()
        try:
            response = await self._client.request(
                "POST",
                self._url + question.path,
                headers=JSON,
                body=body,
                first_byte_timeout_s=2 * HANG_S,
                idle_timeout_s=2 * HANG_S,
            )
            data = await response.read()
        except ClientError as error:
            return "no answer", str(error)
        where = response.headers.get("x-tercet-route", "")
        if response.status != 200:
            return str(response.status), f"{where} {data.decode(errors='replace')}"
        if not streamed:
            text, whole = _text(json.loads(data)), True
        else:
            text, whole = _streamed(data)
        right = text == question.answer if whole else question.answer.startswith(text.rstrip("\ufffd"))
        if not right:
            return "wrong", f"{where}: {text!r} for {question.answer!r} of {body[:200]!r}"
        return ("ok", "") if whole else ("broken stream", f"{where} {data[-150:].decode(errors='replace')}")


def _streamed(data: bytes) -> tuple[str, bool]:
    """Return a stream's text, and whether it ended as it should."""
    events = SSEParser().feed(data)
    text, whole = "", bool(events) and events[-1] == "[DONE]"
    for event in events:
        chunk = json.loads(event) if event != "[DONE]" else {}
        if "error" in chunk:
            whole = False
        for choice in chunk.get("choices", ()):
            text += (choice["delta"].get("content") or "") if "delta" in choice else choice["text"]
    return text, whole
