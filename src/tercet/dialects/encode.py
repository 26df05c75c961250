"""The state machine of a request with pictures: encode legs side by side, then what is done with any request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tercet.core.route import Rank, Route
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
    worker_error,
)
from tercet.dialects.pictures import EMPTY_REFERENCE, Pictures, reference
from tercet.dialects.protocol import Answer, Failure, Headers, Leg, Legs, PicturesNeeded, Reply, Step
from tercet.dialects.refusal import broken
from tercet.dialects.request import ClientRequest, dump

ENCODE_PATH = "/v1/encode"
RELEASE_PATH = "/ec/release"
TICKETS_FIELD = "ec_transfer_params"
NEEDED_CODE = "images_needed"


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """What an encode rank said of a picture; `ticket` is passed on as it came."""

    rank: Rank
    key: str
    tokens: int
    ticket: dict[str, Any]


def encode_leg(request: ClientRequest, pictures: Pictures, rank: Rank, indices: tuple[int, ...], readers: int) -> Leg:
    """Return the leg that has `rank` encode these pictures for so many readers."""

    def make() -> bytes:
        images = [{"index": i, "url": pictures.url(i)} for i in indices]
        return dump({**_model(request.body), "readers": readers, "images": images})

    return Leg(Stage.ENCODE, rank, ENCODE_PATH, leg_headers(request, rank), b"", make=make)


def release_leg(rank: Rank, ticket_ids: list[str], headers: Headers) -> Leg:
    """Return the request that ends the leases of these tickets at once, whoever may still read."""
    return Leg(Stage.ENCODE, rank, RELEASE_PATH, headers, dump({"ticket_ids": ticket_ids}))


def read_encoded(rank: Rank, body: bytes) -> dict[int, EncodedPicture]:
    """Return what an encode rank answered, by index. Raises ValueError when it is no such answer."""
    try:
        return {
            int(item["index"]): EncodedPicture(rank, str(item["key"]), int(item["tokens"]), dict(item["ticket"]))
            for item in json.loads(body)["data"]
        }
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError("no list of encoded pictures") from error


class EncodeExchange:
    """One request with pictures on one route.

    P and D get names in the pictures' places, and tickets for those that were encoded for them; with a ticket of the
    whole prompt D needs neither. Tickets that nobody accepted are released.
    """

    def __init__(self, request: ClientRequest, route: Route, release: Release) -> None:
        assert request.pictures is not None
        self._request, self._route = request, route
        self._pictures = request.pictures
        self._waiting = {share.rank.address: share.pictures for share in route.encode}
        self._encoded: dict[int, EncodedPicture] = {}
        self._held: dict[Rank, list[str]] = {}
        self._rest = HandoffExchange(request, route, release, self)

    def start(self) -> Legs:
        """Return the encode legs, all at once; without any the first leg of the rest."""
        readers = 1 if self._route.prefill is None else 2
        legs = [
            encode_leg(self._request, self._pictures, share.rank, share.pictures, readers)
            for share in self._route.encode
        ]
        return Legs(tuple(legs)) if legs else self._rest.start()

    def on_answer(self, leg: Leg, answer: Answer) -> Step:
        """Take E's answer, or any other's; after the last encode leg the rest begins."""
        if leg.stage is Stage.ENCODE:
            return self._on_encoded(leg, answer)
        if answer.status == 409 and (error := worker_error(leg.rank, answer)).code == NEEDED_CODE:
            return PicturesNeeded(leg.rank, self._indices(error.param))
        return self._rest.on_answer(leg, answer)

    def pictures(self) -> Mapping[int, tuple[str, int]]:
        """Return what E, and P's ticket, say of the pictures, and what was known before."""
        named = {picture.index: (picture.key, picture.tokens) for picture in self._route.named}
        encoded = {i: (picture.key, picture.tokens) for i, picture in self._encoded.items()}
        return {**self._rest.pictures(), **named, **encoded}

    def on_exit(self, accepted: bool) -> tuple[Leg, ...]:
        """Return the releases of P's blocks and of E's tickets, unless D accepted what was handed on."""
        held, self._held = self._held, {}
        releases = self._rest.on_exit(accepted)
        if accepted:
            return releases
        return releases + tuple(release_leg(rank, ids, leg_headers(self._request, rank)) for rank, ids in held.items())

    # --- what the legs carry ---

    def whole(self) -> Content:
        """Return the request for the rank that serves all of it."""
        return self._content(dict)

    def prefill(self) -> Content:
        """Return the request for the rank that prefills and hands on."""
        return self._content(prefill_body)

    def handed_on(self, ticket: Ticket) -> Content:
        """Return the request for the rank that goes on with a ticket of the whole prompt: no picture is sent twice."""
        empty = {i: EMPTY_REFERENCE for i in range(len(self._pictures))}
        return Content(with_ticket(dump(self._pictures.put_back(self._request.body, empty)), ticket))

    def _content(self, finish: Any) -> Content:
        route, tickets = self._route, [None] * len(self._pictures)
        parts = {picture.index: reference(picture.key, picture.tokens) for picture in route.named}
        for i, picture in self._encoded.items():
            parts[i] = reference(picture.key, picture.tokens)

        def make() -> bytes:
            body = finish(self._pictures.put_back(self._request.body, parts))
            if self._encoded:
                given = [self._encoded[i].ticket if i in self._encoded else None for i in range(len(tickets))]
                body[TICKETS_FIELD] = {"images": given}
            return dump(body)

        return Content(make=make) if route.inline else Content(make())

    # --- answers ---

    def _on_encoded(self, leg: Leg, answer: Answer) -> Step:
        if answer.status != 200:
            if 400 <= answer.status < 500:
                return Reply(answer.status, answer.body, answer.headers.get("content-type", "application/json"))
            return Failure(worker_error(leg.rank, answer), leg.rank, retry=True)
        try:
            encoded = read_encoded(leg.rank, answer.body)
            ids = [str(picture.ticket["ticket_id"]) for picture in encoded.values()]
        except (ValueError, LookupError):
            return broken(leg, "its answer is no list of encoded pictures")
        self._held[leg.rank] = ids
        if set(encoded) != set(self._waiting.pop(leg.rank.address, ())):
            return broken(leg, f"it was asked for other pictures than {sorted(encoded)}")
        self._encoded |= encoded
        return Legs(()) if self._waiting else self._rest.start()

    def _indices(self, param: str | None) -> tuple[int, ...]:
        """Read which pictures a rank lacks; all of them when it doesn't say so that one can tell."""
        count = len(self._pictures)
        try:
            indices = tuple(sorted({int(text) for text in (param or "").split(",")}))
        except ValueError:
            indices = ()
        return indices if indices and indices[0] >= 0 and indices[-1] < count else tuple(range(count))


