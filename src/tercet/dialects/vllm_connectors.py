"""vLLM's other KV connectors than NIXL, and prompts tokenised once: each a wrapper around an exchange.

Mooncake (vllm 0.32.0, mooncake_connector.py): the router makes the transfer's id, and asks P's bootstrap server
(`GET /query`: {dp_rank: {engine_id, worker_addr}}) which engine holds it. P2P-NCCL: both legs carry P's and D's address
in their request id, and nothing else.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from tercet.core.fast_json import loads_answer
from tercet.core.route import Rank, Route
from tercet.core.stage import Stage
from tercet.dialects.early_end import TICKET_FIELD
from tercet.dialects.handoff import CACHED_FIELD, PREFILL_PARAMS
from tercet.dialects.protocol import Answer, Exchange, Leg, Legs, Make, Step
from tercet.dialects.refusal import broken
from tercet.dialects.request import ClientRequest, dump
from tercet.dialects.usage import read_usage

CONNECTORS = ("nixl", "mooncake", "p2p-nccl")
DEFAULT_BOOTSTRAP_PORT = 8998
DEFAULT_KV_PORTS = {"P": 21001, "D": 22001}
"""Those of vLLM's own P2P-NCCL example."""

_PORT = "URL#bootstrap=PORT"
"""How the router is told where a bootstrap server is. Its address is not for clients, who hear of failures, too."""
_ASKED = b'"kv_transfer_params":' + dump(PREFILL_PARAMS)
"""As `prefill_body` is written. In a JSON string its quotes would be escaped, so the text stands nowhere else."""


class Wrapped:
    """An exchange that passes everything on to `inner`, and changes every leg by `changed`."""

    def __init__(self, inner: Exchange) -> None:
        self._inner = inner

    def start(self) -> Legs:
        """Return the first legs, changed."""
        return self.stepped(self._inner.start())

    def on_answer(self, leg: Leg, answer: Answer) -> Step:
        """Pass an answer on."""
        return self.next(self._inner.on_answer(leg, answer))

    def pictures(self) -> Mapping[int, tuple[str, int]]:
        """Return what the inner exchange knows."""
        return self._inner.pictures()

    def on_exit(self, accepted: bool) -> tuple[Leg, ...]:
        """Return the inner exchange's releases."""
        return self._inner.on_exit(accepted)

    def next(self, step: Step) -> Step:
        """Return a step with its legs changed."""
        return self.stepped(step) if isinstance(step, Legs) else step

    def stepped(self, legs: Legs) -> Legs:
        """Return legs, changed."""
        return Legs(tuple(self.changed(leg) for leg in legs.legs))

    def changed(self, leg: Leg) -> Leg:
        """Return what is sent in a leg's place."""
        return leg


class MooncakeExchange(Wrapped):
    """Beside the prefill leg P's bootstrap server is asked for its engine; of both comes the ticket that P itself
    doesn't write."""

    def __init__(self, inner: Exchange, bootstrap: str) -> None:
        super().__init__(inner)
        self._bootstrap = bootstrap
        self._transfer = secrets.token_hex(16)
        self._prefilled: tuple[Leg, Answer] | None = None
        self._engines: dict[str, Any] | None = None

    def stepped(self, legs: Legs) -> Legs:
        """Return legs, changed, with the question beside a prefill."""
        sent = super().stepped(legs).legs
        prefill = next((leg for leg in sent if leg.stage is Stage.PREFILL), None)
        if prefill is None:
            return Legs(sent)
        ask = Leg(Stage.PREFILL, prefill.rank, "/query", (), b"", method="GET", base=self._bootstrap)
        return Legs((*sent, ask))

    def changed(self, leg: Leg) -> Leg:
        """Return a prefill leg that names the transfer."""
        params = {"do_remote_decode": True, "do_remote_prefill": False, "transfer_id": self._transfer}
        return with_params(leg, params) if leg.stage is Stage.PREFILL else leg

    def on_answer(self, leg: Leg, answer: Answer) -> Step:
        """Take an answer; the decode leg goes out when P's and that of its bootstrap server are there."""
        if leg.stage is not Stage.PREFILL:
            return super().on_answer(leg, answer)
        if leg.method == "GET":
            try:
                self._engines = dict(loads_answer(answer.body))
            except (ValueError, TypeError):
                return broken(leg, f"its bootstrap server ({_PORT}) answered {answer.status}, no engines")
        elif answer.status != 200:
            return super().on_answer(leg, answer)
        else:
            self._prefilled = leg, answer
        if self._prefilled is None or self._engines is None:
            return Legs(())
        leg, answer = self._prefilled
        try:
            engine = str(self._engines[str(leg.rank.rank or 0)]["engine_id"])
            data = loads_answer(answer.body)
            unfinished = data["choices"][0]["finish_reason"] == "length"
            usage = read_usage(data.get("usage"))
        except (ValueError, LookupError, TypeError):
            return broken(leg, f"its bootstrap server ({_PORT}) doesn't know this rank, or it gave no answer")
        # P holds blocks only of a prompt whose answer was cut off.
        ticket: dict[str, object] = {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_bootstrap_addr": self._bootstrap,
            "remote_engine_id": engine,
            "transfer_id": self._transfer,
        }
        if usage is not None and usage.cached_tokens is not None:
            ticket[CACHED_FIELD] = usage.cached_tokens
        data[TICKET_FIELD] = ticket if unfinished else None
        return super().on_answer(leg, Answer(200, answer.headers, dump(data)))


