"""The state machine of a request with pictures: encode legs side by side, then what is done with any request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from tercet.core.route import EncodeShare, Rank, Route
from tercet.core.stage import Stage
from tercet.dialects.handoff import Content, HandoffExchange, Release, Ticket, rank_headers
from tercet.dialects.pictures import Pictures
from tercet.dialects.protocol import Answer, Headers, Leg, Legs, Reply, Step
from tercet.dialects.refusal import broken, gave_up, refused
from tercet.dialects.request import ClientRequest
from tercet.dialects.usage import failed

Encoded = TypeVar("Encoded")
"""What an engine's encoder says of one picture."""


class EncodeExchange(Generic[Encoded]):
    """One request with pictures on one route. What the legs carry, and how E's answers read, is each engine's own."""

    def __init__(self, request: ClientRequest, route: Route, release: Release) -> None:
        assert request.pictures is not None
        self._request, self._route = request, route
        self._pictures: Pictures = request.pictures
        self._waiting = {share.rank.address: share for share in route.encode}
        self._encoded: dict[int, Encoded] = {}
        self._rest = HandoffExchange(request, route, release, self)

    def start(self) -> Legs:
        """Return the encode legs, all at once; without any the first leg of the rest."""
        legs = tuple(self.encode_leg(share) for share in self._route.encode)
        return Legs(legs) if legs else self._rest.start()

    def on_answer(self, leg: Leg, answer: Answer) -> Step:
        """Take E's answer, or any other's; after the last encode leg the rest begins."""
        return self._on_encoded(leg, answer) if leg.stage is Stage.ENCODE else self.on_consumed(leg, answer)

    def _on_encoded(self, leg: Leg, answer: Answer) -> Step:
        if answer.status != 200:
            return refused(leg, answer)
        if failed(answer.body):
            return gave_up(leg, answer.body)
        share = self._waiting.pop(leg.rank.address, None)
        try:
            # Read even when nobody waits for it any more: it may name what is to be released.
            found = self.read(leg.rank, answer.body, share)
        except ValueError as error:
            return broken(leg, f"its answer to an encode request is none: {error}")
        if share is None or set(found) != set(share.pictures):
            return broken(leg, f"it was asked for other pictures than {sorted(found)}")
        self._encoded |= found
        return Legs(()) if self._waiting else self._rest.start()

    # --- each engine's own ---

    def encode_leg(self, share: EncodeShare) -> Leg:
        """Return the leg that has a rank encode its share of the pictures."""
        raise NotImplementedError

    def read(self, rank: Rank, body: bytes, share: EncodeShare | None) -> dict[int, Encoded]:
        """Return what an encode rank answered, by the index of a picture; `share` is what it was asked for, None when
        it has answered before. Raises ValueError when it is no such answer."""
        raise NotImplementedError

    def on_consumed(self, leg: Leg, answer: Answer) -> Step:
        """Take the answer of P or D."""
        return self._rest.on_answer(leg, answer)

    def pictures(self) -> Mapping[int, tuple[str, int]]:
        """Return (key, tokens) of the pictures, by index, as far as workers named them."""
        raise NotImplementedError

    def on_exit(self, accepted: bool) -> tuple[Leg, ...]:
        """Return the release of P's blocks, unless D accepted them."""
        return self._rest.on_exit(accepted)

    def whole(self) -> Content:
        """Return the request for the rank that serves all of it."""
        raise NotImplementedError

    def prefill(self) -> Content:
        """Return the request for the rank that prefills and hands on."""
        raise NotImplementedError

    def handed_on(self, ticket: Ticket) -> Content:
        """Return the request for the rank that goes on with a ticket of the whole prompt."""
        raise NotImplementedError


class EncodeProbe:
    """One picture, a data URI, encoded as a proof of life."""

    def __init__(self, picture: str, rank: Rank, headers: Headers) -> None:
        self._picture, self._rank = picture, rank
        self._headers = (*rank_headers(rank), *headers)

    def start(self) -> Legs:
        """Return the encode leg."""
        return Legs((self.leg(),))

    def on_answer(self, leg: Leg, answer: Answer) -> Step:
        """Take the answer."""
        if answer.status != 200:
            return refused(leg, answer)
        try:
            self.read(leg.rank, answer.body)
        except ValueError as error:
            return broken(leg, f"its answer to an encode request is none: {error}")
        return Reply(200, answer.body)

    def pictures(self) -> Mapping[int, tuple[str, int]]:
        """Return nothing: nobody asked for this picture."""
        return {}

    def on_exit(self, accepted: bool) -> tuple[Leg, ...]:
        """Return the release of what is held for it: nothing."""
        return ()

    # --- each engine's own ---

    def leg(self) -> Leg:
        """Return the request for this picture."""
        raise NotImplementedError

    def read(self, rank: Rank, body: bytes) -> None:
        """Take what the rank answered. Raises ValueError when it is no such answer."""
        raise NotImplementedError
