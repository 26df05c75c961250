"""The fleet's state: a fold over ordered events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tercet.core.route import Rank, Route
from tercet.core.stage import Mode, role_letter
from tercet.routing import events as e
from tercet.routing.conversations import Continuation, Conversations
from tercet.routing.facts import CHUNK_IDS, RequestFacts
from tercet.routing.load import Load
from tercet.routing.prefix_index import PrefixIndex

TOKENS_PER_BYTE = 0.25
"""What a model is believed to make of text before its first usage is known."""
LEARNING_BYTES = 64 * 1024
"""The running mean of tokens per byte forgets about so many bytes ago."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What one rank holds of one request's prompt, in tokens."""

    held: int
    uncached: int


@dataclass(slots=True)
class _InFlight:
    route: Route
    facts: RequestFacts
    prefill_tokens: int
    decode_tokens: int
    prefilling: bool


class FleetState:
    """Workers, their health, load and caches, and who holds which conversation.

    `apply` is the only way in; everything else reads. Events about ranks that have left are ignored: news may cross.
    """

    def __init__(self, *, index_chunks: int = 65536, max_conversations: int = 65536) -> None:
        self.mode = Mode.AGGREGATED
        self.workers: dict[str, e.WorkerAdded] = {}
        self.models: dict[str, tuple[str, ...]] = {}
        self.ranks: dict[str, Rank] = {}
        self.conversations = Conversations(max_conversations)
        self._index_chunks = index_chunks
        self._ready: set[str] = set()
        self._pairs: set[tuple[str, str]] = set()
        self._loads: dict[str, Load] = {}
        self._indexes: dict[str, PrefixIndex] = {}
        self._in_flight: dict[str, _InFlight] = {}
        self._routed = 0
        self._text: dict[str, tuple[float, float]] = {}
        self._candidates: dict[tuple[str, str], tuple[Rank, ...]] = {}
        self.known_models: tuple[str, ...] = ()

    # --- reading ---

    def candidates(self, letter: str, model: str) -> tuple[Rank, ...]:
        """Return the ready ranks of a role that serve `model`; of any model when it is empty."""
        key = (letter, model)
        found = self._candidates.get(key)
        if found is None:
            found = tuple(
                rank
                for address, rank in self.ranks.items()
                if rank.letter == letter and address in self._ready and (not model or model in self.models[rank.url])
            )
            if not found:
                return found  # not kept: model names come from clients, and must not fill the memory
            self._candidates[key] = found
        return found

    def ready(self, address: str) -> bool:
        """True when an inference through this rank succeeded since it started."""
        return address in self._ready

    def paired(self, prefill: str, decode: str) -> bool:
        """True when a request crossed between these ranks since either started."""
        return (prefill, decode) in self._pairs

    def load(self, rank: Rank) -> Load:
        """Return the rank's load."""
        return self._loads[rank.address]

    def index(self, address: str) -> PrefixIndex:
        """Return the rank's prefix index."""
        return self._indexes[address]

    @property
    def in_flight(self) -> int:
        """Number of requests under way."""
        return len(self._in_flight)

    @property
    def routed(self) -> int:
        """Number of requests routed so far: a clock for decisions that need one."""
        return self._routed

    def tokens_per_byte(self, model: str) -> float:
        """Return the running mean of prompt tokens per byte of rendered text."""
        tokens, size = self._text.get(model, (0.0, 0.0))
        return tokens / size if size else TOKENS_PER_BYTE

    def holding(self, facts: RequestFacts, rank: Rank, known: Continuation | None) -> Holding:
        """Return what `rank` holds of the prompt: by its cache, and by the conversation it served if that is still in
        there.

        `known` is `conversations.find(facts)`, passed in because it is the same for all ranks.
        """
        index = self._indexes[rank.address]
        count, held = index.match(facts.chunks) if facts.chunks else (0, 0)
        if known is not None and known.new_tokens is not None and known.conversation.address == rank.address:
            # The answer is not in the index, but went the way of its prompt.
            evicted = count < known.conversation.size // facts.chunk_size
            if not evicted:
                return Holding(known.held_tokens, known.new_tokens)
        return Holding(held, facts.tokens(facts.size - count * facts.chunk_size))

    # --- the fold ---

    def apply(self, event: e.Event) -> None:
        """Take in one event."""
        _FOLD[type(event)](self, event)

    def _worker_added(self, event: e.WorkerAdded) -> None:
        letter = role_letter(event.stages)
        for address in [address for address, rank in self.ranks.items() if rank.url == event.url]:
            self._remove_rank(address)
        taken = [rank.index for rank in self.ranks.values() if rank.letter == letter]
        self.workers[event.url] = event
        self.models.setdefault(event.url, ())
        for i in range(event.ranks):
            rank = Rank(letter, max(taken, default=-1) + 1 + i, event.url, i if event.ranks > 1 else None)
            self.ranks[rank.address] = rank
            self._loads[rank.address] = Load()
            self._indexes[rank.address] = PrefixIndex(self._index_chunks)
        self._candidates.clear()

    def _remove_rank(self, address: str) -> None:
        self._forget_rank(address)
        del self.ranks[address], self._loads[address], self._indexes[address]

    def _worker_removed(self, event: e.WorkerRemoved) -> None:
        self.workers.pop(event.url, None)
        self.models.pop(event.url, None)
        for address in [address for address, rank in self.ranks.items() if rank.url == event.url]:
            self._remove_rank(address)
        self._models_changed()

    def _models_listed(self, event: e.ModelsListed) -> None:
        if event.url in self.workers:
            self.models[event.url] = event.models
            self._models_changed()

    def _models_changed(self) -> None:
        self.known_models = tuple(sorted({model for models in self.models.values() for model in models}))
        self._candidates.clear()

    def _rank_health(self, event: e.RankHealth) -> None:
        if event.address in self.ranks:
            (self._ready.add if event.ready else self._ready.discard)(event.address)
            self._candidates.clear()

    def _rank_restarted(self, event: e.RankRestarted) -> None:
        if event.address in self.ranks:
            self._forget_rank(event.address)

    def _cache_sized(self, event: e.CacheSized) -> None:
        index = self._indexes.get(event.address)
        if index is not None:
            index.resize(max(1, min(self._index_chunks, event.tokens // CHUNK_IDS)))

    def _forget_rank(self, address: str) -> None:
        self._ready.discard(address)
        self._pairs = {pair for pair in self._pairs if address not in pair}
        self._indexes[address].clear()
        self.conversations.drop_rank(address)
        self._candidates.clear()

    def _pair_health(self, event: e.PairHealth) -> None:
        pair = (event.prefill, event.decode)
        if event.ready and event.prefill in self.ranks and event.decode in self.ranks:
            self._pairs.add(pair)
        else:
            self._pairs.discard(pair)

    def _on_routed(self, event: e.Routed) -> None:
        route = event.route
        self._routed += 1
        item = _InFlight(
            route,
            event.facts,
            route.prefill_uncached if route.prefill else 0,
            0 if route.prefill else route.uncached,
            route.prefill is not None,
        )
        self._in_flight[event.request_id] = item
        if route.prefill is not None:
            self._take(route.prefill, item.prefill_tokens)
        self._take(route.decode, item.decode_tokens)

    def _take(self, rank: Rank, tokens: int) -> None:
        load = self._loads.get(rank.address)
        if load is not None:
            load.requests += 1
            load.tokens += tokens
            load.routed += 1
            load.last_routed = self._routed

    def _give_back(self, rank: Rank, requests: int, tokens: int) -> None:
        load = self._loads.get(rank.address)
        if load is not None:
            # Never below zero: a worker may have left and come back under the same address meanwhile.
            load.requests = max(0, load.requests - requests)
            load.tokens = max(0, load.tokens - tokens)

    def _on_prefilled(self, event: e.Prefilled) -> None:
        item = self._in_flight.get(event.request_id)
        if item is None or item.route.prefill is None or not item.prefilling:
            return
        item.prefilling = False
        self._give_back(item.route.prefill, 1, item.prefill_tokens)
        if event.prompt_tokens is not None:
            self._learn(item.facts, event.prompt_tokens)
        self._store(item.facts, item.route.prefill.address, event.prompt_tokens)

    def _on_first_token(self, event: e.FirstToken) -> None:
        item = self._in_flight.get(event.request_id)
        if item is None:
            return
        self._give_back(item.route.decode, 0, item.decode_tokens)
        item.decode_tokens = 0
        if event.prompt_tokens is not None and item.route.prefill is None:
            self._learn(item.facts, event.prompt_tokens)
        self._store(item.facts, item.route.decode.address, event.prompt_tokens)

    def _on_finished(self, event: e.Finished) -> None:
        item = self._in_flight.pop(event.request_id, None)
        if item is None:
            return
        if item.prefilling and item.route.prefill is not None:
            self._give_back(item.route.prefill, 1, item.prefill_tokens)
        self._give_back(item.route.decode, 1, item.decode_tokens)

    def _conversation_recorded(self, event: e.ConversationRecorded) -> None:
        if event.address in self.ranks:
            self.conversations.record(event.facts, event.address, event.prompt_tokens, event.completion_tokens)
            self._store(event.facts, event.address, event.prompt_tokens)

    def _prefix_lost(self, event: e.PrefixLost) -> None:
        self.conversations.drop(event.facts)
        if event.address in self.ranks:
            self._indexes[event.address].forget(event.facts.chunks)

    def _cache_stored(self, event: e.CacheStored) -> None:
        if event.address in self.ranks:
            self._store(event.facts, event.address, event.prompt_tokens)

    def _cache_cleared(self, event: e.CacheCleared) -> None:
        for address in self.ranks if event.address is None else {event.address} & self.ranks.keys():
            self._indexes[address].clear()
            self.conversations.drop_rank(address)

    def _conversations_cleared(self, event: e.ConversationsCleared) -> None:
        self.conversations.clear()
        for index in self._indexes.values():
            index.clear()

    def _mode_changed(self, event: e.ModeChanged) -> None:
        self.mode = event.mode

    def _store(self, facts: RequestFacts, address: str, prompt_tokens: int | None) -> None:
        index = self._indexes.get(address)
        if index is not None and facts.size and facts.prompts == 1:
            tokens = facts.prompt_tokens if prompt_tokens is None else prompt_tokens
            index.store(facts.chunks, facts.chunk_size * tokens / facts.size)

    def _learn(self, facts: RequestFacts, prompt_tokens: int) -> None:
        if facts.exact or not facts.size or facts.prompts > 1:
            return
        if facts.model and facts.model not in self.known_models:
            return  # names come from clients, and must not fill the memory
        tokens, size = self._text.get(facts.model, (0.0, 0.0))
        keep = max(0.0, 1.0 - facts.size / LEARNING_BYTES)
        self._text[facts.model] = (tokens * keep + prompt_tokens, size * keep + facts.size)


_FOLD: dict[type, Callable[[FleetState, Any], None]] = {
    e.WorkerAdded: FleetState._worker_added,
    e.WorkerRemoved: FleetState._worker_removed,
    e.ModelsListed: FleetState._models_listed,
    e.RankHealth: FleetState._rank_health,
    e.RankRestarted: FleetState._rank_restarted,
    e.CacheSized: FleetState._cache_sized,
    e.PairHealth: FleetState._pair_health,
    e.Routed: FleetState._on_routed,
    e.Prefilled: FleetState._on_prefilled,
    e.FirstToken: FleetState._on_first_token,
    e.Finished: FleetState._on_finished,
    e.ConversationRecorded: FleetState._conversation_recorded,
    e.PrefixLost: FleetState._prefix_lost,
    e.CacheStored: FleetState._cache_stored,
    e.CacheCleared: FleetState._cache_cleared,
    e.ConversationsCleared: FleetState._conversations_cleared,
    e.ModeChanged: FleetState._mode_changed,
}
