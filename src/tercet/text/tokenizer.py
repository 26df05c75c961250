"""A model folder's tokeniser: `tokenizer.json` with the files that say how it is used."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

from tercet.core.errors import RequestError, UsageError
from tercet.text.chat import ChatTemplate
from tercet.text.decoding import TextStream, TokenDecoder
from tercet.text.image_token import ImageToken, Marks, expand, image_token
from tercet.text.messages import Chat, Picture, normalise_messages

LEAST_LONGEST = 64
"""Characters that a token may stand for, though none in the vocabulary is so long: of spaces, or of what is unknown."""
_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A chat as a prompt: picture i stands at `starts[i]`, for as many tokens as the model's image token says."""

    text: str
    tokens: list[int]
    pictures: tuple[Picture, ...] = ()
    starts: tuple[int, ...] = ()


class Tokenizer:
    """Text to token ids and back, and chats to prompts. Thread-safe: nothing but a cache changes after construction."""

    def __init__(
        self,
        fast: FastTokenizer,
        *,
        chat_template: ChatTemplate | None = None,
        tool_template: ChatTemplate | None = None,
        eos_token_ids: frozenset[int] = frozenset(),
        vocab_size: int | None = None,
        image: ImageToken | None = None,
    ) -> None:
        """Wrap `fast`. `vocab_size` is how many ids the model knows; by default as many as the tokeniser has.

        `tool_template` takes the place of `chat_template` in chats with tools.

        `image` is the image token of a model that sees. Raises UsageError when the tokeniser does not know it.
        """
        fast.no_truncation()
        fast.no_padding()
        added = fast.get_added_tokens_decoder()
        self._longest = max(LEAST_LONGEST, *map(len, fast.get_vocab(with_added_tokens=True)))
        decoder = json.loads(fast.decoder.__getstate__()) if fast.decoder is not None else None
        self._fast = fast
        self._decoder = TokenDecoder(decoder)
        self._chat, self._tool_chat = chat_template, tool_template or chat_template
        self._pieces: dict[int, bytes] = {}
        self.image = image
        self._image_text = ""
        if image is not None:
            self._image_text = fast.id_to_token(image.id) or ""
            if not self._image_text or self._raw(self._image_text).count(image.id) != 1:
                raise UsageError(f"the tokeniser has no token {image.id}, which stands for pictures in config.json")
        self.special_token_ids = frozenset(token for token, details in added.items() if details.special)
        self.eos_token_ids = eos_token_ids
        self.vocab_size = vocab_size or max(fast.get_vocab_size(with_added_tokens=True), max(added, default=-1) + 1)

    def encode(self, text: str, add_special_tokens: bool = False, most: int | None = None) -> list[int]:
        """Return the token ids of `text`; with `add_special_tokens` what the model expects around a bare prompt (BOS).

        The image token's text is only text here. Raises RequestError 400 when the text is not Unicode (it holds half
        of a surrogate pair), and for one that surely has more than `most` tokens.
        """
        self._check_length(text, most, "prompt")
        tokens = self._raw(text, add_special_tokens)
        if self.image is None or self.image.id not in tokens:
            return tokens
        return [part for token in tokens for part in ((token,) if token != self.image.id else self._spelled())]

    def encode_chat(
        self,
        messages: object,
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        template_kwargs: Mapping[str, Any] | None = None,
        add_special_tokens: bool = False,
        most: int | None = None,
    ) -> ChatPrompt:
        """Return the prompt of a chat, with room for its pictures when the model sees.

        Raises RequestError 400 for bad messages, for a model without a chat template, and for a prompt that surely has
        more than `most` tokens.
        """
        chat = normalise_messages(messages, sees=self.image is not None)
        if self.image is None:
            text = self._render(chat, tools, add_generation_prompt, template_kwargs)
            self._check_length(text, most, "messages")
            return ChatPrompt(text, self._raw(text, add_special_tokens))
        marks = Marks(self._image_text)
        rendered = self._render(
            marks.hide_chat(chat), marks.hide(tools), add_generation_prompt, marks.hide(template_kwargs)
        )
        text, found = marks.reveal(rendered)
        self._check_length(text, most, "messages")
        raw = self._raw(text, add_special_tokens)
        tokens, starts = expand(raw, found, self.image, len(chat.pictures), self._spelled)
        return ChatPrompt(text, tokens, chat.pictures, starts)

    def _check_length(self, text: str, most: int | None, param: str) -> None:
        """Refuse a text that can't have so few tokens: one of megabytes takes the library minutes, and gigabytes."""
        if most is not None and len(text) > most * self._longest:
            message = f"This model's maximum context length is {most} tokens: {len(text)} characters have more"
            raise RequestError(400, message, code="context_length_exceeded", param=param)

    def _spelled(self) -> list[int]:
        """Return the image token's text in tokens that are only text."""
        half = len(self._image_text) // 2
        return self._raw(self._image_text[:half]) + self._raw(self._image_text[half:])

    def _raw(self, text: str, add_special_tokens: bool = False) -> list[int]:
        try:
            # As a batch: for a single text the library would keep the interpreter from every other thread.
            (encoding,) = self._fast.encode_batch_fast([text], add_special_tokens=add_special_tokens)
            return list(encoding.ids)
        except (TypeError, UnicodeEncodeError):
            if _is_unicode(text):
                raise
            raise RequestError(400, "the text is not valid Unicode: it holds a lone surrogate") from None

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Return the text of `ids`. Ids without a token (a padded vocabulary) are nothing."""
        pieces: list[bytes] = []
        for token in ids:
            piece = self.piece(token, not pieces, skip_special_tokens)
            if piece is not None:
                pieces.append(piece)
        stream = self.new_stream()
        return stream.push(pieces) + stream.flush()

    def _render(
        self,
        chat: Chat,
        tools: list[dict[str, Any]] | None,
        add_generation_prompt: bool,
        variables: Mapping[str, Any] | None,
    ) -> str:
        template = self._tool_chat if tools else self._chat
        if template is None:
            raise RequestError(400, "this model has no chat template: send a prompt to /v1/completions instead")
        return template.render(
            chat,
            image_token=self._image_text,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            variables=variables,
        )

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes one token stands for in the middle of a text; special tokens their name, unknown ids b""."""
        return self.piece(token_id, first=False, skip_special_tokens=False) or b""

    def token_text(self, token_id: int) -> str:
        """Return one token as text on its own, U+FFFD where it is only a part of a character."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def piece(self, token_id: int, first: bool, skip_special_tokens: bool) -> bytes | None:
        """Return a token's bytes; `first` when it begins a text. None when it is skipped or has no token."""
        if skip_special_tokens and token_id in self.special_token_ids:
            return None
        if not first and (known := self._pieces.get(token_id)) is not None:
            return known
        token = self._fast.id_to_token(token_id) if token_id >= 0 else None
        if token is None:
            return None
        piece = self._decoder.piece(token, first)
        if not first:
            self._pieces[token_id] = piece
        return piece

    def new_stream(self) -> TextStream:
        """Return an empty stream that turns pieces into text."""
        return TextStream(self._decoder)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokeniser of a Hugging Face model folder.

    Needs tokenizer.json; reads tokenizer_config.json, special_tokens_map.json, chat_template.jinja (or .json),
    generation_config.json and config.json where they are. Raises UsageError that names a missing or broken file.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UsageError(
            f"{folder} has no tokenizer.json: a model folder needs one (save_pretrained of a fast tokenizer)"
        )
    try:
        fast = FastTokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise UsageError(f"{path} can't be read: {error}") from error
    settings = _read_json(folder / "tokenizer_config.json")
    config = _read_json(folder / "config.json")
    special = _special_tokens(_read_json(folder / "special_tokens_map.json")) | _special_tokens(settings)
    templates = {name: ChatTemplate(source, special) for name, source in _chat_templates(folder, settings).items()}
    return Tokenizer(
        fast,
        chat_template=templates.get("default"),
        tool_template=templates.get("tool_use"),
        eos_token_ids=_eos_ids(fast, special, config, _read_json(folder / "generation_config.json")),
        vocab_size=config.get("vocab_size") or config.get("text_config", {}).get("vocab_size"),
        image=image_token(config),
    )


