"""Chat messages: checked, and brought into the plain shape that templates expect."""

from __future__ import annotations

import json
from typing import Any

from tercet.core.errors import RequestError

ROLES = ("system", "developer", "user", "assistant", "tool", "function")


def normalise_messages(messages: object) -> list[dict[str, Any]]:
    """Return a copy of OpenAI chat `messages` whose contents are strings.

    Text parts are joined by a newline (as vLLM does), a missing content (an assistant's tool calls) becomes "", and
    tool call arguments become objects. Raises RequestError 400 that names the offending member as `param`.
    """
    if not isinstance(messages, list) or not messages:
        raise _bad("messages", "messages must be a list of at least one message")
    return [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _message(message: object, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise _bad(where, f"{where} must be an object with role and content")
    role = message.get("role")
    if role not in ROLES:
        raise _bad(f"{where}.role", f"{where}.role is {role!r}: it must be one of {', '.join(ROLES)}")
    plain = dict(message)
    content = message.get("content")
    if content is None:
        if role != "assistant":
            raise _bad(f"{where}.content", f"{where}.content is missing: a {role} message needs a string or text parts")
        plain["content"] = ""
    else:
        plain["content"] = _content(content, f"{where}.content")
    if message.get("tool_calls"):
        plain["tool_calls"] = _tool_calls(message["tool_calls"], f"{where}.tool_calls")
    return plain


def _content(content: object, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _bad(where, f"{where} must be a string or a list of parts")
    texts: list[str] = []
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            raise _bad(f"{where}[{i}]", f"{where}[{i}] has type {kind!r}: this model takes text only")
        text = part.get("text")
        if not isinstance(text, str):
            raise _bad(f"{where}[{i}].text", f"{where}[{i}].text must be a string")
        texts.append(text)
    return "\n".join(texts)


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
            except ValueError as error:
                raise _bad(
                    f"{where}[{i}].function.arguments", f"{where}[{i}]: arguments are not JSON: {error}"
                ) from None
        plain.append({**call, "function": {**function, "arguments": arguments}})
    return plain


def _bad(param: str, message: str) -> RequestError:
    return RequestError(400, message, param=param)
