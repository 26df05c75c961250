"""A stand-in for vLLM's API server, encoder, prefill and decode, after the sources of vllm 0.32.0.

NIXL: `nixl/scheduler.py` says what a ticket holds; EC: `collect_ec_item_metadata` makes an encoder's answer, and
`parse_image_embeds` takes metadata in a picture's place only with `--enable-mm-embeds`.
"""

from __future__ import annotations

import secrets
from base64 import b64decode
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from tercet.http.server import Request, Responder
from tests.conformance.engine import Engine, Refused, limit_of, send

TOKENS = 4
"""Words that a picture is worth."""
WEB = {"http://web/one.png": b"picture one", "http://web/two.png": b"picture two"}
ASKED = {"do_remote_decode", "do_remote_prefill", "remote_engine_id", "remote_block_ids", "remote_host", "remote_port"}

CACHED = "remote_prefill_cached_tokens"
DRAWN = {"do_remote_prefill", "do_remote_decode", "remote_bootstrap_addr", "remote_engine_id", "transfer_id"}


@dataclass
class Fabric:
    """What the workers of one test hold for each other: prompts by P's request, embeddings by their hash."""

    blocks: dict[str, tuple[list[str], dict[str, Any]]] = field(default_factory=dict)
    embeddings: set[str] = field(default_factory=set)


