"""What routing knows of a request: its model, its conversation, hashes of its prompt, and how long it is."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from tercet.core.hashing import DIGEST_BYTES, root_hash, text_chunk_hashes
from tercet.core.record import record
from tercet.routing.pictures import DEFAULT_TOKENS, Picture

CHUNK_BYTES = 256
"""Rendered text is hashed in pieces of this many bytes: about 64 tokens of English."""
CHUNK_IDS = 64
"""Token-id prompts are hashed in pieces of this many ids."""
MAX_SESSION_CHARS = 256


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

    `chunks` chain over full pieces of `chunk_size` units. `own` names the whole prompt, under it this turn is
    remembered, and is empty for a text too short to have a name; a chat's `anchors` name the places where an earlier
    turn may have ended, the latest first (a text shows no such places: any chunk's end stands for those inside it).
    `affinity` is equal for all turns of a conversation. `later_turn` says that the prompt holds an answer already.
    `prompts` counts the prompts of the request: the other facts are the first one's. `pictures` are in the order of the
    prompt. `ids` are those of a token-id prompt. `shows_prompt`: the answer is to hold the prompt's text, logprobs or
    logits. Blocks that came by transfer don't tell them: vLLM would return memory that nobody wrote to.
    """

    model: str
    chat: bool = False
    session: str | None = None
    size: int = 0
    tokens_per_unit: float = 0.25
    exact: bool = False
    chunks: tuple[bytes, ...] = ()
    chunk_size: int = CHUNK_BYTES
    own: bytes = b""
    anchors: tuple[Anchor, ...] = ()
    affinity: bytes = b""
    later_turn: bool = False
    prompts: int = 1
    shows_prompt: bool = False
    max_tokens: int | None = None
    pictures: tuple[Picture, ...] = ()
    ids: Sequence[int] = ()

    @property
    def single(self) -> bool:
        """True when a prefill worker can prepare the request: one prompt, of which D need say nothing."""
        return self.prompts == 1 and not self.shows_prompt

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt in tokens: estimated, or exact for token ids."""
        return self.tokens_after(0)

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
    root = _root(body)
    pieces: list[bytes] = []
    ids: list[bytes] = []
    ends: list[int] = []
    roles: list[object] = []
    parent, size = root, 0
    left = iter(keys)
    pictures: list[Picture] = []
    for message in messages:
        found = [next(left, None) for part in _parts(message) if is_picture(part)]
        piece = _message(message, found)
        pieces.append(piece)
        size += len(piece)
        parent = blake2b(piece, key=parent, digest_size=DIGEST_BYTES).digest()
        ids.append(parent)
        ends.append(size)
        pictures += [Picture(key, size, tokens_of(key)) for key in found]
        roles.append(message.get("role") if isinstance(message, dict) else None)
    last = len(roles) - 1
    anchors = tuple(Anchor(ids[i - 1], ends[i]) for i in range(last, 0, -1) if roles[i] == "assistant")
    first_user = next((i for i, role in enumerate(roles) if role == "user"), last)
    return RequestFacts(
        model=_model(body),
        chat=True,
        session=clean_session(session),
        size=size,
        tokens_per_unit=tokens_per_byte,
        chunks=tuple(text_chunk_hashes(b"".join(pieces), CHUNK_BYTES, root)),
        own=parent,
        anchors=anchors,
        affinity=ids[first_user] if ids else root,
        later_turn="assistant" in roles,
        shows_prompt=_asks_of_prompt(body),
        max_tokens=_max_tokens(body),
        pictures=tuple(pictures),
    )


def completion_facts(body: Mapping[str, Any], session: str | None, tokens_per_byte: float) -> RequestFacts:
    """Return the facts of a text completion request: one text, one list of token ids, or a list of either."""
    prompt = body.get("prompt")
    prompts = 1
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        prompts = len(prompt)
        prompt = prompt[0]
    root = _root(body)
    exact = isinstance(prompt, list)
    if isinstance(prompt, list):
        chunk_size, size = CHUNK_IDS, len(prompt)
        chunks = _id_chunks(prompt, root)
    else:
        data = prompt.encode("utf-8", "surrogatepass") if isinstance(prompt, str) else b""
        chunk_size, size = CHUNK_BYTES, len(data)
        chunks = tuple(text_chunk_hashes(data, CHUNK_BYTES, root))
    return RequestFacts(
        model=_model(body),
        session=clean_session(session),
        size=size,
        tokens_per_unit=1.0 if exact else tokens_per_byte,
        exact=exact,
        chunks=chunks,
        chunk_size=chunk_size,
        own=chunks[-1] if chunks else b"",
        affinity=chunks[0] if chunks else root,
        prompts=prompts,
        shows_prompt=bool(body.get("echo")) or _asks_of_prompt(body),
        max_tokens=_max_tokens(body),
        ids=prompt if isinstance(prompt, list) and chunks and not body.get("cache_salt") else (),
    )


def _asks_of_prompt(body: Mapping[str, Any]) -> bool:
    return body.get("prompt_logprobs") is not None or bool(body.get("return_context_logits"))


def clean_session(session: str | None) -> str | None:
    """Return a usable session id, or None: empty and over-long ones name no conversation."""
    return session if session and len(session) <= MAX_SESSION_CHARS else None


def _root(body: Mapping[str, Any]) -> bytes:
    tools, salt = body.get("tools"), body.get("cache_salt")
    if not tools and not salt:
        return _root_of(_model(body))
    media = (json.dumps(tools, sort_keys=True),) if tools else ()
    return root_hash(_model(body), cache_salt=str(salt or ""), media=media)


@lru_cache(maxsize=64)
def _root_of(model: str) -> bytes:
    return root_hash(model)


def _model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    return model if isinstance(model, str) else ""


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    value = body.get("max_completion_tokens")
    if value is None:
        value = body.get("max_tokens")
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def is_picture(part: object) -> bool:
    """True for the part of a message that is a picture."""
    return isinstance(part, dict) and part.get("type") == "image_url"


def _parts(message: object) -> Sequence[object]:
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, list) else ()


def _message(message: object, keys: Sequence[str | None]) -> bytes:
    if isinstance(message, dict) and message.keys() == {"role", "content"} and isinstance(message["content"], str):
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


def _id_chunks(ids: list[Any], root: bytes) -> tuple[bytes, ...]:
    try:
        data = array("I", ids).tobytes()
    except (TypeError, OverflowError):
        return ()  # not token ids: the worker refuses them
    return tuple(text_chunk_hashes(data, CHUNK_IDS * array("I").itemsize, root))
