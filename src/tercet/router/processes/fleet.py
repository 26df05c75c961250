"""The fleet's state in each of several processes: one decides about workers, each tells what its requests teach."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from tercet.router.processes.wire import brief
from tercet.routing import events as e
from tercet.routing.facts import RequestFacts
from tercet.routing.fleet import FleetState
from tercet.routing.in_flight import Part
from tercet.routing.kv_events import BlocksCleared, BlocksHeld

Tell = Callable[[e.Event], None]

NEWS = frozenset({e.ConversationRecorded, e.PrefixLost, e.PicturesHeld, e.PicturesLost})
"""What a request teaches, and every process wants to know."""
DOUBTS = frozenset({e.RankHealth, e.PairHealth})
"""What a request teaches of a worker's health. The main process decides what follows."""


MAX_BLOCKS = 1 << 19
"""So many blocks, some 25 MB, a process that comes is told of: of ranks beyond these it knows nothing exactly."""
OF_A_RANK = (e.CacheStored, e.ConversationRecorded, e.PrefixLost, e.PicturesHeld, e.PicturesLost)


class SharedFleet(FleetState):
    """A fleet of which other processes tell, too."""

    def take(self, event: e.Event) -> None:
        """Take in what another process said: it is told nobody."""
        FleetState.apply(self, event)

    def take_parts(self, process: int, parts: Mapping[str, Part], count: int) -> None:
        """Take in another process's part of the load."""
        self._in_flight.told(process, parts, count)

    def parts_of(self, process: int) -> tuple[dict[str, Part], int]:
        """Return the part of the load that a process has told."""
        return self._in_flight.parts_of(process)

    def withdraw(self, process: int) -> None:
        """Another process is gone, and its requests with it."""
        self._in_flight.withdraw(process)


Sizes = tuple[int, dict[str, tuple[int, int]]]
"""How many conversations are remembered; by rank how many pieces of prompts and pictures it is believed to hold."""


class MainFleet(SharedFleet):
    """In the main process, which watches the workers: whatever happens to it is told to all others, in order.

    It routes nothing, and so takes in nothing of caches: sizes are as those processes tell them that do, each of which
    may have come late and know less than others.
    """

    tell: Tell

    def __init__(self, *, index_chunks: int, max_conversations: int) -> None:
        super().__init__(index_chunks=index_chunks, max_conversations=max_conversations)
        self._sizes: dict[str, e.CacheSized] = {}
        self._told: dict[int, Sizes] = {}
        self.tell = lambda event: None

    def apply(self, event: e.Event) -> None:
        """Take in one event, and tell it."""
        super().apply(event)
        if isinstance(event, e.CacheSized):
            self._sizes[event.address] = event
        elif isinstance(event, e.WorkerRemoved):
            self._sizes = {address: size for address, size in self._sizes.items() if address in self.ranks}
        self.tell(event)

    def take_sizes(self, process: int, sizes: Sizes) -> None:
        """Take in how much another process believes of caches."""
        self._told[process] = sizes

    def withdraw(self, process: int) -> None:
        """Another process is gone, and what it believed with it."""
        super().withdraw(process)
        self._told.pop(process, None)

    def prefix_blocks(self, address: str) -> int:
        """Return how many pieces of prompts the rank is believed to hold."""
        return max((ranks.get(address, (0, 0))[0] for _, ranks in self._told.values()), default=0)

    def picture_count(self, address: str) -> int:
        """Return how many pictures' embeddings the rank is believed to hold."""
        return max((ranks.get(address, (0, 0))[1] for _, ranks in self._told.values()), default=0)

    @property
    def conversation_count(self) -> int:
        """Return how many conversations are remembered."""
        return max((conversations for conversations, _ in self._told.values()), default=0)

    def picture(self) -> list[e.Event]:
        """Return events by which a fleet without workers comes to know these: as they are, by the same names. Of
        caches only what their engines said: what requests taught, and conversations, it learns anew."""
        told: list[e.Event] = []
        for url in dict.fromkeys(rank.url for rank in self.ranks.values()):
            worker = self.workers[url]
            first = min(rank.index for rank in self.ranks.values() if rank.url == url)
            told.append(e.WorkerAdded(url, worker.stages, worker.ranks, first))
            told.append(e.ModelsListed(url, self.models.get(url, ())))
        told += [size for address, size in self._sizes.items() if address in self.ranks]
        told += [e.RankHealth(address, True) for address in self.ranks if address in self._ready]
        told += [e.PairHealth(prefill, decode, True) for prefill, decode in self._pairs]
        left = MAX_BLOCKS
        for address, blocks in self._blocks.items():
            whole = len(blocks) <= left
            left -= len(blocks) if whole else 0
            told.append(e.KvTold(address, (blocks.held() if whole else BlocksHeld((), b"", 0, whole=False),)))
        return [*told, e.ModeChanged(self.mode)]


