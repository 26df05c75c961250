"""Chat messages: checked, and brought into the plain shape that templates expect."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tercet.core.errors import RequestError

ROLES = ("system", "developer", "user", "assistant", "tool", "function")


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in a chat: either `url`, where it can be had, or, between router and worker, `key` and `tokens`.

    `key` is its content hash, empty when a ticket says it; `where` names its part in the request.
    """

    where: str
    url: str | None = None
    key: str = ""
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Chat:
    """Checked messages and their pictures, in order.

    A message's content is a string; where it holds pictures, a list of parts {"type": "text", "text": ...} and
    {"type": "image"}.
    """

    messages: list[dict[str, Any]]
    pictures: tuple[Picture, ...]


def normalise_messages(messages: object, *, sees: bool = False) -> Chat:
    """Return a copy of OpenAI chat `messages` in one shape; pictures are refused unless the model `sees`.

    Text parts are joined by a newline (as vLLM does), a missing content (an assistant's tool calls) becomes "", and
    tool call arguments become objects. Raises RequestError 400 that names the offending member as `param`.
    """
    if not isinstance(messages, list) or not messages:
        raise _bad("messages", "messages must be a list of at least one message")
    pictures: list[Picture] = []
    plain = [_message(message, f"messages[{i}]", pictures, sees) for i, message in enumerate(messages)]
    return Chat(plain, tuple(pictures))


def _message(message: object, where: str, pictures: list[Picture], sees: bool) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise _bad(where, f"{where} must be an object with role and content")
    role = message.get("role")
    if role not in ROLES:
        raise _bad(f"{where}.role", f"{where}.role is {role!r}: it must be one of {', '.join(ROLES)}")
    plain = dict(message)
    content = message.get("content")
    if content is None:
        if role != "assistant":
            raise _bad(f"{where}.content", f"{where}.content is missing: a {role} message needs a string or parts")
        plain["content"] = ""
    else:
        plain["content"] = _content(content, f"{where}.content", pictures, sees)
    if message.get("tool_calls"):
        plain["tool_calls"] = _tool_calls(message["tool_calls"], f"{where}.tool_calls")
    return plain


def _content(content: object, where: str, pictures: list[Picture], sees: bool) -> str | list[dict[str, str]]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _bad(where, f"{where} must be a string or a list of parts")
    parts: list[dict[str, str]] = []
    for i, part in enumerate(content):
        here = f"{where}[{i}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            text = part.get("text")
            if not isinstance(text, str):
                raise _bad(f"{here}.text", f"{here}.text must be a string")
            parts.append({"type": "text", "text": text})
        elif kind not in ("image_url", "image_ref"):
            wanted = "text and image_url" if sees else "text only"
            raise _bad(here, f"{here} has type {kind!r}: this model takes {wanted}")
        elif not sees:
            raise _bad(here, f"{here} is a picture: this model takes text only")
        else:
            pictures.append((_picture_url if kind == "image_url" else _picture_ref)(part.get(kind), here))
            parts.append({"type": "image"})
    if any(part["type"] == "image" for part in parts):
        return parts
    return "\n".join(part["text"] for part in parts)


def _picture_url(image: object, where: str) -> Picture:
    url = image.get("url") if isinstance(image, dict) else image
    if not isinstance(url, str) or not url:
        raise _bad(f"{where}.image_url.url", f"{where}.image_url.url must be a data URI or a URL")
    return Picture(where, url=url)


def _picture_ref(image: object, where: str) -> Picture:
    """Read what a router puts in a picture's place. With a KV ticket it may be empty."""
    given = image if isinstance(image, dict) else {}
    key, tokens = given.get("key") or "", given.get("tokens") or 0
    if not isinstance(image, dict) or not isinstance(key, str) or type(tokens) is not int:
        raise _bad(f"{where}.image_ref", f"{where}.image_ref must be an object with key and tokens")
    return Picture(where, key=key, tokens=tokens)


def _tool_calls(calls: object, where: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise _bad(where, f"{where} must be a list")
    plain: list[dict[str, Any]] = []
    for i, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise _bad(f"{where}[{i}]", f"{where}[{i}].function must be an object with name and arguments")
        arguments = function.get("arguments") or {}
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except (ValueError, RecursionError) as error:
                raise _bad(
                    f"{where}[{i}].function.arguments", f"{where}[{i}]: arguments are not JSON: {error}"
                ) from None
        plain.append({**call, "function": {**function, "arguments": arguments}})
    return plain


def _bad(param: str, message: str) -> RequestError:
    return RequestError(400, message, param=param)