def _eos_ids(
    fast: FastTokenizer, special: Mapping[str, str], config: dict[str, Any], generation: dict[str, Any]
) -> frozenset[int]:
    """Every id that any of the files calls an end: chat models end turns with another token than texts."""
    found: set[int] = set()
    for source in (generation, config, config.get("text_config", {})):
        ids = source.get("eos_token_id")
        found.update([ids] if isinstance(ids, int) else ids or ())
    named = fast.token_to_id(special["eos_token"]) if "eos_token" in special else None
    return frozenset(found if named is None else found | {named})


def _special_tokens(source: dict[str, Any]) -> dict[str, str]:
    """Token names as templates know them; a value is a string or an object with "content"."""
    found: dict[str, str] = {}
    for name in _SPECIAL_NAMES:
        value = source.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            found[name] = text
    return found


def _chat_templates(folder: Path, settings: dict[str, Any]) -> dict[str, str]:
    """Return the templates by name, as Hugging Face chooses among them: "default", and "tool_use" for chats with tools.

    One without a name is the default.
    """
    paths = {
        "default": folder / "chat_template.jinja",
        "tool_use": folder / "additional_chat_templates" / "tool_use.jinja",
    }
    if found := {name: path.read_text(encoding="utf-8") for name, path in paths.items() if path.is_file()}:
        return found
    template = _read_json(folder / "chat_template.json").get("chat_template") or settings.get("chat_template")
    if isinstance(template, list):
        return {entry["name"]: entry["template"] for entry in template if entry["name"] in ("default", "tool_use")}
    return {"default": template} if isinstance(template, str) else {}


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UsageError(f"{path} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} must hold a JSON object")
    return content


def _is_unicode(text: str) -> bool:
    return not any(0xD800 <= ord(char) < 0xE000 for char in text)
