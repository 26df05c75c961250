"""The fleet's state: a fold over ordered events."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from tercet.core.record import record
from tercet.core.route import Rank
from tercet.core.stage import Mode, Stage, role_letter
from tercet.routing import events as e
from tercet.routing.by_load import ByLoad
from tercet.routing.conversations import Continuation, Conversations
from tercet.routing.facts import CHUNK_IDS, RequestFacts
from tercet.routing.in_flight import InFlight
from tercet.routing.kv_events import BlocksCleared, TokenBlocks
from tercet.routing.load import Load
from tercet.routing.pairs import Pairs
from tercet.routing.picture_index import PictureIndex, PictureTokens
from tercet.routing.prefix_heads import PrefixHeads
from tercet.routing.prefix_index import PrefixIndex
from tercet.routing.text_density import TextDensity


@record(frozen=True, slots=True)
class Holding:
    """What one rank holds of one request's prompt, in tokens; `units` of the prompt from its start on."""

    held: int
    uncached: int
    units: int = 0


class FleetState:
    """Workers, their health, load and caches, and who holds which conversation.

    `apply` is the only way in; everything else reads. Events about ranks that have left are ignored: news may cross.
    `changes` grows when the mode changes, or who may be a candidate; `on_change` is called then, amid the change.
    """

    def __init__(self, *, index_chunks: int = 65536, max_conversations: int = 65536, max_pictures: int = 65536) -> None:
        self.mode = Mode.AGGREGATED
        self.changes = 0
        self.on_change: Callable[[], None] = lambda: None
        self.workers: dict[str, e.WorkerAdded] = {}
        self.models: dict[str, tuple[str, ...]] = {}
        self.ranks: dict[str, Rank] = {}
        self.conversations = Conversations(max_conversations)
        self._index_chunks, self._max_pictures = index_chunks, max_pictures
        self._ready: set[str] = set()
        self._pairs = Pairs()
        self._indexes: dict[str, PrefixIndex] = {}
        self._heads = PrefixHeads()
        self._blocks: dict[str, TokenBlocks] = {}
        self._pictures: dict[str, PictureIndex] = {}
        self.picture_tokens = PictureTokens(max_pictures)
        self._in_flight = InFlight()
        self._density = TextDensity()
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
            # Hundreds of models may have the same ranks: for whoever keeps something by ranks, those are one.
            found = next((known for known in self._candidates.values() if known == found), found)
            self._candidates[key] = found
        return found

    def ready(self, address: str) -> bool:
        """True when an inference through this rank succeeded since it started."""
        return address in self._ready

    def paired(self, prefill: str, decode: str) -> bool:
        """True when a request crossed between these ranks since either started."""
        return (prefill, decode) in self._pairs

    def reachable(self, prefills: Sequence[Rank], decode: str) -> Sequence[Rank]:
        """Return those of `prefills` that a request crossed from to `decode` since either started."""
        return self._pairs.reachable(prefills, decode)

    def load(self, rank: Rank) -> Load:
        """Return the rank's load."""
        return self._in_flight.loads[rank.address]

    def by_load(self, ranks: Sequence[Rank]) -> ByLoad:
        """Return who answers which of `ranks` has the least load: to be asked now, not kept."""
        return self._in_flight.by_load(ranks)

    def index(self, address: str) -> PrefixIndex:
        """Return the rank's prefix index."""
        return self._indexes[address]

    def prefix_blocks(self, address: str) -> int:
        """Return how many pieces of prompts the rank is believed to hold."""
        return len(self._indexes[address])

    def picture_count(self, address: str) -> int:
        """Return how many pictures' embeddings the rank is believed to hold."""
        return len(self._pictures[address])

    @property
    def conversation_count(self) -> int:
        """Return how many conversations are remembered."""
        return len(self.conversations)

    def told_blocks(self, address: str) -> int | None:
        """Return how many blocks the rank says it holds; None when it says nothing."""
        return len(self._blocks[address]) if address in self._blocks else None

    def pictures(self, address: str) -> PictureIndex:
        """Return which pictures' embeddings the rank holds."""
        return self._pictures[address]

    def stages(self, rank: Rank) -> frozenset[Stage]:
        """Return the stages of the rank's worker."""
        return self.workers[rank.url].stages

    @property
    def in_flight(self) -> int:
        """Number of requests under way."""
        return len(self._in_flight)

    @property
    def routed(self) -> int:
        """Number of requests routed so far: a clock for decisions that need one."""
        return self._in_flight.routed

    def tokens_per_byte(self, model: str) -> float:
        """Return the running mean of prompt tokens per byte of rendered text."""
        return self._density.of(model)

    def holding(self, facts: RequestFacts, rank: Rank, known: Continuation | None) -> Holding:
        """Return what `rank` holds of the prompt: by its cache, and by the conversation it served if that is still in
        there.

        `known` is `conversations.find(facts)`, passed in because it is the same for all ranks.
        """
        if facts.ids and (blocks := self._blocks.get(rank.address)) is not None:
            told = blocks.match(facts.ids)  # the engine's own word: exact
            return Holding(told, facts.tokens_after(told), told)
        chunks, index = facts.chunks, self._indexes[rank.address]
        count, held = index.match(chunks) if facts.begin in index.begins else (0, 0)
        if known is not None and known.new_tokens is not None and known.conversation.address == rank.address:
            # The answer is not in the index, but went the way of its prompt.
            evicted = count < known.conversation.size // facts.chunk_size
            if not evicted:
                return Holding(known.held_tokens, known.new_tokens, known.conversation.size)
        if not count:
            return Holding(0, facts.prompt_tokens)
        units = count * facts.chunk_size
        return Holding(held, facts.tokens_after(units), units)

    def holders(self, facts: RequestFacts, letter: str, known: Continuation | None) -> dict[str, Holding]:
        """Return, by address, what those ranks of a role hold that hold any of the prompt; all others lack all of it.

        For a new prompt that is one look for its first chunk: a decision among hundreds of ranks stays cheap.
        """
        addresses: Collection[str] = self._heads.holding(facts.begin, self._indexes)
        if known is not None:
            addresses = {*addresses, known.conversation.address}
        if facts.ids and self._blocks:
            addresses = {*addresses, *self._blocks}
        if not addresses:
            return {}  # of a new prompt
        ranks = self.ranks
        return {
            address: self.holding(facts, rank, known)
            for address in addresses
            if (rank := ranks.get(address)) is not None and rank.letter == letter
        }

    # --- the fold ---

    def apply(self, event: e.Event) -> None:
        """Take in one event."""
        _FOLD[type(event)](self, event)

    def _ranks_changed(self) -> None:
        self._candidates.clear()
        self._in_flight.ranks_changed()
        self.changes += 1
        self.on_change()

    def _worker_added(self, event: e.WorkerAdded) -> None:
        letter = role_letter(event.stages)
        for address in [address for address, rank in self.ranks.items() if rank.url == event.url]:
            self._remove_rank(address)
        taken = [rank.index for rank in self.ranks.values() if rank.letter == letter]
        first = max(taken, default=-1) + 1 if event.first is None else event.first
        self.workers[event.url] = event
        self.models.setdefault(event.url, ())
        for i in range(event.ranks):
            rank = Rank(letter, first + i, event.url, i if event.ranks > 1 else None)
            self.ranks[rank.address] = rank
            self._in_flight.add_rank(rank.address)
            self._indexes[rank.address] = PrefixIndex(self._index_chunks)
            self._pictures[rank.address] = PictureIndex(self._max_pictures)
        self._ranks_changed()

    def _remove_rank(self, address: str) -> None:
        self._forget_rank(address)
        self._in_flight.remove_rank(address)
        del self.ranks[address], self._indexes[address], self._pictures[address]

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
        self._ranks_changed()

    def _rank_health(self, event: e.RankHealth) -> None:
        if event.address in self.ranks:
            (self._ready.add if event.ready else self._ready.discard)(event.address)
            self._ranks_changed()

    def _rank_restarted(self, event: e.RankRestarted) -> None:
        if event.address in self.ranks:
            self._forget_rank(event.address)

    def _cache_sized(self, event: e.CacheSized) -> None:
        index = self._indexes.get(event.address)
        if index is None:
            return
        if event.tokens is not None:
            index.resize(max(1, min(self._index_chunks, event.tokens // CHUNK_IDS)))
        if event.embedding_tokens is not None:
            self._pictures[event.address].resize(event.embedding_tokens)

    def _forget_rank(self, address: str) -> None:
        self._ready.discard(address)
        self._pairs.forget(address)
        self._indexes[address].clear()
        self._pictures[address].clear()
        self._blocks.pop(address, None)
        self.conversations.drop_rank(address)
        self._ranks_changed()

    def _pair_health(self, event: e.PairHealth) -> None:
        known = event.prefill in self.ranks and event.decode in self.ranks
        self._pairs.set(event.prefill, event.decode, event.ready and known)

    def _on_routed(self, event: e.Routed) -> None:
        self._in_flight.begin(event.request_id, event.route, event.facts)
        for share in event.route.encode:
            index = self._pictures.get(share.rank.address)
            if index is not None:
                # At once: who asks for the same picture meanwhile shall meet it there.
                pictures = [event.facts.pictures[i] for i in share.pictures]
                index.store((picture.key, picture.tokens) for picture in pictures if picture.key is not None)

    def _on_encoded(self, event: e.Encoded) -> None:
        flight = self._in_flight.find(event.request_id)
        if flight is not None:
            self._in_flight.encoded(flight, event.address)
            self._pictures_held(e.PicturesHeld(event.address, flight.facts.model, event.pictures))

    def _pictures_held(self, event: e.PicturesHeld) -> None:
        index = self._pictures.get(event.address)
        if index is not None:
            index.store(event.pictures)
        if not event.model or event.model in self.known_models:
            self.picture_tokens.learn(event.model, event.pictures)

    def _pictures_lost(self, event: e.PicturesLost) -> None:
        index = self._pictures.get(event.address)
        if index is not None:
            index.forget(event.keys)

    def _on_prefilled(self, event: e.Prefilled) -> None:
        flight = self._in_flight.find(event.request_id)
        if flight is not None and self._in_flight.prefilled(flight):
            if event.prompt_tokens is not None:
                self._learn(flight.facts, event.prompt_tokens)
            self._store(flight.facts, flight.route.prefills.address, event.prompt_tokens)

    def _on_first_token(self, event: e.FirstToken) -> None:
        flight = self._in_flight.find(event.request_id)
        if flight is not None:
            self._in_flight.answering(flight)
            if event.prompt_tokens is not None and flight.route.prefill is None:
                self._learn(flight.facts, event.prompt_tokens)
            self._store(flight.facts, flight.route.decode.address, event.prompt_tokens)

    def _on_finished(self, event: e.Finished) -> None:
        self._in_flight.end(event.request_id)

    def _conversation_recorded(self, event: e.ConversationRecorded) -> None:
        if event.address in self.ranks:
            self.conversations.record(event.facts, event.address, event.prompt_tokens, event.completion_tokens)
            self._store(event.facts, event.address, event.prompt_tokens, again=True)

    def _prefix_lost(self, event: e.PrefixLost) -> None:
        self.conversations.drop(event.facts)
        if event.address in self.ranks:
            self._indexes[event.address].forget(event.facts.chunks)

    def _cache_stored(self, event: e.CacheStored) -> None:
        if event.address in self.ranks:
            self._store(event.facts, event.address, event.prompt_tokens)

    def _kv_told(self, event: e.KvTold) -> None:
        if event.address in self.ranks:
            blocks = self._blocks.setdefault(event.address, TokenBlocks())
            for told in event.events:
                if isinstance(told, BlocksCleared):
                    self._cache_cleared(e.CacheCleared(event.address))
                blocks.apply(told)

    def _cache_cleared(self, event: e.CacheCleared) -> None:
        for address in self.ranks if event.address is None else {event.address} & self.ranks.keys():
            for cache in (self._indexes[address], self._pictures[address], self._blocks.get(address, TokenBlocks())):
                cache.clear()
            self.conversations.drop_rank(address)

    def _conversations_cleared(self, event: e.ConversationsCleared) -> None:
        self.conversations.clear()
        for index in self._indexes.values():
            index.clear()
        for pictures in self._pictures.values():
            pictures.clear()

    def _mode_changed(self, event: e.ModeChanged) -> None:
        self.mode = event.mode
        self.changes += 1
        self.on_change()

    def _store(self, facts: RequestFacts, address: str, prompt_tokens: int | None, *, again: bool = False) -> None:
        """Note whose cache holds a prompt. Said `again`, it need not be noted if its length is still believed."""
        index, chunks = self._indexes.get(address), facts.chunks
        if index is None or not chunks or facts.prompts != 1:
            return
        tokens = facts.prompt_tokens if prompt_tokens is None else prompt_tokens
        size = facts.chunk_size
        if facts.pictures:
            # In the text's tokens alone: a picture's come all at once where it stands.
            pictures = [(-(-picture.end // size), picture.tokens) for picture in facts.pictures]
            index.store(chunks, size * max(0, tokens - facts.picture_tokens) / facts.size, pictures)
        else:
            density = size * tokens / facts.size
            if again and index.holds(chunks, density):
                return
            index.store(chunks, density)
        self._heads.add(facts.begin, address, self._indexes)

    def _learn(self, facts: RequestFacts, prompt_tokens: int) -> None:
        # Names come from clients, and must not fill the memory.
        if not facts.model or facts.model in self.known_models:
            self._density.learn(facts, prompt_tokens)


_FOLD: dict[type, Callable[[FleetState, Any], None]] = {
    e.WorkerAdded: FleetState._worker_added,
    e.WorkerRemoved: FleetState._worker_removed,
    e.ModelsListed: FleetState._models_listed,
    e.RankHealth: FleetState._rank_health,
    e.RankRestarted: FleetState._rank_restarted,
    e.CacheSized: FleetState._cache_sized,
    e.PairHealth: FleetState._pair_health,
    e.Routed: FleetState._on_routed,
    e.Encoded: FleetState._on_encoded,
    e.PicturesHeld: FleetState._pictures_held,
    e.PicturesLost: FleetState._pictures_lost,
    e.Prefilled: FleetState._on_prefilled,
    e.FirstToken: FleetState._on_first_token,
    e.Finished: FleetState._on_finished,
    e.ConversationRecorded: FleetState._conversation_recorded,
    e.PrefixLost: FleetState._prefix_lost,
    e.CacheStored: FleetState._cache_stored,
    e.KvTold: FleetState._kv_told,
    e.CacheCleared: FleetState._cache_cleared,
    e.ConversationsCleared: FleetState._conversations_cleared,
    e.ModeChanged: FleetState._mode_changed,
}