class P2pExchange(Wrapped):
    """P pushes to D as the request id says, which both legs share."""

    def __init__(self, inner: Exchange, prefill: str, decode: str) -> None:
        super().__init__(inner)
        self._name = f"___prefill_addr_{prefill}___decode_addr_{decode}_{secrets.token_hex(16)}"

    def changed(self, leg: Leg) -> Leg:
        """Return a leg under the common name, without a ticket."""
        if leg.stage is Stage.ENCODE:
            return leg
        others = tuple((name, value) for name, value in leg.headers if name.lower() != "x-request-id")
        leg = replace(leg, headers=(*others, ("X-Request-Id", self._name)))
        return with_params(leg, None) if leg.stage is Stage.PREFILL else leg


class TokenisedOnce(Wrapped):
    """P says which tokens the prompt is, and D takes them; the client sees nothing of it.

    Not for requests that ask for token ids themselves, nor for those with pictures, whose prompt D must render.
    """

    def changed(self, leg: Leg) -> Leg:
        """Return a prefill leg that asks for the prompt's tokens."""
        if leg.stage is not Stage.PREFILL or leg.method == "GET":
            return leg
        return edited(leg, lambda body: body[:-1] + b',"return_token_ids":true}')

    def on_answer(self, leg: Leg, answer: Answer) -> Step:
        """Move the tokens from P's answer into its ticket."""
        if leg.stage is Stage.PREFILL and leg.method == "POST" and answer.status == 200:
            # Where it is no answer the inner exchange says what is wrong with it.
            with suppress(ValueError, LookupError, TypeError, AttributeError):
                answer = Answer(200, answer.headers, _moved(loads_answer(answer.body)))
        return super().on_answer(leg, answer)


def _moved(data: dict[str, Any]) -> bytes:
    ids = data.pop("prompt_token_ids", None)
    for choice in data["choices"]:
        ids = choice.pop("prompt_token_ids", None) or ids
        choice.pop("token_ids", None)
    ticket = data.get(TICKET_FIELD)
    if isinstance(ticket, dict) and ids:
        ticket["prompt_token_ids"] = ids
    return dump(data)


def tokenises_once(request: ClientRequest) -> bool:
    """True where D may be told the prompt's tokens: a text of one prompt whose answer holds no token ids."""
    prompt = request.body.get("prompt")
    plain = request.chat or isinstance(prompt, str)
    asks = any(request.body.get(name) for name in ("return_token_ids", "return_tokens_as_token_ids", "echo"))
    return plain and request.pictures is None and not asks


def with_params(leg: Leg, params: Mapping[str, object] | None) -> Leg:
    """Return a prefill leg that asks for another ticket, or none."""
    new = b'"kv_transfer_params":' + (b"null" if params is None else dump(dict(params)))

    return edited(leg, lambda body: body.replace(_ASKED, new, 1))


def edited(leg: Leg, change: Callable[[bytes], bytes]) -> Leg:
    """Return a leg whose body is changed, be it now or when it is made."""
    make = leg.make
    if make is None:
        return replace(leg, body=change(leg.body))
    made: Make = make

    def remade() -> bytes:
        body = made()
        return change(body if isinstance(body, bytes) else b"".join(body))

    return replace(leg, make=remade)


def connected(inner: Exchange, connector: str, ports: Mapping[str, int], route: Route) -> Exchange:
    """Return the exchange of a route by this connector; `ports` are the bootstrap or KV ports of workers by URL."""
    prefill = route.prefill
    if prefill is None or connector == "nixl":
        return inner
    if connector == "mooncake":
        return MooncakeExchange(inner, f"http://{_address(prefill, ports, DEFAULT_BOOTSTRAP_PORT)}")
    ends = [_address(rank, ports, DEFAULT_KV_PORTS[rank.letter]) for rank in (prefill, route.decode)]
    return P2pExchange(inner, *ends)


def _address(rank: Rank, ports: Mapping[str, int], default: int) -> str:
    host = urlsplit(rank.url).hostname or ""
    return f"{f'[{host}]' if ':' in host else host}:{ports.get(rank.url, default)}"
