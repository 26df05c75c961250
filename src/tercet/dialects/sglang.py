"""The dialect of SGLang: P and D get the same body at once and meet in a bootstrap room.

Facts read in sglang 0.5.23 unless said otherwise.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tercet.core.choices import wants_several
from tercet.core.errors import RequestError
from tercet.core.fast_json import loads_answer
from tercet.core.route import Rank, Route
from tercet.core.stage import Stage
from tercet.dialects.early_end import early_answer
from tercet.dialects.handoff import leg_headers
from tercet.dialects.protocol import Answer, EngineState, Exchange, Headers, Leg, Legs, Reply, Step
from tercet.dialects.refusal import broken, gave_up, no_choices, no_encoders, refused
from tercet.dialects.request import ClientRequest, dump
from tercet.dialects.usage import failed

DEFAULT_BOOTSTRAP_PORT = 8998
"""Of `--disaggregation-bootstrap-port`."""

FAKE_HOST = "2.2.2.2"
"""Bootstrap host (`FAKE_BOOTSTRAP_HOST`) for which a disaggregated worker moves no blocks: its own warm-up and health
check use it."""

ROOMS = 2**63 - 2**20
"""A room is a positive int64. Several prompts take the rooms after the first, so some are left above; 0 is taken by the
engine for a room that nobody entered yet."""


def random_room() -> int:
    """Return a room that nobody else is in."""
    return 1 + secrets.randbelow(ROOMS)


@dataclass(frozen=True, slots=True)
class SglangDialect:
    """`bootstrap_ports` are those of the prefill workers, by URL, where they differ from the default.

    A decode worker refuses (400) a request without a room, so it never computes a prompt itself: `decode_alone`.
    /health runs an inference of a second or more; /model_info says no less: inferences prove readiness anyway. By its
    older name, /get_model_info, it writes a warning to the log each time.
    """

    bootstrap_ports: Mapping[str, int] = field(default_factory=dict)
    room: Callable[[], int] = random_room
    name: str = "sglang"
    ready_path: str = "/model_info"
    reset_path: str = "/flush_cache"
    kv_use: tuple[str, str] | None = ("sglang:token_usage", "dp_rank")
    decode_alone: bool = False
    encodes: bool = False
    one_choice: bool = True
    rank_match: str = "any"

    def prove_encoder(self, picture: str, rank: Rank, headers: Headers) -> Exchange:
        """Raise RequestError 501: no encode worker is spoken to in this dialect."""
        raise no_encoders(self.name)

    def begin(self, request: ClientRequest, route: Route) -> SglangExchange:
        """Return the state machine of one request on one route."""
        return SglangExchange(request, route, self)

    def engines(self, ready_answer: bytes) -> tuple[EngineState, ...]:
        """Return nothing: ranks are given on the command line."""
        return ()

    def meeting(self, prefill: Rank) -> dict[str, object]:
        """Return the fields that bring P and D together: D asks P's bootstrap server, on P's host, for the room."""
        host = urlsplit(prefill.url).hostname
        port = self.bootstrap_ports.get(prefill.url, DEFAULT_BOOTSTRAP_PORT)
        return {"bootstrap_host": host, "bootstrap_port": port, "bootstrap_room": self.room()}


class SglangExchange:
    """One request on one route: a whole worker alone, or P and D at once.

    Nothing is ever held for long, so there is nothing to release: a leg whose connection closes is aborted, and its
    blocks with it. A leg left alone would wait 300 s (SGLANG_DISAGGREGATION_BOOTSTRAP_TIMEOUT): the caller cancels it
    as soon as the other one failed.

    D's answer is the client's: the first token's logprobs and P's count of cached tokens reached D with the blocks
    (`MetadataBuffers`). Only the prompt's own logprobs (`echo` with `logprobs`) did not: P has those. Where they are
    wanted both legs answer whole, and the merged answer is framed as the client asked.
    """

    def __init__(self, request: ClientRequest, route: Route, dialect: SglangDialect) -> None:
        self._request, self._route, self._dialect = request, route, dialect
        asked = not request.chat and request.body.get("echo") and request.body.get("logprobs") is not None
        self._merges = bool(asked) and route.prefill not in (None, route.decode)
        self._whole: dict[Stage, Answer] = {}

    def start(self) -> Legs:
        """Return the leg of a whole worker, or both. Raises RequestError 501 when D alone is asked for an answer, 400
        when both are asked for several: all of them and a first pass ahead of them would be in the prompt's one room
        (`_handle_batch_request`), where the first takes the blocks and the others wait 300 s."""
        request, prefill, decode = self._request, self._route.prefill, self._route.decode
        if prefill is decode:  # one half of a pair is probed
            return Legs((self._leg(Stage.DECODE, decode, self._alone(decode)),))
        if prefill is not None:
            if wants_several(request.body):
                raise no_choices("SGLang")
            meeting = self._dialect.meeting(prefill)
            hint = {} if prefill.rank is None else {"disagg_prefill_dp_rank": prefill.rank}
            return Legs(
                (
                    self._leg(Stage.PREFILL, prefill, meeting),
                    self._leg(Stage.DECODE, decode, {**meeting, **hint}, request.stream and not self._merges),
                )
            )
        if decode.letter == "D":
            message = f"the SGLang decode worker {decode.label} can't compute a prompt: it needs a prefill worker"
            raise RequestError(501, message, code="no_prefill_worker")
        return Legs((self._leg(Stage.DECODE, decode, {}, request.stream),))

    def on_answer(self, leg: Leg, answer: Answer) -> Step:
        """Take P's answer, of which most often only counts whether it failed, or D's when it is not streamed or an
        error."""
        if answer.status != 200:
            return refused(leg, answer)
        if failed(answer.body):
            return gave_up(leg, answer.body)
        if self._merges:
            self._whole[leg.stage] = answer
            return self._merged(leg) if len(self._whole) == 2 else Legs(())
        if leg.stage is Stage.PREFILL:
            return Legs(())
        return Reply(200, answer.body, answer.headers.get("content-type", "application/json"))

    def pictures(self) -> Mapping[int, tuple[str, int]]:
        """Return nothing: these workers name no pictures."""
        return {}

    def on_exit(self, accepted: bool) -> tuple[Leg, ...]:
        """Return nothing."""
        return ()

    def _merged(self, leg: Leg) -> Step:
        try:
            prefilled, decoded = (loads_answer(self._whole[stage].body) for stage in (Stage.PREFILL, Stage.DECODE))
            join_logprobs(prefilled, decoded)
            return Reply(200, *early_answer(decoded, self._request))
        except (ValueError, LookupError, TypeError, AttributeError):
            return broken(leg, "the answers of both legs are no OpenAI answers with logprobs")

    def _alone(self, rank: Rank) -> dict[str, object]:
        """Return the fields that make one half of a pair answer without the other: nonsense, but proof of life."""
        # The room chooses the rank where nothing else does.
        return {"bootstrap_host": FAKE_HOST, "bootstrap_port": None, "bootstrap_room": rank.rank or 0}

    def _leg(self, stage: Stage, rank: Rank, fields: dict[str, object], streams: bool = False) -> Leg:
        request = self._request
        if rank.rank is not None:
            fields = {**fields, "routed_dp_rank": rank.rank}
        client = request.body
        if self._merges:
            client = {key: value for key, value in client.items() if key not in ("stream", "stream_options")}
        body = dump({**client, **fields}) if fields else request.raw
        return Leg(stage, rank, request.path, leg_headers(request, rank), body, streams)


def join_logprobs(prefilled: dict[str, Any], decoded: dict[str, Any]) -> None:
    """Put the prompt's logprobs, all of P's lists but the first token at their ends, before those of D's answer."""
    theirs = {choice["index"]: choice["logprobs"] for choice in prefilled["choices"]}
    for choice in decoded["choices"]:
        for name, values in choice["logprobs"].items():
            values[:0] = theirs[choice["index"]][name][:-1]