class MemberFleet(SharedFleet):
    """In a process that serves requests: what those teach is told. `changed` is called when its load may have."""

    tell: Tell

    def __init__(self, *, index_chunks: int, max_conversations: int) -> None:
        super().__init__(index_chunks=index_chunks, max_conversations=max_conversations)
        self._taking = False
        self._partly: set[str] = set()  # ranks whose engines said what this process was not told
        # What was told of the prompts of requests under way: their tokens at each rank, by the id of their facts, which
        # lasts as long as they do.
        self._stored: dict[int, dict[str, int]] = {}
        self.tell = lambda event: None
        self.changed: Callable[[], None] = lambda: None

    @property
    def own_count(self) -> int:
        """How many requests are under way in this process."""
        return self._in_flight.own_count

    def parts_changed(self) -> dict[str, Part]:
        """Return this process's part of every load that changed since this was asked last."""
        return self._in_flight.changes()

    def sizes(self) -> Sizes:
        """Return how much is believed of caches."""
        return self.conversation_count, {a: (self.prefix_blocks(a), self.picture_count(a)) for a in self.ranks}

    def apply(self, event: e.Event) -> None:
        """Take in what a request here taught, and tell what others want to know."""
        kind = type(event)
        if kind is e.Finished:
            assert isinstance(event, e.Finished)
            flight = self._in_flight.find(event.request_id)
            if flight is not None:
                self._stored.pop(id(flight.facts), None)
        super().apply(event)
        if kind is e.ConversationRecorded:
            assert isinstance(event, e.ConversationRecorded)
            facts, address, tokens = event.facts, event.address, event.prompt_tokens
            same = self._stored.get(id(facts), {}).get(address) == tokens
            told = brief(facts, whole=not (same and facts.chat))
            self.tell(e.ConversationRecorded(told, address, tokens, event.completion_tokens))
        elif kind is e.PrefixLost:
            assert isinstance(event, e.PrefixLost)
            self.tell(e.PrefixLost(brief(event.facts), event.address))
        elif kind in NEWS or kind in DOUBTS:
            self.tell(event)
        self.changed()

    def take(self, event: e.Event) -> None:
        """Take in what another process said: it is told nobody."""
        if isinstance(event, e.KvTold) and not self._follows(event):
            return
        self._taking = True
        try:
            super().take(event)
        finally:
            self._taking = False

    def _follows(self, event: e.KvTold) -> bool:
        """True when all is known that the rank's engine said before: by a part of it, its cache would look empty."""
        for told in event.events:
            if isinstance(told, BlocksHeld) and not told.whole:
                self._partly.add(event.address)
            elif isinstance(told, BlocksCleared):
                self._partly.discard(event.address)
        return event.address not in self._partly

    def _forget_rank(self, address: str) -> None:
        super()._forget_rank(address)
        self._partly.discard(address)

    def begin_anew(self, told: Iterable[e.Event]) -> None:
        """Forget the workers, and know those of `told`."""
        for url in list(self.workers):
            self.take(e.WorkerRemoved(url))
        for event in told:
            self.take(event)

    def _pictures_held(self, event: e.PicturesHeld) -> None:
        super()._pictures_held(event)
        if not self._taking:
            self.tell(event)

    def _store(self, facts: RequestFacts, address: str, prompt_tokens: int | None, *, again: bool = False) -> None:
        super()._store(facts, address, prompt_tokens, again=again)
        if not self._taking and not again and facts.chunks and facts.prompts == 1:
            # With what was learnt here of the text's density: every process is to believe the same.
            tokens = facts.prompt_tokens if prompt_tokens is None else prompt_tokens
            self._stored.setdefault(id(facts), {})[address] = tokens
            self.tell(e.CacheStored(brief(facts), address, tokens))
