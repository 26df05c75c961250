"""Where pictures stand in a prompt: the model's image token, once for each row of a picture's embedding."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tercet.core.errors import RequestError, UsageError
from tercet.text.messages import Chat


@dataclass(frozen=True, slots=True)
class ImageToken:
    """A seeing model's image token; a picture takes `count` of them."""

    id: int
    count: int


def image_token(config: Mapping[str, Any]) -> ImageToken | None:
    """Read it from the config.json of a LLaVA-like model; None for a model that does not see.

    Raises UsageError for one whose pictures have no fixed number of tokens.
    """
    vision, token = config.get("vision_config"), config.get("image_token_index", config.get("image_token_id"))
    if not isinstance(vision, dict) or not isinstance(token, int):
        return None
    count = config.get("image_seq_length")
    if count is None:
        if not {"image_size", "patch_size"} <= vision.keys():
            raise UsageError(
                "config.json does not say how many tokens a picture takes: it has neither image_seq_length nor "
                "vision_config's image_size and patch_size. Only models with a fixed number, as LLaVA, are supported"
            )
        count = (int(vision["image_size"]) // int(vision["patch_size"])) ** 2
        count += config.get("vision_feature_select_strategy", "default") == "full"  # the class token stays
    return ImageToken(token, int(count))


class Marks:
    """Keeps a client's words apart from the template's: the image token's text in a message is just text.

    Before rendering, `hide` puts a random number in the place of each; what the rendered text then holds of the image
    token was put there by the template, or for it.
    """

    def __init__(self, literal: str) -> None:
        self._literal = literal
        self._mark = f"{secrets.randbelow(10**32):032d}"  # digits alone: no filter of a template changes them
        self._any = re.compile(f"{self._mark}|{re.escape(literal)}")

    def hide(self, value: Any) -> Any:
        """Return `value`, any JSON, with the literal hidden in all its strings."""
        if isinstance(value, str):
            return value.replace(self._literal, self._mark)
        if isinstance(value, list):
            return [self.hide(item) for item in value]
        if isinstance(value, dict):
            return {self.hide(key): self.hide(item) for key, item in value.items()}
        return value

    def hide_chat(self, chat: Chat) -> Chat:
        """Return `chat` with the literal hidden."""
        return Chat(self.hide(chat.messages), chat.pictures)

    def reveal(self, rendered: str) -> tuple[str, list[bool]]:
        """Return the text as it was meant, and for each image token in it whether it stands for a picture."""
        found = [match.group() == self._literal for match in self._any.finditer(rendered)]
        return rendered.replace(self._mark, self._literal), found


def expand(
    tokens: Sequence[int], found: Sequence[bool], token: ImageToken, pictures: int, spell: Callable[[], list[int]]
) -> tuple[list[int], tuple[int, ...]]:
    """Return `tokens` with each picture's image token repeated, and where each picture starts.

    `found` says of each image token whether it stands for a picture; the others become `spell()`, the tokens of its
    text. Raises RequestError 400 when the template did not give every picture its place.
    """
    if sum(found) != pictures or tokens.count(token.id) != len(found):
        raise RequestError(
            400,
            f"the model's chat template finds a place for {sum(found)} of the {pictures} pictures in these messages",
            param="messages",
        )
    expanded: list[int] = []
    starts: list[int] = []
    stands = iter(found)
    for item in tokens:
        if item != token.id:
            expanded.append(item)
        elif next(stands):
            starts.append(len(expanded))
            expanded += [token.id] * token.count
        else:
            expanded += spell()
    return expanded, tuple(starts)
