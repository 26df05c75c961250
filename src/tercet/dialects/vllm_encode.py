"""vLLM's encode legs: one request an encoder, media only; the consumer finds each embedding by its hash.

Facts read in vllm 0.32.0: `collect_ec_item_metadata` (ec_connector/utils.py) makes the answer, `parse_image_embeds`
(renderers/chat_utils.py) takes metadata in a picture's place and needs `--enable-mm-embeds`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tercet.core.route import EncodeShare, Rank, Route
from tercet.core.stage import Stage
from tercet.dialects.handoff import (
    Content,
    HandoffExchange,
    Release,
    Ticket,
    leg_headers,
    prefill_body,
    rank_headers,
    with_ticket,
)
from tercet.dialects.pictures import EMBEDS, Pictures
from tercet.dialects.protocol import Answer, Headers, Leg, Legs, Reply, Step
from tercet.dialects.refusal import broken, refused
from tercet.dialects.request import CHAT_PATH, ClientRequest, dump
from tercet.dialects.usage import failed, read_usage

EC_FIELD = "ec_transfer_params"
PROCESSING = ("mm_processor_kwargs", "media_io_kwargs")
"""What of a request changes what a picture becomes, and so its hash: E must hear of it too."""

NO_EMBEDS = b"--enable-mm-embeds"
"""In the refusal of a consumer that takes pictures only."""


@dataclass(frozen=True, slots=True)
class Embedding:
    """What E published of a picture. `metadata` is what a consumer needs in the picture's place, empty where the
    model has none; `handle` is the connector's own word on where the embedding is, empty for shared storage."""

    hash: str
    tokens: int
    metadata: dict[str, Any]
    handle: dict[str, Any]


def media_part(part: dict[str, Any], key: str | None) -> dict[str, Any]:
    """Return a picture's part with its content's hash as uuid. A client's own uuid is left out: it would name
    another's picture. Without a uuid every engine hashes what it fetched, and so comes to the same name."""
    part = {name: value for name, value in part.items() if name != "uuid"}
    return part if key is None else {**part, "uuid": key}


