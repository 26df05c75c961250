"""Who holds which conversation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from tercet.core.record import record
from tercet.routing.facts import RequestFacts

Key = tuple[str, str] | bytes


@record(frozen=True, slots=True)
class Conversation:
    """After its last turn: the rank at `address` holds `prompt_tokens` and `answer_tokens`; the prompt was `size`
    units long and named `own`."""

    address: str
    own: bytes
    size: int
    prompt_tokens: int
    answer_tokens: int
    turns: int


@record(frozen=True, slots=True)
class Continuation:
    """A request found to continue `conversation`, whose rank holds `held_tokens` of it and lacks `new_tokens`. When
    the client changed the history, nothing is known to be held and `new_tokens` is None: only the place is of use."""

    conversation: Conversation
    held_tokens: int = 0
    new_tokens: int | None = None


class Conversations:
    """The last turn of every conversation; bounded, the least recently used go first."""

    __slots__ = ("_known", "capacity")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._known: OrderedDict[Key, Conversation] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of remembered turns."""
        return len(self._known)

    def find(self, facts: RequestFacts) -> Continuation | None:
        """Return the conversation that this request continues: by session id, else by the hashes of its prefix."""
        if facts.session is not None:
            conversation = self._known.get((facts.model, facts.session))
            return None if conversation is None else _continue(conversation, facts)
        if not facts.chat and self._known.keys().isdisjoint(facts.chunks):
            return None  # nearly always, and asked of all at once
        for key, resume in _places(facts):
            conversation = self._known.get(key)
            # An equally long text with the same chunks is the same turn again, not a later one.
            if conversation is not None and conversation.size < facts.size:
                return _after(conversation, facts, resume)
        return None

    def record(self, facts: RequestFacts, address: str, prompt_tokens: int, answer_tokens: int) -> None:
        """Remember a turn that ended well. A text too short to have a name is remembered by its session id only."""
        key: Key = facts.own if facts.session is None else (facts.model, facts.session)
        if not key:
            return
        before = self.find(facts)
        turns = before.conversation.turns + 1 if before else 1
        self._known[key] = Conversation(address, facts.own, facts.size, prompt_tokens, answer_tokens, turns)
        self._known.move_to_end(key)
        while len(self._known) > self.capacity:
            self._known.popitem(last=False)

    def drop(self, facts: RequestFacts) -> None:
        """Forget the conversation that this request continues."""
        if facts.session is not None:
            self._known.pop((facts.model, facts.session), None)
        for key, _ in _places(facts):
            self._known.pop(key, None)

    def drop_rank(self, address: str) -> None:
        """Forget every conversation that this rank held."""
        for key in [key for key, known in self._known.items() if known.address == address]:
            del self._known[key]

    def clear(self) -> None:
        """Forget everything."""
        self._known.clear()


def _places(facts: RequestFacts) -> Iterable[tuple[bytes, int | None]]:
    """Yield the names under which an earlier turn may be remembered, the latest first, with where its answer ends."""
    if facts.chat:
        return ((anchor.key, anchor.resume) for anchor in facts.anchors)
    return ((chunk, None) for chunk in reversed(facts.chunks))


def _continue(conversation: Conversation, facts: RequestFacts) -> Continuation:
    if conversation.size > facts.size:
        return Continuation(conversation)
    if conversation.own == facts.own and conversation.size == facts.size:
        return Continuation(conversation, conversation.prompt_tokens, 0)  # the same turn once more
    if not conversation.own:
        return _after(conversation, facts, None)
    for key, resume in _places(facts):
        if key == conversation.own:
            return _after(conversation, facts, resume)
    return Continuation(conversation)


def _after(conversation: Conversation, facts: RequestFacts, resume: int | None) -> Continuation:
    held = conversation.prompt_tokens + conversation.answer_tokens
    if resume is not None:
        return Continuation(conversation, held, facts.tokens_after(resume))
    beyond = facts.tokens_after(conversation.size)
    return Continuation(
        conversation,
        conversation.prompt_tokens + min(beyond, conversation.answer_tokens),
        max(0, beyond - conversation.answer_tokens),
    )