class VllmServer(Engine):
    """One vLLM worker. `grid`: its model's pictures have metadata; `takes_embeds` is `--enable-mm-embeds`.

    `encoded` are the hashes that ran through its encoder, `loaded` those that came by the EC connector.
    """

    def __init__(self, role: str, fabric: Fabric, *, grid: bool = False, takes_embeds: bool = True) -> None:
        super().__init__(role)
        self.fabric, self.grid, self.takes_embeds = fabric, grid, takes_embeds
        self.mooncake = False  # the connector is Mooncake's, not NIXL's
        self.tells_cached = True  # false before vLLM knew the ticket's word of it
        self.engine_id = secrets.token_hex(4)
        self.publishes = role == "E"
        self.encoded: list[str] = []
        self.loaded: list[str] = []

    def error_body(self, error: Refused) -> dict[str, Any]:
        return {"error": {key: value for key, value in error.body.items() if key != "object"}}

    async def handle(self, request: Request, responder: Responder) -> None:
        """P's bootstrap server listens on the same port here."""
        if request.path == "/query" and self.role == "P":
            await send(responder, {"0": {"engine_id": self.engine_id, "worker_addr": {}}})
        else:
            await super().handle(request, responder)

    async def serve(self, request: Request, body: dict[str, Any], responder: Responder) -> None:
        ticket = body.get("kv_transfer_params") or {}
        if body.get("model") not in (None, "", "m"):
            # D tells P to let go of what a refused request names.
            self.fabric.blocks.pop(str(ticket.get("transfer_id" if self.mooncake else "remote_request_id")), None)
            raise Refused(404, f"The model `{body['model']}` does not exist.", "NotFoundError")
        if body.get("stream_options") and not body.get("stream"):
            raise self.fault("Stream options can only be defined when `stream=True`.")
        if self.role == "E":
            await self._encode(request, body, responder)
            return
        words = self._words(body)
        if ticket.get("do_remote_decode"):
            await self._prefill(request, body, words, ticket, responder)
            return
        cached = self.cached
        if ticket and body.get("n") not in (None, 1):
            # `_get_new_notifs` (nixl/pull_worker.py), `send_kv_to_decode` (mooncake_connector.py).
            raise self.fault("each choice draws the blocks, and P frees them when the first has")
        if self.mooncake and ticket.get("do_remote_prefill"):
            held = self.fabric.blocks.pop(str(ticket["transfer_id"]), None)
            sender = {"remote_engine_id": ticket.get("remote_engine_id"), "addr": ticket.get("remote_bootstrap_addr")}
            if ticket.keys() - {CACHED} != DRAWN or held is None or held != (words, sender):
                raise self.fault(f"nothing to draw by {ticket}")
            cached = self._told(body, words, ticket)
        elif ticket.get("do_remote_prefill"):
            held = self.fabric.blocks.pop(str(ticket.get("remote_request_id")), None)
            if self.role != "D" or held is None or held != (words, ticket):
                raise self.fault(f"{self.role} was handed blocks of another prompt, or none: {ticket}")
            cached = self._told(body, words, ticket)
        elif ticket:
            raise self.fault(f"kv_transfer_params {ticket}")
        await self.answer(request, body, words, responder, limit_of(body), cached=cached)

    def _told(self, body: dict[str, Any], words: list[str], ticket: dict[str, Any]) -> int:
        """Return what D says was cached: its own blocks and those that came, unless the ticket says better."""
        if body.get("prompt_logprobs") is not None or (body.get("echo") and body.get("logprobs") is not None):
            raise self.fault("logprobs of a prompt whose blocks came by transfer are memory that nobody wrote to")
        return int(ticket.get(CACHED, len(words) - 1)) if self.tells_cached else len(words) - 1

    async def _prefill(
        self, request: Request, body: dict[str, Any], words: list[str], asked: dict[str, Any], responder: Responder
    ) -> None:
        if self.mooncake:
            if self.role != "P" or asked.keys() != {"do_remote_decode", "do_remote_prefill", "transfer_id"}:
                raise self.fault(f"a prefill names its transfer: {asked}")
            self.fabric.blocks[asked["transfer_id"]] = words, {"remote_engine_id": self.engine_id, "addr": self.url}
            await self.answer(request, body, words, responder, 1, cached=self.cached)
            return
        if self.role != "P" or asked.keys() != ASKED or body.get("stream") or limit_of(body) != 1:
            raise self.fault(f"a prefill is for P, whole, of one token: {body}")
        name = secrets.token_hex(4)
        ticket = {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_block_ids": [[1, 2]],
            "remote_engine_id": self.engine_id,
            "remote_request_id": name,
            "remote_host": "127.0.0.1",
            "remote_port": 5600,
            "tp_size": 1,
            "remote_num_tokens": len(words),
            **({CACHED: self.cached} if self.tells_cached else {}),
        }
        self.fabric.blocks[name] = words, ticket
        fields = {"kv_transfer_params": ticket}
        await self.answer(request, body, words, responder, 1, cached=self.cached, fields=fields)

    # --- pictures ---

    async def _encode(self, request: Request, body: dict[str, Any], responder: Responder) -> None:
        (message,) = body["messages"]
        parts = message["content"]
        if {part["type"] for part in parts} != {"image_url"} or "max_tokens" in body or body.get("stream"):
            raise self.fault(f"an encoder takes media only, and no limit of tokens: {body}")
        items: dict[str, dict[str, Any]] = {}
        for index, part in enumerate(parts):
            name = identifier(part)
            self.encoded.append(name)
            self.fabric.embeddings.add(name)
            entry = items.setdefault(name, {"item_indices": []})
            entry["metadata"] = {"image_grid_thw": [[1, 2, 2]]} if self.grid else {}
            entry["item_indices"].append(index)
        fields = {"ec_transfer_params": items if self.publishes else None}
        await self.answer(request, body, ["x"] * TOKENS * len(parts), responder, 0, cached=None, fields=fields)

    def _words(self, body: dict[str, Any]) -> list[str]:
        if "messages" not in body:
            prompt = body["prompt"]
            return [str(item) for item in prompt] if isinstance(prompt, list) else str(prompt).split()
        words: list[str] = []
        for message in body["messages"]:
            content = message["content"]
            words.append(message["role"])
            for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
                words += part["text"].split() if part["type"] == "text" else [self._picture(part, body)] * TOKENS
        return words

    def _picture(self, part: dict[str, Any], body: dict[str, Any]) -> str:
        if part["type"] == "image_embeds":
            if not self.takes_embeds:
                raise Refused(400, "You must set `--enable-mm-embeds` to input `image_embeds`")
            name = str(part["uuid"])
            if part["image_embeds"] != {"image_grid_thw": [[1, 2, 2]]} or name not in self.fabric.embeddings:
                raise self.fault(f"no embedding of {part}")
        else:
            name = identifier(part)
        if self.role == "D" and body.get("kv_transfer_params"):
            return name  # its blocks come from P
        (self.loaded if name in self.fabric.embeddings else self.encoded).append(name)
        return name


def identifier(part: dict[str, Any]) -> str:
    """Return the name of a picture: the client's uuid, else a hash of its pixels, another one."""
    url = part["image_url"]["url"]
    try:
        data = b64decode(url.partition(",")[2], validate=True) if url.startswith("data:") else WEB[url]
    except (ValueError, KeyError):
        raise Refused(400, f"Failed to load image: {url[:40]}") from None
    return str(part.get("uuid") or "pixels-" + sha256(data).hexdigest())