def encode_body(parts: list[dict[str, Any]], client: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body that has an encoder encode these: no text, no limit of tokens (it samples none)."""
    kept = {name: client[name] for name in ("model", *PROCESSING) if client.get(name)}
    return {**kept, "messages": [{"role": "user", "content": parts}], "stream": False}


def read_embeddings(body: bytes, count: int) -> list[Embedding]:
    """Return what an encoder published of its `count` pictures, in their order. Raises ValueError when it is no such
    answer or a picture is missing in it."""
    try:
        data = json.loads(body)
        usage = read_usage(data.get("usage"))
        tokens = max(1, (usage.prompt_tokens if usage else 0) // count)
        found: dict[int, Embedding] = {}
        for name, entry in data[EC_FIELD].items():
            handle = {key: value for key, value in entry.items() if key not in ("metadata", "item_indices")}
            for index in entry["item_indices"]:
                found[int(index)] = Embedding(name, tokens, dict(entry.get("metadata") or {}), handle)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"no {EC_FIELD}") from error
    if found.keys() != set(range(count)):
        raise ValueError(f"{EC_FIELD} of other pictures than were asked for")
    return [found[i] for i in range(count)]


class VllmEncodeExchange:
    """One request with pictures on one route: encode legs side by side, then what is done with any request.

    P and D get a picture's metadata in its place where E named some, else the picture itself: they find its embedding
    by its hash. Nothing is held for a request on E: there is nothing to release there.
    """

    def __init__(self, request: ClientRequest, route: Route, release: Release) -> None:
        assert request.pictures is not None
        self._request, self._route = request, route
        self._pictures: Pictures = request.pictures
        self._waiting = {share.rank.address: share for share in route.encode}
        self._encoded: dict[int, Embedding] = {}
        self._believed: dict[int, tuple[str, int]] = {}
        self._by_metadata = not any(request.body.get(name) for name in PROCESSING)
        self._rest = HandoffExchange(request, route, release, self)

    def start(self) -> Legs:
        """Return the encode legs, all at once; without any the first leg of the rest."""
        legs = tuple(self._encode_leg(share) for share in self._route.encode)
        return Legs(legs) if legs else self._rest.start()

    def on_answer(self, leg: Leg, answer: Answer) -> Step:
        """Take E's answer, or any other's; after the last encode leg the rest begins."""
        if leg.stage is Stage.ENCODE:
            return self._on_encoded(leg, answer)
        # A consumer's encoder cache may drop an embedding any time: nothing is believed of it afterwards.
        self._believed = {}
        if answer.status == 400 and NO_EMBEDS in answer.body and self._by_metadata and leg.rank == self._first:
            self._by_metadata = False
            return self._rest.start()
        return self._rest.on_answer(leg, answer)

    def pictures(self) -> Mapping[int, tuple[str, int]]:
        """Return what E said of the pictures, until the consumer answered."""
        return self._believed

    def on_exit(self, accepted: bool) -> tuple[Leg, ...]:
        """Return the release of P's blocks, unless D accepted them."""
        return self._rest.on_exit(accepted)

    # --- what the legs carry ---

    def whole(self) -> Content:
        """Return the request for the rank that serves all of it."""
        return self._content(lambda body: dump(self._with_handles(body)))

    def prefill(self) -> Content:
        """Return the request for the rank that prefills and hands on."""
        return self._content(lambda body: dump(self._with_handles(prefill_body(body))))

    def handed_on(self, ticket: Ticket) -> Content:
        """Return the request for the rank that goes on with a ticket: it renders the prompt again, so it needs what
        P needed."""
        return self._content(lambda body: with_ticket(dump(body), ticket))

    @property
    def _first(self) -> Rank:
        return self._route.prefills

    def _content(self, finish: Callable[[dict[str, Any]], bytes]) -> Content:
        return Content(make=lambda: finish(self._pictures.put_back(self._request.body, self._parts())))

    def _parts(self) -> dict[int, dict[str, Any]]:
        parts = {}
        for i, key in enumerate(self._pictures.keys):
            found = self._encoded.get(i)
            if found is not None and found.metadata and self._by_metadata:
                parts[i] = {"type": EMBEDS, EMBEDS: found.metadata, "uuid": found.hash}
            else:
                parts[i] = media_part(self._pictures.part(self._request.body, i), key)
        return parts

    def _with_handles(self, body: dict[str, Any]) -> dict[str, Any]:
        handles = {found.hash: found.handle for found in self._encoded.values() if found.handle}
        return {**body, EC_FIELD: handles} if handles else body

    # --- encode legs ---

    def _encode_leg(self, share: EncodeShare) -> Leg:
        def make() -> bytes:
            pictures, body = self._pictures, self._request.body
            return dump(
                encode_body([media_part(pictures.part(body, i), pictures.keys[i]) for i in share.pictures], body)
            )

        return Leg(Stage.ENCODE, share.rank, CHAT_PATH, leg_headers(self._request, share.rank), b"", make=make)

    def _on_encoded(self, leg: Leg, answer: Answer) -> Step:
        if answer.status != 200:
            return refused(leg, answer)
        if failed(answer.body):
            return broken(leg, 'its engine failed while it encoded (finish_reason "error")')
        share = self._waiting.pop(leg.rank.address, None)
        if share is None:
            return broken(leg, "it answered twice")
        try:
            found = read_embeddings(answer.body, len(share.pictures))
        except ValueError as error:
            return broken(leg, f"its answer to an encode request is none: {error}")
        for i, embedding in zip(share.pictures, found, strict=True):
            self._encoded[i] = embedding
            self._believed[i] = self._pictures.keys[i] or embedding.hash, embedding.tokens
        return Legs(()) if self._waiting else self._rest.start()


class VllmEncodeProbe:
    """One picture, a data URI, encoded as a proof of life."""

    def __init__(self, picture: str, rank: Rank, headers: Headers) -> None:
        self._picture, self._rank = picture, rank
        self._headers = (*rank_headers(rank), *headers)

    def start(self) -> Legs:
        """Return the encode leg."""
        body = dump(encode_body([{"type": "image_url", "image_url": {"url": self._picture}}], {}))
        return Legs((Leg(Stage.ENCODE, self._rank, CHAT_PATH, self._headers, body),))

    def on_answer(self, leg: Leg, answer: Answer) -> Step:
        """Take the answer: a worker that publishes no embedding is no encoder."""
        if answer.status != 200:
            return refused(leg, answer)
        try:
            read_embeddings(answer.body, 1)
        except ValueError as error:
            return broken(leg, f"its answer to an encode request is none: {error}; start it as an ec_producer")
        return Reply(200, answer.body)

    def pictures(self) -> Mapping[int, tuple[str, int]]:
        """Return nothing: nobody asked for this picture."""
        return {}

    def on_exit(self, accepted: bool) -> tuple[Leg, ...]:
        """Return nothing."""
        return ()
