"""Chat templates: a model's Jinja program that turns messages into its prompt, run in a sandbox."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tercet.core.errors import RequestError, UsageError
from tercet.text.messages import Chat

_PROBE = "Is this shown?"
_TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)


class ChatTemplate:
    """One compiled template with the special tokens it may name. Rendering is the same as Hugging Face's."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile `source`. Raises UsageError when it is not a valid template."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, LoopControlExtension]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise UsageError(f"the model's chat template does not compile: {error}") from error
        self._special_tokens = dict(special_tokens)
        self._knows_developer = "developer" in source
        self._takes_strings = self._shows(_PROBE)
        self._takes_parts = self._shows([{"type": "text", "text": _PROBE}])

    def render(
        self,
        chat: Chat,
        *,
        image_token: str = "",
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the prompt. `variables` are further template variables (`chat_template_kwargs`).

        A template that knows no parts gets `image_token` in a picture's place, each part on a line of its own. A
        `developer` message is a `system` message to a template that does not know the word.
        Raises RequestError 400 for messages that the template refuses.
        """
        plain = [{**message, "content": self._content(message["content"], image_token)} for message in chat.messages]
        if not self._knows_developer:
            for message in plain:
                if message["role"] == "developer":
                    message["role"] = "system"
        given: dict[str, Any] = {
            **self._special_tokens,
            **(variables or {}),
            "messages": plain,
            "tools": tools or None,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return self._template.render(given)
        except _TEMPLATE_ERRORS as error:
            # A template is a program over the client's data: what it raises is about that data.
            reason = f"the model's chat template refuses these messages: {error}"
            raise RequestError(400, reason, param="messages") from error

    def _content(self, content: str | list[dict[str, str]], image_token: str) -> str | list[dict[str, str]]:
        if isinstance(content, str):
            alone = self._takes_strings or not self._takes_parts
            return content if alone else [{"type": "text", "text": content}]
        if self._takes_parts:
            return content
        return "\n".join(image_token if part["type"] == "image" else part["text"] for part in content)

    def _shows(self, content: object) -> bool:
        """True when a message's content of this kind comes out as text, and not as Python writes a list."""
        try:
            text = self._template.render(
                {**self._special_tokens, "messages": [{"role": "user", "content": content}], "tools": None}
            )
        except _TEMPLATE_ERRORS:
            return False
        return _PROBE in text and "'type'" not in text and '"type"' not in text


class _GenerationTag(Extension):
    """`{% generation %}...{% endgeneration %}` marks the assistant's text for training; here it is just its body."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares a plain set

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without Jinja's HTML escapes, with the options that Hugging Face gives."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
