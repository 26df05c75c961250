"""Who holds which conversation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from tercet.core.hashing import CHUNK_HASH_BYTES
from tercet.core.record import record
from tercet.routing.facts import RequestFacts, text_name, text_names

Key = tuple[str, str] | bytes


@record(frozen=True, slots=True)
class Conversation:
    """After its last turn: the rank at `address` holds `prompt_tokens` and `answer_tokens`; the prompt was `size`
    units long and named `own`. Where that is the name it is found by, its text begins with the chunk `begin`."""

    address: str
    own: bytes
    size: int
    prompt_tokens: int
    answer_tokens: int
    begin: bytes = b""


@record(frozen=True, slots=True)
class Continuation:
    """A request found to continue `conversation`, whose rank holds `held_tokens` of it and lacks `new_tokens`. When
    the client changed the history, nothing is known to be held and `new_tokens` is None: only the place is of use."""

    conversation: Conversation
    held_tokens: int = 0
    new_tokens: int | None = None


class Conversations:
    """The last turn of every conversation; bounded, the least recently used go first."""

    __slots__ = ("_begins", "_known", "capacity")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._known: OrderedDict[Key, Conversation] = OrderedDict()
        self._begins: dict[bytes, int] = {}
        """How many conversations are named by a text that begins with this chunk: a new prompt's is looked up here, and
        not each of its chunks among the names."""

    def __len__(self) -> int:
        """Return the number of remembered turns."""
        return len(self._known)

    def find(self, facts: RequestFacts) -> Continuation | None:
        """Return the conversation that this request continues: by session id, else by the hashes of its prefix."""
        if facts.session is not None:
            conversation = self._known.get((facts.model, facts.session))
            return None if conversation is None else _continue(conversation, facts)
        if not facts.chat and facts.begin not in self._begins:
            return None
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
        known = self._known
        begin = b"" if facts.chat or facts.session is not None else facts.begin
        self._pop(key)
        if begin:
            self._begins[begin] = self._begins.get(begin, 0) + 1
        known[key] = Conversation(address, facts.own, facts.size, prompt_tokens, answer_tokens, begin)
        while len(known) > self.capacity:
            self._ended(known.popitem(last=False)[1])

    def drop(self, facts: RequestFacts) -> None:
        """Forget the conversation that this request continues."""
        if facts.session is not None:
            self._pop((facts.model, facts.session))
        for key, _ in _places(facts):
            self._pop(key)

    def drop_rank(self, address: str) -> None:
        """Forget every conversation that this rank held."""
        for key in [key for key, known in self._known.items() if known.address == address]:
            self._pop(key)

    def clear(self) -> None:
        """Forget everything."""
        self._known.clear()
        self._begins.clear()

    def _pop(self, key: Key) -> None:
        conversation = self._known.pop(key, None)
        if conversation is not None:
            self._ended(conversation)

    def _ended(self, conversation: Conversation) -> None:
        begin = conversation.begin
        if begin:
            left = self._begins[begin] - 1
            if left:
                self._begins[begin] = left
            else:
                del self._begins[begin]


def _places(facts: RequestFacts) -> Iterable[tuple[bytes, int | None]]:
    """Yield the names under which an earlier turn may be remembered, the latest first, with where its answer ends."""
    if facts.chat:
        return ((anchor.key, anchor.resume) for anchor in facts.anchors)
    return ((name, None) for name in reversed(text_names(facts.chunks)))


def _continue(conversation: Conversation, facts: RequestFacts) -> Continuation:
    if conversation.size > facts.size:
        return Continuation(conversation)
    if conversation.own == facts.own and conversation.size == facts.size:
        return Continuation(conversation, conversation.prompt_tokens, 0)  # the same turn once more
    if not conversation.own:
        return _after(conversation, facts, None)
    if not facts.chat:
        chunks = facts.chunks[: conversation.size // facts.chunk_size * CHUNK_HASH_BYTES]
        return (
            _after(conversation, facts, None) if text_name(chunks) == conversation.own else Continuation(conversation)
        )
    for anchor in facts.anchors:
        if anchor.key == conversation.own:
            return _after(conversation, facts, anchor.resume)
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