class EncodeProbe:
    """One picture, a data URI, encoded as a proof of life; its ticket is released at once."""

    def __init__(self, picture: str, rank: Rank, headers: Headers) -> None:
        self._picture, self._rank = picture, rank
        self._headers = (*rank_headers(rank), *headers)
        self._ids: list[str] = []

    def start(self) -> Legs:
        """Return the encode leg."""
        body = dump({"readers": 1, "images": [{"index": 0, "url": self._picture}]})
        return Legs((Leg(Stage.ENCODE, self._rank, ENCODE_PATH, self._headers, body),))

    def on_answer(self, leg: Leg, answer: Answer) -> Step:
        """Take the answer."""
        if answer.status != 200:
            return Failure(worker_error(leg.rank, answer), leg.rank, retry=False)
        try:
            self._ids = [str(picture.ticket["ticket_id"]) for picture in read_encoded(leg.rank, answer.body).values()]
        except (ValueError, LookupError):
            return broken(leg, "its answer is no list of encoded pictures")
        return Reply(200, answer.body)

    def pictures(self) -> Mapping[int, tuple[str, int]]:
        """Return nothing: nobody asked for this picture."""
        return {}

    def on_exit(self, accepted: bool) -> tuple[Leg, ...]:
        """Return the release."""
        ids, self._ids = self._ids, []
        return (release_leg(self._rank, ids, self._headers),) if ids else ()


def _model(body: Mapping[str, Any]) -> dict[str, Any]:
    model = body.get("model")
    return {"model": model} if isinstance(model, str) and model else {}
