"""The state machine of every engine that hands KV on by `kv_transfer_params`: P first, then D with what P returned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from tercet.core.errors import RequestError
from tercet.core.fast_json import LONG_BYTES, Pieces, dumps, loads, spliced, spliced_pieces, split_object
from tercet.core.record import record
from tercet.core.route import Rank, Route
from tercet.core.stage import Stage
from tercet.dialects.early_end import TICKET_FIELD, early_answer
from tercet.dialects.protocol import Answer, Failure, Headers, Leg, Legs, Make, Reply, Step
from tercet.dialects.refusal import broken, gave_up, merged_reply, refused, worker_error
from tercet.dialects.request import ClientRequest, dump
from tercet.dialects.usage import CACHED, failed, prompt_details, read_usage

RANK_HEADER = "X-data-parallel-rank"
CACHED_FIELD = "remote_prefill_cached_tokens"
"""What P had cached of the prompt, in its ticket: a D that knows the field says so itself, in streams too."""
MISFIT_CODE = "ticket_mismatch"
GAVE_UP = ("error", "abort")
NO_ANSWER = "its answer to a prefill is no OpenAI answer"

PREFILL_PARAMS: dict[str, object] = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}

_OPENING = ord("{")
_JSON: Headers = (("Content-Type", "application/json"),)
_TICKET_KEY = b'"kv_transfer_params"'
_EMPTY = b" \t\r\n}"
_MARKED = "\0ticket"
_MARK = dumps(_MARKED)
_ASKED = dump(PREFILL_PARAMS)

Release = Callable[[ClientRequest, Route, dict[str, Any]], tuple[Leg, ...]]
"""(request, route, ticket) -> the leg that frees P's blocks, None when the ticket holds none."""


def rank_headers(rank: Rank) -> Headers:
    """Return the headers of everything that is sent to `rank`."""
    return _JSON if rank.rank is None else (*_JSON, (RANK_HEADER, str(rank.rank)))


def leg_headers(request: ClientRequest, rank: Rank) -> Headers:
    """Return the headers of a leg to `rank`."""
    return _JSON + request.headers if rank.rank is None else rank_headers(rank) + request.headers


def prefill_body(client: dict[str, Any]) -> dict[str, Any]:
    """Return the prefill leg's body for a client's: one token of one choice, and a ticket."""
    body = {key: value for key, value in client.items() if key not in ("stream_options", "best_of")}
    body.update(max_tokens=1, n=1, stream=False)
    if "max_completion_tokens" in body:
        body["max_completion_tokens"] = 1
    if _more_at_least(client):
        body["min_tokens"] = 1  # still: not to end at once
    body[TICKET_FIELD] = PREFILL_PARAMS
    return body


def prefill_json(request: ClientRequest) -> bytes:
    """Return the same as JSON, of a request without pictures: what stays as it is is copied, not written anew."""
    found = spliced(request.raw, _prefill_changes(request.body))
    return dump(prefill_body(request.body)) if found is None else found


def prefill_pieces(request: ClientRequest) -> Pieces:
    """Return the same of a long request: what stays as it is is not even copied."""
    found = spliced_pieces(request.raw, _prefill_changes(request.body))
    return [dump(prefill_body(request.body))] if found is None else found


def _more_at_least(client: Mapping[str, Any]) -> bool:
    """True when at least more tokens are wanted than P's one. Not when one at most is wanted, too: then P ends the
    answer, and is to refuse that as any engine would."""
    least, most = client.get("min_tokens"), client.get("max_completion_tokens")
    if not isinstance(least, int) or least <= 1:
        return False
    return (client.get("max_tokens") if most is None else most) != 1


def _prefill_changes(body: Mapping[str, Any]) -> dict[str, bytes | None]:
    changes: dict[str, bytes | None] = {"stream_options": None, "best_of": None}
    changes |= {"max_tokens": b"1", "n": b"1", "stream": b"false"}
    if "max_completion_tokens" in body:
        changes["max_completion_tokens"] = b"1"
    if _more_at_least(body):
        changes["min_tokens"] = b"1"
    changes[TICKET_FIELD] = _ASKED
    return changes


