"""Small workers of a model that sees: they encode, take embeddings by ticket, and complain of what they lack."""

from __future__ import annotations

import asyncio
import json
import re
from base64 import b64decode
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from tercet.core.errors import RequestError
from tercet.core.ids import new_id
from tercet.http.server import Request, Responder
from tests.unit.router.fake_worker import FakeWorker, Tickets

TOKENS = 4
"""Words that a picture is worth."""
WEB: dict[str, bytes] = {"http://web/one.png": b"picture one", "http://web/two.png": b"picture two"}
"""What is behind URLs."""


def key_of(picture: bytes) -> str:
    return sha256(picture).hexdigest()


@dataclass
class Embeddings:
    """All embedding tickets of one test: how many readers each still has."""

    held: dict[str, dict[str, Any]] = field(default_factory=dict)
    readers: dict[str, int] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)

    def read(self, ticket_id: str) -> None:
        self.readers[ticket_id] -= 1
        if not self.readers[ticket_id]:
            self.end(ticket_id, "accepted")

    def end(self, ticket_id: str, how: str) -> None:
        if self.held.pop(ticket_id, None) is not None:
            self.ended[how] += 1


class SeeingWorker(FakeWorker):
    """A worker of role E, P, D or A; `encodes` says whether it has that stage. `pool` holds keys of embeddings."""

    def __init__(self, role: str, tickets: Tickets, embeddings: Embeddings, *, encodes: bool, **other: Any) -> None:
        super().__init__(role, tickets, **other)
        self.embeddings, self.encodes = embeddings, encodes
        self.pool: set[str] = set()
        self.encoded: list[str] = []  # keys, one for each run of the encoder
        self.asked: list[list[int]] = []  # indices of each encode request
        self.keeps = True  # has an embedding cache
        self.private = re.compile(r"bootstrap_|data_parallel_rank|routed_dp_rank|disagg")
        self.needs_pictures = False  # a decode worker that must recompute, and lost what its ticket names

    async def handle(self, request: Request, responder: Responder) -> None:
        if request.path == "/v1/encode":
            await self._encode(request, responder)
        elif request.path == "/ec/release":
            for ticket_id in json.loads(request.body)["ticket_ids"]:
                self.embeddings.end(ticket_id, "released")
            await self._json(responder, {})
        else:
            if request.path == "/kv/release" and self.encodes:
                ticket = self.tickets.held.get(json.loads(request.body)["ticket_id"], {})
                for image in ticket.get("images", ()):
                    self.embeddings.end(image["ticket"]["ticket_id"], "released")
            await super().handle(request, responder)

    async def _encode(self, request: Request, responder: Responder) -> None:
        if not self.encodes:
            raise self._fault("an encode request to a worker without the stage")
        self._rank(request)
        body = json.loads(request.body)
        if not request.headers.get("x-request-id", "").startswith("probe-"):
            self.asked.append([image["index"] for image in body["images"]])
            self.seen.append((request.path, body, dict(request.headers)))
        if self.status != 200:
            await self._json(responder, {"error": self.error}, self.status)
            return
        self.running += 1
        try:
            if self.gate is not None:
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        cache: Counter[str] = Counter()
        keys = {image["index"]: self._look(image["url"], image["index"], cache) for image in body["images"]}
        data = [{"index": i, **self._issue(key, body["readers"]), "cache": "hit"} for i, key in keys.items()]
        headers = [
            ("X-Tercet-Cache", ", ".join(f"{word}={count}" for word, count in cache.items())),
            ("Server-Timing", "fetch;dur=1.00, encode;dur=5.00"),
        ]
        await self._json(responder, {"object": "list", "data": data}, headers=headers)

    def _look(self, url: str, index: int, cache: Counter[str]) -> str:
        try:
            picture = b64decode(url.partition(",")[2], validate=True) if url.startswith("data:") else WEB[url]
        except (ValueError, KeyError):
            raise RequestError(400, f"picture {index}: nothing there", param=f"images[{index}]") from None
        key = key_of(picture)
        cache["hit" if key in self.pool else "miss"] += 1
        if key not in self.pool:
            self.encoded.append(key)
            if self.keeps:
                self.pool.add(key)
        return key

    def _issue(self, key: str, readers: int) -> dict[str, Any]:
        ticket = {"version": 1, "ticket_id": new_id("image"), "key": key, "tokens": TOKENS}
        self.embeddings.held[str(ticket["ticket_id"])] = ticket
        self.embeddings.readers[str(ticket["ticket_id"])] = readers
        return {"key": key, "tokens": TOKENS, "ticket": ticket}

    # --- prompts with pictures ---

    def _words(self, path: str, body: dict[str, Any]) -> list[str]:
        given = (body.pop("ec_transfer_params", None) or {}).get("images")
        ticket = body.get("kv_transfer_params") or {}
        if ticket.get("ticket_id"):
            return self._words_of_ticket(path, body, ticket)
        words: list[str] = []
        pictures: list[tuple[dict[str, Any], int]] = []
        piece: dict[str, Any]
        body["pictures"] = []
        for message in body.get("messages", ()):
            content = message["content"]
            words.append(message["role"])
            for piece in [{"type": "text", "text": content}] if isinstance(content, str) else content:
                if piece["type"] == "text":
                    words += piece["text"].split()
                else:
                    pictures.append((piece, len(words)))
                    words += [self._key(piece)] * TOKENS
        if not pictures:
            return super()._words(path, body)
        held = max((self._common(words, old) for old in self.cache), default=0)
        tickets = given or [None] * len(pictures)
        needed = []
        for i, ((part, start), image) in enumerate(zip(pictures, tickets, strict=True)):
            key = self._key(part)
            if image is not None:
                if self.embeddings.held.get(image["ticket_id"]) != image or image["key"] != key:
                    raise self._fault(f"image ticket {image}")
                self.embeddings.read(image["ticket_id"])
                self.pool.add(key)
            elif part["type"] == "image_url":
                self._look(part["image_url"]["url"], i, Counter())
                image = self._issue(key, 1)["ticket"] if self.role == "P" else None
            elif part["image_ref"]["tokens"] != TOKENS:
                raise self._fault(f"reference {part}")
            elif key not in self.pool and start + TOKENS > held:
                needed.append(i)
            body["pictures"].append({"key": key, "start": start, "length": TOKENS, "ticket": image})
        if needed:
            raise RequestError(409, "pictures wanted", code="images_needed", param=",".join(map(str, needed)))
        return words

    def _key(self, part: dict[str, Any]) -> str:
        if part["type"] == "image_ref":
            return str(part["image_ref"]["key"])
        if part["type"] != "image_url":
            raise self._fault(f"part {part}")
        if not self.encodes:
            raise RequestError(400, "this worker does not encode", code="encodes_not", param="messages[0].content[0]")
        url = part["image_url"]["url"]
        return key_of(b64decode(url.partition(",")[2]) if url.startswith("data:") else WEB[url])

    @staticmethod
    def _common(words: list[str], old: list[str]) -> int:
        same = [a == b for a, b in zip(words, old, strict=False)]
        return same.index(False) if False in same else len(same)

    def _words_of_ticket(self, path: str, body: dict[str, Any], ticket: dict[str, Any]) -> list[str]:
        for message in body.get("messages", ()):
            for part in message["content"] if isinstance(message["content"], list) else ():
                if part["type"] != "text" and part != {"type": "image_ref", "image_ref": {}}:
                    raise self._fault(f"a picture goes along with a ticket: {part['type']}")
        if self.needs_pictures:
            self.needs_pictures = False
            raise RequestError(409, "evicted", code="images_needed", param="0")
        for image in ticket.get("images", ()):
            if image["ticket"] is not None:
                self.embeddings.read(image["ticket"]["ticket_id"])
        return list(ticket.get("words", ())) or super()._words(path, body)

    def _more_of_ticket(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"images": body["pictures"], "words": self.cache[-1]} if body.get("pictures") else {}

    @staticmethod
    def _answer(words: list[str], limit: int) -> list[str]:
        seen = sha256(" ".join(words).encode()).hexdigest()[:6]
        return [f"w{len(words) + i}-{seen}" for i in range(limit)]
