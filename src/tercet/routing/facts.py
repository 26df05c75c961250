"""What routing knows of a request: its model, its conversation, hashes of its prompt, and how long it is."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from functools import lru_cache
from hashlib import blake2b
from itertools import chain
from typing import Any

from xxhash import xxh3_128, xxh3_128_digest

from tercet.core.choices import tries_several
from tercet.core.hashing import CHUNK_HASH_BYTES, DIGEST_BYTES, chunk_hashes, root_hash
from tercet.core.record import record
from tercet.routing.long_text import LONG_CHARS, LongText, text_pieces
from tercet.routing.pictures import DEFAULT_TOKENS, Picture

CHUNK_BYTES = 256
"""Rendered text is hashed in pieces of this many bytes: about 64 tokens of English."""
CHUNK_IDS = 64
"""Token-id prompts are hashed in pieces of this many ids."""
MAX_SESSION_CHARS = 256
PLAIN = {"role", "content"}
"""The fields of most messages."""


@record(frozen=True, slots=True)
class Anchor:
    """A place where an earlier turn's prompt may have ended: `key` hashes everything before it.

    `resume` is where the input begins that is new if it did, in units of the prompt: after the answer that follows
    the place.
    """

    key: bytes
    resume: int


@record(frozen=True, slots=True)
class RequestFacts:
    """Facts of one request. A prompt is measured in units: bytes of rendered text, or token ids (then `exact`).

    `chunks` are the hashes of its full pieces of `chunk_size` units, one after the other (`chunk_hashes`). `own` names
    the whole prompt, under it this turn is remembered, and is empty for a text too short to have a name; a chat's
    `anchors` name the places where an earlier turn may have ended, the latest first (a text shows no such places: any
    chunk's end stands for those inside it).
    `affinity` is equal for all turns of a conversation. `later_turn` says that the prompt holds an answer already.
    `prompts` counts the prompts of the request: the other facts are the first one's. `pictures` are in the order of the
    prompt. `ids` are those of a token-id prompt. `shows_prompt`: the answer is to hold the prompt's text, logprobs or
    logits. Blocks that came by transfer don't tell them: vLLM would return memory that nobody wrote to. `several`: more
    than one answer to a prompt is wanted, or tried.
    """

    model: str
    chat: bool = False
    session: str | None = None
    size: int = 0
    tokens_per_unit: float = 0.25
    exact: bool = False
    chunks: bytes = b""
    chunk_size: int = CHUNK_BYTES
    own: bytes = b""
    anchors: tuple[Anchor, ...] = ()
    affinity: bytes = b""
    later_turn: bool = False
    prompts: int = 1
    shows_prompt: bool = False
    pictures: tuple[Picture, ...] = ()
    ids: Sequence[int] = ()
    several: bool = False
    prompt_tokens: int = field(init=False, compare=False, default=0)
    """Length of the prompt in tokens: estimated, or exact for token ids. Made once: every decision asks for it."""
    begin: bytes = field(init=False, compare=False, default=b"")
    """The first of `chunks`."""

    def __post_init__(self) -> None:
        """Count the tokens."""
        if self.chunks:
            self.begin = self.chunks[:CHUNK_HASH_BYTES]  # type: ignore[misc]  # see `record`
        tokens = self.size if self.exact else round(self.size * self.tokens_per_unit)
        if self.pictures:
            tokens += self.picture_tokens
        self.prompt_tokens = tokens  # type: ignore[misc]  # see `record`

    @property
    def single(self) -> bool:
        """True when a prefill worker can prepare the request: one prompt, of which D need say nothing."""
        return self.prompts == 1 and not self.shows_prompt

    def tokens_after(self, start: int) -> int:
        """Return how many tokens of this prompt come after its first `start` units."""
        units = self.size - start
        text = units if self.exact else round(units * self.tokens_per_unit)
        if not self.pictures:
            return text
        return text + sum(picture.tokens for picture in self.pictures if picture.end > start)

    @property
    def picture_tokens(self) -> int:
        """How many tokens of the prompt are pictures."""
        return sum(picture.tokens for picture in self.pictures)


def chat_facts(
    body: Mapping[str, Any],
    session: str | None,
    tokens_per_byte: float,
    keys: Sequence[str | None] = (),
    tokens_of: Callable[[str | None], int] = lambda _: DEFAULT_TOKENS,
) -> RequestFacts:
    """Return the facts of a chat request. Malformed messages give poor facts, not an error: the worker refuses them.

    `keys` are those of its pictures in order (`is_picture`): they stand for the bytes in every hash. `tokens_of` says
    how many tokens the picture of a key is believed to be. The rendering is canonical (role, content, next message),
    not the model's template: equal prefixes hash equally.
    """
    messages = body.get("messages")
    if not isinstance(messages, list):
        messages = []
    model, root = _model_and_root(body)
    pieces: list[bytes] = []
    ids: list[bytes] = []
    ends: list[int] = []
    roles: list[object] = []
    parent, size = root, 0
    left = iter(keys)
    pictures: list[Picture] = []
    long: LongText | None = None
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        found = [next(left, None) for part in content if is_picture(part)] if isinstance(content, list) else None
        if type(content) is str and len(content) > LONG_CHARS and message.keys() == PLAIN:
            if long is None:
                long = LongText(CHUNK_BYTES, root)
            long.feed(b"".join(pieces))
            pieces.clear()
            parent = _long_message(message, long, parent)
            size = long.size
        else:
            piece = _message(message, found or ())
            pieces.append(piece)
            size += len(piece)
            parent = blake2b(piece, key=parent, digest_size=DIGEST_BYTES).digest()
        ids.append(parent)
        ends.append(size)
        if found:
            pictures += [Picture(key, size, tokens_of(key)) for key in found]
        roles.append(message.get("role") if isinstance(message, dict) else None)
    if long is None:
        chunks = chunk_hashes(pieces[0] if len(pieces) == 1 else b"".join(pieces), CHUNK_BYTES, root)
    else:
        long.feed(b"".join(pieces))
        chunks = long.hashes
    last = len(roles) - 1
    later = "assistant" in roles
    anchors = [Anchor(ids[i - 1], ends[i]) for i in range(last, 0, -1) if roles[i] == "assistant"] if later else ()
    return RequestFacts(
        model,
        True,
        session if session is None else clean_session(session),
        size,
        tokens_per_byte,
        False,
        chunks,
        CHUNK_BYTES,
        parent,
        tuple(anchors),
        ids[roles.index("user") if "user" in roles else last] if ids else root,
        later,
        1,
        _asks_of_prompt(body),
        tuple(pictures),
        (),
        tries_several(body),
    )


def completion_facts(body: Mapping[str, Any], session: str | None, tokens_per_byte: float) -> RequestFacts:
    """Return the facts of a text completion request: one text, one list of token ids, or a list of either."""
    prompt = body.get("prompt")
    prompts = 1
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        prompts = len(prompt)
        prompt = prompt[0]
    model, root = _model_and_root(body)
    ids: Sequence[int] = ()
    if exact := isinstance(prompt, list):
        chunk_size, size = CHUNK_IDS, len(prompt)
        chunks = _id_chunks(prompt, root)
        if chunks and not body.get("cache_salt"):
            ids = prompt
    else:
        text = prompt if isinstance(prompt, str) else ""
        chunk_size = CHUNK_BYTES
        if len(text) <= LONG_CHARS:
            data = text.encode("utf-8", "surrogatepass")
            size = len(data)
            chunks = chunk_hashes(data, CHUNK_BYTES, root)
        else:
            long = LongText(CHUNK_BYTES, root)
            for piece in text_pieces(text):
                long.feed(piece)
            size, chunks = long.size, long.hashes
    return RequestFacts(
        model,
        False,
        session if session is None else clean_session(session),
        size,
        1.0 if exact else tokens_per_byte,
        exact,
        chunks,
        chunk_size,
        text_name(chunks),
        (),
        chunks[:CHUNK_HASH_BYTES] or root,
        False,
        prompts,
        bool(body.get("echo")) or _asks_of_prompt(body),
        (),
        ids,
        tries_several(body),
    )


def text_name(chunks: bytes) -> bytes:
    """Return under which name a text of these chunks is remembered: empty where there are none."""
    return xxh3_128_digest(chunks) if chunks else b""


def text_names(chunks: bytes) -> list[bytes]:
    """Return the names of all beginnings of a text that end with a chunk, the shortest first."""
    hasher = xxh3_128()
    update, digest = hasher.update, hasher.digest
    ends = range(0, len(chunks), CHUNK_HASH_BYTES)
    return [update(chunks[at : at + CHUNK_HASH_BYTES]) or digest() for at in ends]


def _asks_of_prompt(body: Mapping[str, Any]) -> bool:
    return body.get("prompt_logprobs") is not None or bool(body.get("return_context_logits"))


def clean_session(session: str | None) -> str | None:
    """Return a usable session id, or None: empty and over-long ones name no conversation."""
    return session if session and len(session) <= MAX_SESSION_CHARS else None


def _model_and_root(body: Mapping[str, Any]) -> tuple[str, bytes]:
    model, tools, salt = body.get("model"), body.get("tools"), body.get("cache_salt")
    if not isinstance(model, str):
        model = ""
    if not tools and not salt:
        return model, _root_of(model)
    media = (json.dumps(tools, sort_keys=True),) if tools else ()
    return model, root_hash(model, cache_salt=str(salt or ""), media=media)


@lru_cache(maxsize=64)
def _root_of(model: str) -> bytes:
    return root_hash(model)


def is_picture(part: object) -> bool:
    """True for the part of a message that is a picture."""
    return isinstance(part, dict) and part.get("type") == "image_url"


def _long_message(message: Mapping[str, Any], text: LongText, parent: bytes) -> bytes:
    """Do with a message what is done with the bytes of `_message`; return its hash."""
    digest = blake2b(key=parent, digest_size=DIGEST_BYTES)
    role = f"{message['role']}\x1f".encode("utf-8", "surrogatepass")
    for piece in chain((role,), text_pieces(message["content"]), (b"\x1e",)):
        digest.update(piece)
        text.feed(piece)
    return digest.digest()


def _message(message: object, keys: Sequence[str | None]) -> bytes:
    if isinstance(message, dict) and message.keys() == PLAIN and isinstance(message["content"], str):
        text = f"{message['role']}\x1f{message['content']}\x1e"
    else:
        text = json.dumps(_named(message, keys) if keys else message, sort_keys=True) + "\x1e"
    return text.encode("utf-8", "surrogatepass")


def _named(message: object, keys: Sequence[str | None]) -> object:
    """Return a message with its pictures' keys in their places, where they are known."""
    assert isinstance(message, dict)
    left = iter(keys)
    content = [
        {"type": "image", "key": key} if is_picture(part) and (key := next(left)) is not None else part
        for part in message["content"]
    ]
    return {**message, "content": content}


def _id_chunks(ids: list[Any], root: bytes) -> bytes:
    try:
        data = array("I", ids).tobytes()
    except (TypeError, OverflowError):
        return b""  # not token ids: the worker refuses them
    return chunk_hashes(data, CHUNK_IDS * array("I").itemsize, root)
