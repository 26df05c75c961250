"""What a request teaches about the fleet: news for the fold."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic

from tercet.core.digits import count_in
from tercet.core.route import Rank, Route
from tercet.dialects.protocol import Answer, Exchange, Failure, PicturesNeeded
from tercet.dialects.usage import Usage
from tercet.http.client import Relayed
from tercet.router.metrics import ROUNDING_TOKENS
from tercet.router.parts import Parts
from tercet.router.sender import TOO_MANY
from tercet.routing.events import (
    ConversationRecorded,
    Encoded,
    FirstToken,
    PairHealth,
    PicturesHeld,
    PicturesLost,
    Prefilled,
    PrefixLost,
    RankHealth,
)
from tercet.routing.facts import RequestFacts


class Observation:
    """One route taken, under `name`. `choices` answers were wanted; `exchange` knows what workers said of pictures.
    `expected` of the prompt's tokens the rank that computes it was believed to hold; None for several prompts."""

    __slots__ = ("cached_tokens", "choices", "exchange", "expected", "facts", "name", "prompt_tokens", "route")

    def __init__(self, name: str, route: Route, facts: RequestFacts, choices: int, exchange: Exchange) -> None:
        self.name, self.route, self.facts, self.choices, self.exchange = name, route, facts, choices, exchange
        self.prompt_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.expected: int | None = None
        if facts.prompts == 1:
            lacks = facts.prompt_tokens - route.prefill_uncached
            self.expected = route.held if route.prefill is None else lacks if lacks > 0 else 0

    def encoded(self, parts: Parts, rank: Rank) -> None:
        """An encode rank has encoded its share."""
        parts.breakers.served(rank.address)
        known = self.exchange.pictures()
        share = next(share for share in self.route.encode if share.rank == rank)
        parts.fleet.apply(Encoded(self.name, rank.address, tuple(known[i] for i in share.pictures if i in known)))

    def prefilled(self, parts: Parts, answer: Answer) -> None:
        """P has the prompt, and the pictures that it was given."""
        usage = answer.usage
        if usage is not None:
            self.prompt_tokens, self.cached_tokens = usage.prompt_tokens, usage.cached_tokens
        if self.route.prefill is not None:
            parts.breakers.served(self.route.prefill.address)
        parts.fleet.apply(Prefilled(self.name, None if usage is None else usage.prompt_tokens))
        if self.facts.pictures:
            self._holds_pictures(parts)

    def lacks(self, parts: Parts, needed: PicturesNeeded) -> None:
        """A rank lacks pictures: whatever was believed of it."""
        known = self.exchange.pictures()
        keys = [known[i][0] if i in known else self.facts.pictures[i].key for i in needed.pictures]
        parts.fleet.apply(PicturesLost(needed.rank.address, tuple(key for key in keys if key is not None)))

    def _holds_pictures(self, parts: Parts) -> None:
        address = self.route.prefills.address
        held = parts.fleet.pictures(address) if address in parts.fleet.ranks else ()
        # What was only named may lie in its prefix alone, without embeddings.
        named = {picture.index for picture in self.route.named if picture.key not in held}
        pictures = tuple(pair for i, pair in self.exchange.pictures().items() if i not in named)
        parts.fleet.apply(PicturesHeld(address, self.facts.model, pictures))

    def first_token(self, parts: Parts, headers: Mapping[str, str], usage: Usage | None) -> None:
        """D has the prompt: its counts are in its headers, or in the usage of a whole answer."""
        told, cached = count_in(headers.get("x-tercet-prompt-tokens")), count_in(headers.get("x-tercet-cached-tokens"))
        if told is not None:
            self.prompt_tokens = told
        if usage is not None:
            self.prompt_tokens = usage.prompt_tokens if self.prompt_tokens is None else self.prompt_tokens
            cached = usage.cached_tokens if cached is None else cached
        whole = self.route.prefill is None
        if whole:
            self.cached_tokens = cached
            if cached is not None and self._wrong(cached):
                parts.metrics.wrong_index.add(self.route.mode)
                parts.fleet.apply(PrefixLost(self.facts, self.route.decode.address))
        parts.fleet.apply(FirstToken(self.name, self.prompt_tokens, cached))
        if whole and self.facts.pictures:
            self._holds_pictures(parts)

    def finished(self, parts: Parts, usage: Usage | None, relayed: Relayed | None) -> tuple[int, int]:
        """The answer is whole: D holds prompt and answer of this conversation. Return how many tokens each has."""
        if usage is not None:
            prompt, answers = usage.prompt_tokens, usage.completion_tokens
        else:
            prompt = self.facts.prompt_tokens if self.prompt_tokens is None else self.prompt_tokens
            answers = 0 if relayed is None else _estimate_tokens(relayed)
        decode, prefill = self.route.decode.address, self.route.prefill
        parts.breakers.served(decode)
        if prefill is not None:
            parts.breakers.served((prefill.address, decode))
        if self.facts.prompts == 1:
            parts.fleet.apply(ConversationRecorded(self.facts, decode, prompt, answers // self.choices))
        return prompt, answers

    def failed(self, parts: Parts, failure: Failure) -> None:
        """The route failed at a rank: enough of that in a row, and no request goes there until a probe succeeded. Where
        D fails with what P handed it, the pair may be at fault."""
        if failure.error.code == TOO_MANY:
            return  # our own bound
        prefill = self.route.prefill
        if failure.misfit and prefill is not None:
            parts.fleet.apply(PairHealth(prefill.address, self.route.decode.address, False))
            return
        self._blame(parts, failure.rank)

    def broke(self, parts: Parts) -> None:
        """The stream broke after its first byte."""
        self._blame(parts, self.route.decode)

    def _blame(self, parts: Parts, rank: Rank) -> None:
        now, prefill, decode = monotonic(), self.route.prefill, self.route.decode
        if parts.breakers.failed(rank.address, now):
            parts.metrics.breakers.add(rank.label)
            parts.fleet.apply(RankHealth(rank.address, False))
        if prefill is not None and rank == decode and parts.breakers.failed((prefill.address, decode.address), now):
            parts.metrics.breakers.add(f"{prefill.label}>{decode.label}")
            parts.fleet.apply(PairHealth(prefill.address, decode.address, False))

    def _wrong(self, cached: int) -> bool:
        held = self.route.held
        return self.facts.prompts == 1 and cached < held // 2 and held - cached > ROUNDING_TOKENS


def _estimate_tokens(relayed: Relayed) -> int:
    """Return about how many tokens a stream held that came without usage: one an event, by the size of its last
    events. Its end, which is much shorter, is none: of so few events it would be too large a part."""
    tail, size = relayed.tail, relayed.body_bytes
    end = tail.rfind(b"data: [DONE]")
    if end >= 0:
        tail, size = tail[:end], size - (len(tail) - end)
    begin, events = tail.find(b"data: "), tail.count(b"data: ")  # it may begin within an event
    return max(1, round(size * events / (len(tail) - begin))) if events else 0