class Ticket:
    """What P handed on: `raw` to pass on verbatim, `params` to read. Few need reading, and a long prompt's holds
    thousands of numbers."""

    __slots__ = ("_params", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self._params: dict[str, Any] | None = None

    @property
    def params(self) -> dict[str, Any]:
        """What it says."""
        if self._params is None:
            self._params = loads(self.raw)
        return self._params

    def names(self, field: str) -> bool:
        """False when it surely says nothing of `field`: it need not be read for that."""
        return field.encode() in self.raw

    def counts(self, field: str) -> bool:
        """True when it gives a number for `field`."""
        return self.names(field) and isinstance(self.params.get(field), int)


def split_ticket(body: bytes) -> tuple[dict[str, Any], Ticket | None]:
    """Return P's answer without its ticket, and the ticket. Raises ValueError when the answer is no JSON object.

    The ticket's own text is kept: reading and writing it, or only reading over it, would cost more than all else that
    the router does about a request.
    """
    try:
        found = _cut(body)
        if found is not None:
            return found
        fields = split_object(body)
        raw = fields.pop(TICKET_FIELD, None)
        answer = {name: loads(value) for name, value in fields.items()}
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if raw is None or raw[:1] != b"{" or not raw[1:-1].strip():
        return answer, None
    return answer, Ticket(raw)


def _cut(body: bytes) -> tuple[dict[str, Any], Ticket] | None:
    """Return the same where the ticket is easily found: by its name and its braces. That the name was not part of some
    text shows when the rest is read, with a mark in the ticket's place; a brace in a text of the ticket would have it
    end too late, or too early."""
    start = body.find(b"{", body.find(_TICKET_KEY) + len(_TICKET_KEY))
    end, opened, closed = start, 0, 0
    while start > 0 and (before := end) >= 0 and (end := body.find(b"}", end) + 1):
        opened, closed = opened + body.count(b"{", before, end), closed + 1
        if opened == closed:
            try:
                answer = loads(b"%b%b%b" % (body[:start], _MARK, body[end:]))
            except ValueError:
                return None
            raw = body[start:end]
            texts = b"".join(raw.split(b'"')[1::2])
            if b"\\" in raw or b"{" in texts or b"}" in texts:
                return None
            if not isinstance(answer, dict) or answer.pop(TICKET_FIELD, None) != _MARKED or not raw[1:64].strip(_EMPTY):
                return None
            return answer, Ticket(raw)
    return None


def ticket_pictures(params: dict[str, Any]) -> dict[int, tuple[str, int]]:
    """Return (key, tokens) of the pictures that a ticket of the built-in engine names; empty for any other."""
    images = params.get("images")
    try:
        return {i: (str(image["key"]), int(image["length"])) for i, image in enumerate(images or ())}
    except (TypeError, LookupError, ValueError):
        return {}


def with_ticket(raw: bytes, ticket: Ticket) -> bytes:
    """Return a request's body, a JSON object without a ticket, with one."""
    return b"".join(pieces_with_ticket(raw, ticket))


def pieces_with_ticket(raw: bytes, ticket: Ticket) -> Pieces:
    """Return the same in pieces: a long prompt is not copied."""
    last = raw.rindex(b"}") - 1
    while raw[last] in b" \t\r\n":
        last -= 1
    comma = b"" if raw[last] == _OPENING else b","
    return [memoryview(raw)[: last + 1], comma, b'"kv_transfer_params":', ticket.raw, b"}"]


@record(frozen=True, slots=True)
class Content:
    """The body of a leg; `make` makes it when it is sent, where it holds pictures."""

    body: bytes = b""
    make: Make | None = None


class Contents(Protocol):
    """One request as each kind of leg has it."""

    def whole(self) -> Content:
        """Return it for the rank that serves all of it."""
        ...

    def prefill(self) -> Content:
        """Return it for the rank that prefills and hands on."""
        ...

    def handed_on(self, ticket: Ticket) -> Content:
        """Return it for the rank that goes on with a ticket."""
        ...


class HandoffExchange:
    """One request on one route, with or without a prefill leg. `contents` is what its legs carry; None for a request
    without pictures: it goes as it came. What is long is made each time it is sent, and kept by nobody then."""

    __slots__ = ("_contents", "_details", "_pictures", "_release", "_request", "_route", "_ticket")

    def __init__(
        self, request: ClientRequest, route: Route, release: Release, contents: Contents | None = None
    ) -> None:
        self._request, self._route, self._release, self._contents = request, route, release, contents
        self._ticket: Ticket | None = None
        self._details: dict[str, int] = {}
        self._pictures: dict[int, tuple[str, int]] = {}

    def start(self) -> Legs:
        """Return the prefill leg, or the only leg when D does it all."""
        request, prefill, contents = self._request, self._route.prefill, self._contents
        if prefill is None:
            return self._whole()
        body = b""
        make: Make | None = None
        if contents is not None:
            content = contents.prefill()
            body, make = content.body, content.make
        elif len(request.raw) <= LONG_BYTES:
            body = prefill_json(request)
        else:
            make = partial(prefill_pieces, request)
        return Legs((Leg(Stage.PREFILL, prefill, request.path, leg_headers(request, prefill), body, False, make),))

    def pictures(self) -> Mapping[int, tuple[str, int]]:
        """Return the pictures that P's ticket names."""
        return self._pictures

    def on_answer(self, leg: Leg, answer: Answer) -> Step:
        """Take P's answer, or D's when it is not streamed or an error."""
        if answer.status != 200:
            return _not_ok(leg, answer)
        if leg.stage is Stage.PREFILL:
            return self._prefilled(leg, answer)
        if failed(answer.body):
            return gave_up(leg, answer.body)
        return merged_reply(leg, answer, self._details)

    def on_exit(self, accepted: bool) -> tuple[Leg, ...]:
        """Return the release of P's blocks, unless D accepted them or there are none."""
        ticket, self._ticket = self._ticket, None
        if ticket is None or accepted:
            return ()
        return self._release(self._request, self._route, ticket.params)

    def _prefilled(self, leg: Leg, answer: Answer) -> Step:
        try:
            data, ticket = split_ticket(answer.body)
            choices = data["choices"]
            finish = choices[0]["finish_reason"]
            if finish in GAVE_UP or (len(choices) > 1 and failed(answer.body)):
                return gave_up(leg, answer.body)
        except (ValueError, LookupError, TypeError):
            return gave_up(leg, answer.body) if failed(answer.body) else broken(leg, NO_ANSWER)
        self._ticket, usage = ticket, data.get("usage")
        answer.told = read_usage(usage)
        self._details = prompt_details(usage)
        if CACHED in self._details and ticket is not None and ticket.counts(CACHED_FIELD):
            del self._details[CACHED]
        request, contents = self._request, self._contents
        if request.one_choice and (finish != "length" or request.max_tokens == 1):
            try:
                return Reply(200, *early_answer(data, request), early=True)
            except (ValueError, TypeError, AttributeError):
                return broken(leg, NO_ANSWER)
        if ticket is None:
            # Nothing to hand on, yet more is wanted (another choice): D computes the prompt itself.
            return self._whole()
        if contents is None:
            if len(request.raw) <= LONG_BYTES:
                return self._decode(with_ticket(request.raw, ticket))
            return self._decode(b"", partial(_pieces, request, ticket))
        if ticket.names("images"):
            self._pictures = ticket_pictures(ticket.params)
        content = contents.handed_on(ticket)
        return self._decode(content.body, content.make)

    def _whole(self) -> Legs:
        """D does it all."""
        request, contents = self._request, self._contents
        if contents is not None:
            content = contents.whole()
            return self._decode(content.body, content.make)
        return self._decode(request.raw) if len(request.raw) <= LONG_BYTES else self._decode(b"", lambda: request.raw)

    def _decode(self, body: bytes, make: Make | None = None) -> Legs:
        request, rank = self._request, self._route.decode
        details = self._details if request.include_usage else None
        headers = leg_headers(request, rank)
        leg = Leg(Stage.DECODE, rank, request.path, headers, body, request.stream, make, "POST", None, details)
        return Legs((leg,))


def _pieces(request: ClientRequest, ticket: Ticket) -> Pieces:
    return pieces_with_ticket(request.raw, ticket)


def _not_ok(leg: Leg, answer: Answer) -> Step:
    error = worker_error(leg.rank, answer)
    if error.code == MISFIT_CODE:
        message = f"{leg.rank.label} does not accept the blocks it was handed: {error.message}"
        return Failure(RequestError(502, message, code=MISFIT_CODE), leg.rank, retry=True, misfit=True)
    return refused(leg, answer)
