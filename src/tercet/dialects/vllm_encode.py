"""vLLM's encode legs: one request an encoder, media only; the consumer finds each embedding by its hash.

Facts read in vllm 0.32.0: `collect_ec_item_metadata` (ec_connector/utils.py) makes the answer, `parse_image_embeds`
(renderers/chat_utils.py) takes metadata in a picture's place and needs `--enable-mm-embeds`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tercet.core.fast_json import loads_answer
from tercet.core.route import EncodeShare, Rank, Route
from tercet.core.stage import Stage
from tercet.dialects.encode import EncodeExchange, EncodeProbe
from tercet.dialects.handoff import Content, Release, Ticket, leg_headers, prefill_body, with_ticket
from tercet.dialects.pictures import EMBEDS
from tercet.dialects.protocol import Answer, Leg, Step
from tercet.dialects.request import CHAT_PATH, ClientRequest, dump
from tercet.dialects.usage import read_usage

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
        data = loads_answer(body)
        tokens = max(1, _picture_tokens(data.get("usage")) // count)
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


def _picture_tokens(usage: Any) -> int:
    """Return the tokens of all pictures, or those of the whole request where vLLM doesn't count them apart (without
    `--enable-prompt-tokens-details`)."""
    counted = read_usage(usage)
    if counted is None:
        return 0
    details = usage.get("prompt_tokens_details")
    media = details.get("multimodal_tokens") if isinstance(details, dict) else None
    images = media.get("image") if isinstance(media, dict) else None
    return images if isinstance(images, int) else counted.prompt_tokens


class VllmEncodeExchange(EncodeExchange[Embedding]):
    """One request with pictures on one route.

    P and D get a picture's metadata in its place where E named some, else the picture itself: they find its embedding
    by its hash. Nothing is held for a request on E: there is nothing to release there.
    """

    def __init__(self, request: ClientRequest, route: Route, release: Release) -> None:
        super().__init__(request, route, release)
        self._believed: dict[int, tuple[str, int]] = {}
        self._by_metadata = not any(request.body.get(name) for name in PROCESSING)

    def encode_leg(self, share: EncodeShare) -> Leg:
        """Return the leg that has a rank encode its pictures, and nothing else."""

        def make() -> bytes:
            pictures, body = self._pictures, self._request.body
            return dump(
                encode_body([media_part(pictures.part(body, i), pictures.keys[i]) for i in share.pictures], body)
            )

        return Leg(Stage.ENCODE, share.rank, CHAT_PATH, leg_headers(self._request, share.rank), b"", make=make)

    def read(self, rank: Rank, body: bytes, share: EncodeShare | None) -> dict[int, Embedding]:
        """Return what E published, and believe it for now."""
        if share is None:
            raise ValueError("it has answered before")
        found = dict(zip(share.pictures, read_embeddings(body, len(share.pictures)), strict=True))
        self._believed |= {i: (self._pictures.keys[i] or item.hash, item.tokens) for i, item in found.items()}
        return found

    def on_consumed(self, leg: Leg, answer: Answer) -> Step:
        """Take the answer of P or D; one that takes pictures only is asked once more with them."""
        # A consumer's encoder cache may drop an embedding any time: nothing is believed of it afterwards.
        self._believed = {}
        if answer.status == 400 and NO_EMBEDS in answer.body and self._by_metadata and leg.rank == self._route.prefills:
            self._by_metadata = False
            return self._rest.start()
        return self._rest.on_answer(leg, answer)

    def pictures(self) -> Mapping[int, tuple[str, int]]:
        """Return what E said of the pictures, until the consumer answered."""
        return self._believed

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


class VllmEncodeProbe(EncodeProbe):
    """A worker that publishes no embedding is no encoder."""

    def leg(self) -> Leg:
        """Return the encode leg."""
        body = dump(encode_body([{"type": "image_url", "image_url": {"url": self._picture}}], {}))
        return Leg(Stage.ENCODE, self._rank, CHAT_PATH, self._headers, body)

    def read(self, rank: Rank, body: bytes) -> None:
        """Look for the embedding."""
        try:
            read_embeddings(body, 1)
        except ValueError as error:
            raise ValueError(f"{error}; start it as an ec_producer") from error
