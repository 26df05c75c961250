"""The built-in engine's encode legs: E hands on a ticket for each picture, and P and D get names in their places."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tercet.core.errors import RequestError
from tercet.core.fast_json import loads_answer
from tercet.core.route import EncodeShare, Rank, Route
from tercet.core.stage import Mode, Stage
from tercet.dialects.encode import EncodeExchange, EncodeProbe
from tercet.dialects.handoff import Content, Release, Ticket, leg_headers, prefill_body, with_ticket
from tercet.dialects.pictures import EMPTY_REFERENCE, reference
from tercet.dialects.protocol import Answer, Headers, Leg, PicturesNeeded, Reply, Step
from tercet.dialects.refusal import worker_error
from tercet.dialects.request import ClientRequest, dump

ENCODE_PATH = "/v1/encode"
RELEASE_PATH = "/ec/release"
TICKETS_FIELD = "ec_transfer_params"
NEEDED_CODE = "images_needed"
BLIND_CODE = "encodes_not"
"""Of a worker that was sent a picture, and lacks the stage encode."""
APART = {Mode.AGGREGATED: Mode.EPD, Mode.REPLICATED: Mode.EPPD, Mode.PD: Mode.EPD, Mode.PPD: Mode.EPPD}
"""The mode that is like another, but for its encode workers."""


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """What an encode rank said of a picture; `ticket` is passed on as it came."""

    rank: Rank
    key: str
    tokens: int
    ticket: dict[str, Any]
    ticket_id: str


def release_leg(rank: Rank, ticket_ids: list[str], headers: Headers) -> Leg:
    """Return the request that ends the leases of these tickets at once, whoever may still read."""
    return Leg(Stage.ENCODE, rank, RELEASE_PATH, headers, dump({"ticket_ids": ticket_ids}))


def read_encoded(rank: Rank, body: bytes) -> dict[int, EncodedPicture]:
    """Return what an encode rank answered, by index. Raises ValueError when it is no such answer."""
    try:
        return {int(item["index"]): _read_picture(rank, item) for item in loads_answer(body)["data"]}
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError("no list of encoded pictures") from error


def _read_picture(rank: Rank, item: dict[str, Any]) -> EncodedPicture:
    ticket = dict(item["ticket"])
    return EncodedPicture(rank, str(item["key"]), int(item["tokens"]), ticket, str(ticket["ticket_id"]))


class TercetEncodeExchange(EncodeExchange[EncodedPicture]):
    """One request with pictures on one route.

    P and D get names in the pictures' places, and tickets for those that were encoded for them; with a ticket of the
    whole prompt D needs neither. Tickets that nobody accepted are released.
    """

    def __init__(self, request: ClientRequest, route: Route, release: Release) -> None:
        super().__init__(request, route, release)
        self._held: dict[Rank, list[str]] = {}

    def encode_leg(self, share: EncodeShare) -> Leg:
        """Return the leg that has a rank encode its pictures for all who will read them."""
        model = self._request.body.get("model")
        head = {"model": model} if isinstance(model, str) and model else {}
        readers = 1 if self._route.prefill is None else 2

        def make() -> bytes:
            pictures = self._pictures
            images = [{"index": i, "where": pictures.where(i), "url": pictures.url(i)} for i in share.pictures]
            return dump({**head, "readers": readers, "images": images})

        return Leg(Stage.ENCODE, share.rank, ENCODE_PATH, leg_headers(self._request, share.rank), b"", make=make)

    def read(self, rank: Rank, body: bytes, share: EncodeShare | None) -> dict[int, EncodedPicture]:
        """Return E's pictures, and note what it holds for them."""
        found = read_encoded(rank, body)
        self._held[rank] = [picture.ticket_id for picture in found.values()]
        return found

    def on_consumed(self, leg: Leg, answer: Answer) -> Step:
        """Take the answer of P or D, who may lack pictures that they were told the names of."""
        if answer.status in (400, 409):
            error = worker_error(leg.rank, answer)
            if error.code == NEEDED_CODE:
                return PicturesNeeded(leg.rank, self._indices(error.param))
            if error.code == BLIND_CODE:
                return _blind(self._route.mode, leg.rank, error.param)
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

    def _content(self, finish: Callable[[dict[str, Any]], dict[str, Any]]) -> Content:
        parts = {picture.index: reference(picture.key, picture.tokens) for picture in self._route.named}
        for i, picture in self._encoded.items():
            parts[i] = reference(picture.key, picture.tokens)

        def make() -> bytes:
            body = finish(self._pictures.put_back(self._request.body, parts))
            if encoded := self._encoded:
                given = [encoded[i].ticket if i in encoded else None for i in range(len(self._pictures))]
                body[TICKETS_FIELD] = {"images": given}
            return dump(body)

        return Content(make=make) if self._route.inline else Content(make())

    def _indices(self, param: str | None) -> tuple[int, ...]:
        """Read which pictures a rank lacks; all of them when it doesn't say so that one can tell."""
        count = len(self._pictures)
        try:
            indices = tuple(sorted({int(text) for text in (param or "").split(",")}))
        except ValueError:
            indices = ()
        return indices if indices and indices[0] >= 0 and indices[-1] < count else tuple(range(count))


def _blind(mode: Mode, rank: Rank, param: str | None) -> Reply:
    """Return the refusal of a picture that the mode had a rank encode which can't: that is not the client's fault."""
    why, instead = f"in mode {mode} whoever prefills encodes pictures", f"take mode {APART.get(mode)}, in which E does"
    if mode.encodes_apart:
        why, instead = "no encode worker answers, so that whoever prefills encodes", "set encode_fallback to error"
    message = f"{why}, and {rank.label} lacks the stage encode: {instead}, or start {rank.label} with that stage"
    return Reply(501, dump(RequestError(501, message, code=BLIND_CODE, param=param).body()))


class TercetEncodeProbe(EncodeProbe):
    """Its ticket is released at once."""

    def __init__(self, picture: str, rank: Rank, headers: Headers) -> None:
        super().__init__(picture, rank, headers)
        self._ids: list[str] = []

    def leg(self) -> Leg:
        """Return the encode leg."""
        body = dump({"readers": 1, "images": [{"index": 0, "url": self._picture}]})
        return Leg(Stage.ENCODE, self._rank, ENCODE_PATH, self._headers, body)

    def read(self, rank: Rank, body: bytes) -> None:
        """Note what E holds for it."""
        self._ids = [picture.ticket_id for picture in read_encoded(rank, body).values()]

    def on_exit(self, accepted: bool) -> tuple[Leg, ...]:
        """Return the release."""
        ids, self._ids = self._ids, []
        return (release_leg(self._rank, ids, self._headers),) if ids else ()
