"""What the load generator asks of a server before it measures it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter_ns
from typing import Any

from tercet.bench.result import RequestResult
from tercet.bench.sender import Headers, Sender
from tercet.core.errors import TercetError, UsageError
from tercet.http.client import Client, ClientError
from tercet.traffic.conversation import Conversation, TokenRange, TurnSpec
from tercet.traffic.prompts import PromptForm, Prompts, Said
from tercet.traffic.words import text_of

ADMIN_TIMEOUT_S = 30.0
RESET_PATHS = ("/cache/reset", "/reset_prefix_cache", "/flush_cache")
"""How Tercet, vLLM and SGLang are told to empty their prefix caches."""

SHORT, LONG = 16, 48
"""Tokens or words of the probing prompts."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that a server lists; sizes None where it doesn't say."""

    id: str
    vocab_size: int | None = None
    max_model_len: int | None = None


class TargetServer:
    """One running server. `headers` go with every request (an API key)."""

    def __init__(
        self, client: Client, url: str, *, headers: Headers = (), timeout_s: float = 600.0, salt: str = ""
    ) -> None:
        self._client = client
        self._url = url
        self._headers = headers
        self._salt = salt
        self._sender = Sender(client, url, headers=headers, timeout_s=timeout_s, idle_timeout_s=timeout_s)

    async def model(self, name: str) -> ServedModel:
        """Return the model called `name`, or the first that the server lists. Raises TercetError when there is none."""
        status, data = await self._call("GET", "/v1/models")
        listed = data.get("data") if isinstance(data, dict) else None
        cards = [card for card in listed if isinstance(card, dict) and "id" in card] if isinstance(listed, list) else []
        if status != 200 or not cards:
            if name and status not in (401, 403):
                return ServedModel(name)
            raise TercetError(
                f"GET {self._url}/v1/models answered {status}: is this an OpenAI-compatible server? "
                "(--api-key gives a key, --model a name it needs not list)"
            )
        found = [card for card in cards if card["id"] == name] if name else cards
        if not found:
            names = ", ".join(str(card["id"]) for card in cards)
            raise UsageError(f"--model {name!r} is not served at {self._url}: it lists {names}")
        card = found[0]
        return ServedModel(str(card["id"]), _size(card.get("vocab_size")), _size(card.get("max_model_len")))

    async def mode(self) -> str | None:
        """Return the mode that a Tercet router says it is in; None from any other server."""
        status, data = await self._call("GET", "/mode")
        return str(data["mode"]) if status == 200 and isinstance(data, dict) and "mode" in data else None

    async def workers(self) -> dict[str, int]:
        """Return the URLs of the workers behind a Tercet router and how many ranks each has.

        Empty for any other server, and where the key is no admin's.
        """
        status, data = await self._call("GET", "/status")
        listed = data.get("workers") if status == 200 and isinstance(data, dict) else None
        try:
            return {str(worker["url"]): len(worker["ranks"]) for worker in listed or ()}
        except (TypeError, KeyError):
            return {}

    async def reset_caches(self) -> None:
        """Empty the server's prefix caches. Raises UsageError when it offers no way to, TercetError when it fails."""
        for path in RESET_PATHS:
            status, data = await self._call("POST", path)
            if status < 300:
                return
            if status not in (404, 405, 501):
                raise TercetError(f"POST {self._url}{path} answered {status}: {json.dumps(data)[:200]}")
        raise UsageError(
            f"--reset-caches: {self._url} knows none of {', '.join(RESET_PATHS)}; leave it out: prompts are "
            "salted per run, so no run is served from another's cache"
        )

    async def prompts(
        self, model: ServedModel, form: PromptForm | None, *, turns: int, exact: bool, extra: Mapping[str, Any]
    ) -> Prompts:
        """Return how to write prompts for this server, found out with a few short requests.

        `form` None tries token ids (lengths are exact whatever the tokeniser), then chats. Texts get one word a token,
        corrected by what the server counts for two prompts of known words. Raises TercetError when nothing works.
        """
        problems = []
        for wanted in (PromptForm.TOKENS, PromptForm.CHAT) if form is None else (form,):
            for extensions in (True, False):
                prompts = Prompts(wanted, extensions=extensions, exact=exact and extensions, extra=dict(extra))
                result = await self._ask(model, prompts, SHORT)
                why = _unfit(result, prompts, turns)
                if why is None:
                    return await self._calibrated(model, prompts, result, turns)
                problems.append(f"prompts as {wanted}{'' if extensions else ' without extensions'}: {why}")
                if result.failure not in ("http_4xx", "invalid_answer"):
                    break
        raise TercetError(f"{self._url} can't be measured:\n  " + "\n  ".join(problems))

    async def _calibrated(self, model: ServedModel, prompts: Prompts, short: RequestResult, turns: int) -> Prompts:
        if prompts.form is PromptForm.TOKENS or short.prompt_tokens is None:
            return prompts
        long = await self._ask(model, prompts, LONG)
        if long.prompt_tokens is None:
            return prompts
        per_word = (long.prompt_tokens - short.prompt_tokens) / (LONG - SHORT)
        if not per_word > 0:
            return prompts
        first = round(short.prompt_tokens - SHORT * per_word)
        prompts = replace(prompts, first_overhead=first, tokens_per_word=per_word)
        if turns > 1:
            said = Said(text_of(TokenRange().draw("answer", SHORT)))
            later = await self._ask(model, prompts, SHORT + first, answers=(said,))
            if later.prompt_tokens is not None:
                # The answer has the short prompt's words; the two turns are as long as the first prompts taught.
                added = later.prompt_tokens - short.prompt_tokens - 2 * prompts.words(SHORT, 1) * per_word
                prompts = replace(prompts, later_overhead=max(0, round(added)))
        return prompts

    async def _ask(
        self, model: ServedModel, prompts: Prompts, tokens: int, answers: Sequence[Said] = ()
    ) -> RequestResult:
        """Send one prompt of so many tokens (words, before calibration) and ask for one token."""
        turn = len(answers)
        talk = Conversation(
            f"probe-{self._salt}",
            0,
            self._salt,
            0.0,
            (TurnSpec(tokens, 1),) * turn + (TurnSpec(SHORT if turn else tokens, 1),),
            TokenRange.for_vocabulary(model.vocab_size),
            prompts,
        )
        body = talk.request_body(turn, answers, model=model.id)
        return await self._sender.send(body, scheduled_ns=perf_counter_ns())

    async def _call(self, method: str, path: str) -> tuple[int, Any]:
        headers = (("Content-Type", "application/json"), *self._headers)
        try:
            response = await self._client.request(
                method,
                self._url + path,
                headers=headers,
                first_byte_timeout_s=ADMIN_TIMEOUT_S,
                idle_timeout_s=ADMIN_TIMEOUT_S,
            )
            raw = await response.read()
        except ValueError as error:
            raise UsageError(f"{self._url}: {error}; write for instance http://127.0.0.1:8000") from error
        except ClientError as error:
            raise TercetError(f"{method} {self._url}{path}: {error}") from error
        try:
            return response.status, json.loads(raw) if raw else None
        except (ValueError, RecursionError):
            return response.status, raw.decode(errors="replace")


def _size(value: object) -> int | None:
    """Return a size that a server says, None for what is none."""
    return value if type(value) is int and value > 0 else None


def _unfit(result: RequestResult, prompts: Prompts, turns: int) -> str | None:
    """Say why prompts of this form don't do for this server; None when they do."""
    if result.status != 200 or result.failure in ("engine_error", "closed", "stalled", "timeout"):
        return result.error or f"HTTP {result.status}"
    if prompts.form is not PromptForm.TOKENS:
        return None
    if result.prompt_tokens is not None and abs(result.prompt_tokens - SHORT) > 2:
        return f"it counts {result.prompt_tokens} tokens in a prompt of {SHORT} token ids"
    if turns > 1 and len(result.token_ids) != result.completion_tokens:
        return "it does not return its answers' token ids (return_token_ids), which later turns need"
    return None
