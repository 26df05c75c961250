"""Reads OpenAI request bodies: what the client wants, checked, as one `Generation`."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tercet.core.errors import RequestError, TicketError
from tercet.core.image import ImageInput
from tercet.core.sampling import SamplingParams
from tercet.core.ticket import Ticket
from tercet.text.tokenizer import Tokenizer
from tercet.worker.fields import bad, flag, integers, mapping, number, strings
from tercet.worker.prompt_pictures import PromptPicture, prompt_pictures, ticket_pictures

MAX_CHOICES = 64
MAX_STOPS = 16
MAX_LOGPROBS = 20
DEFAULT_COMPLETION_TOKENS = 16
MAX_SEED = 0x7FFFFFFFFFFFFFFF

Prompts = tuple[list[Sequence[int]], list[str]]
"""Token ids and texts (for `echo`)."""
Pictures = tuple[PromptPicture, ...]

# Ignoring one of these would answer another question than the one asked. Each stands with the values that ask nothing.
_UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "allowed_token_ids": (None,),
    "bad_words": (None, []),
    "chat_template": (None,),
    "continue_final_message": (None, False),
    "documents": (None, []),
    "frequency_penalty": (None, 0),
    "guided_choice": (None,),
    "guided_grammar": (None,),
    "guided_json": (None,),
    "guided_regex": (None,),
    "include_stop_str_in_output": (None, False),
    "logit_bias": (None, {}),
    "logprob_token_ids": (None, []),
    "media_io_kwargs": (None, {}),
    "min_p": (None, 0),
    "mm_processor_kwargs": (None, {}),
    "presence_penalty": (None, 0),
    "prompt_embeds": (None,),
    "prompt_logprobs": (None,),
    "repetition_penalty": (None, 1),
    "return_tokens_as_token_ids": (None, False),
    "structured_outputs": (None,),
    "suffix": (None, ""),
    "truncate_prompt_tokens": (None,),
    "use_beam_search": (None, False),
}


@dataclass(frozen=True, slots=True)
class Generation:
    """One request: `prompts` as token ids; choice i of prompt p is answered at index p * n + i.

    `pictures` are those of the one prompt of a chat, as they came; `images` take their place once each has a key.
    """

    chat: bool
    prompts: tuple[tuple[int, ...], ...]
    prompt_texts: tuple[str, ...]
    sampling: SamplingParams
    stops: tuple[str, ...]
    n: int
    stream: bool
    include_usage: bool
    continuous_usage: bool
    echo: bool
    return_token_ids: bool
    skip_special_tokens: bool
    cache_salt: str
    hold: bool
    ticket: Ticket | None
    pictures: Pictures = ()
    images: tuple[ImageInput, ...] = ()

    @property
    def image_tokens(self) -> int:
        """Return how many of the prompt's tokens stand for pictures."""
        return sum(image.span.length for image in self.images)

    @property
    def choices(self) -> int:
        """Return how many answers are wanted in all."""
        return len(self.prompts) * self.n


def parse_body(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`. Raises RequestError 400."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the request body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(data, dict):
        raise RequestError(400, "the request body must be a JSON object", code="invalid_json")
    return data


def parse_generation(body: dict[str, Any], *, chat: bool, tokenizer: Tokenizer, max_model_len: int) -> Generation:
    """Check a body of /v1/chat/completions (`chat`) or /v1/completions. Raises RequestError 400 naming the field."""
    _refuse_unsupported(body, chat)
    hold, ticket = _handoff(body, tokenizer.vocab_size)
    pictures: Pictures = ()
    if ticket is not None:
        prompts, texts = _ticket_prompts(body, ticket, chat)
        pictures = ticket_pictures(body, ticket, tokenizer.image)
    elif chat:
        prompts, texts, pictures = _chat_prompts(body, tokenizer, max_model_len)
    else:
        prompts, texts = _completion_prompts(body, tokenizer, max_model_len)
    n = number(body, "n", 1, int, 1, MAX_CHOICES)
    if n * len(prompts) > MAX_CHOICES:
        raise RequestError(400, f"{len(prompts)} prompts x n = {n} is more than {MAX_CHOICES} choices", param="n")
    stream = flag(body, "stream")
    if hold and (len(prompts) > 1 or n > 1 or stream):
        wanted = "a prefill for a handoff takes one prompt, n = 1 and no stream"
        raise RequestError(400, wanted, param="kv_transfer_params")
    options = mapping(body, "stream_options")
    return Generation(
        chat=chat,
        prompts=tuple(tuple(prompt) for prompt in prompts),
        prompt_texts=tuple(texts),
        sampling=_sampling(body, chat, max(map(len, prompts)), hold, ticket, tokenizer.vocab_size, max_model_len),
        stops=strings(body, "stop", MAX_STOPS),
        n=n,
        stream=stream,
        include_usage=flag(options, "include_usage") and stream,
        continuous_usage=flag(options, "continuous_usage_stats") and stream,
        echo=not chat and flag(body, "echo"),
        return_token_ids=flag(body, "return_token_ids"),
        skip_special_tokens=flag(body, "skip_special_tokens", True),
        cache_salt=_cache_salt(body),
        hold=hold,
        ticket=ticket,
        pictures=pictures,
    )


def _refuse_unsupported(body: dict[str, Any], chat: bool) -> None:
    for field, harmless in _UNSUPPORTED.items():
        if body.get(field) not in harmless:
            raise RequestError(400, f"{field} is not supported by the built-in engine", param=field)
    kind = mapping(body, "response_format").get("type", "text")
    if kind != "text":
        raise RequestError(
            400, f"response_format {kind!r} is not supported by the built-in engine", param="response_format"
        )
    if chat and body.get("tool_choice") not in (None, "auto", "none"):
        raise RequestError(400, "the built-in engine can't force tool calls: drop tool_choice", param="tool_choice")
    if not chat and body.get("best_of") not in (None, body.get("n") or 1):
        raise RequestError(400, "best_of is not supported by the built-in engine", param="best_of")
    if not chat and body.get("echo") and body.get("logprobs") is not None:
        raise RequestError(400, "echo with logprobs is not supported by the built-in engine", param="echo")


def _sampling(
    body: dict[str, Any],
    chat: bool,
    prompt_len: int,
    hold: bool,
    ticket: Ticket | None,
    vocab_size: int,
    max_model_len: int,
) -> SamplingParams:
    max_tokens = _max_tokens(body, chat, hold, prompt_len, max_model_len)
    seed = body.get("seed")
    if seed is None:
        seed = ticket.seed if ticket is not None else secrets.randbits(31)
    elif isinstance(seed, bool) or not isinstance(seed, int):
        raise bad("seed", "an integer", seed)
    return SamplingParams(
        # A held sequence ends with its ticket; its limit is the decode worker's business.
        max_tokens=2 if hold else max_tokens,
        temperature=number(body, "temperature", 1.0, float, 0.0, 2.0),
        top_p=number(body, "top_p", 1.0, float, 0.0, 1.0),
        top_k=max(number(body, "top_k", 0, int, -1, 1 << 31), 0),
        seed=seed & MAX_SEED,
        stop_token_ids=frozenset(integers(body, "stop_token_ids", vocab_size)),
        ignore_eos=flag(body, "ignore_eos"),
        min_tokens=number(body, "min_tokens", 0, int, 0, max_tokens),
        logprobs=_logprobs(body, chat),
    )


def _handoff(body: dict[str, Any], vocab_size: int) -> tuple[bool, Ticket | None]:
    params = mapping(body, "kv_transfer_params")
    if params.get("do_remote_decode"):
        return True, None
    if not params.get("do_remote_prefill"):
        return False, None
    try:
        ticket = Ticket.from_params(params)
    except (TicketError, OverflowError) as error:
        raise _misfit(str(error)) from None
    # A ticket came through other hands: nothing in it may break the engine.
    tokens = (*ticket.token_ids, ticket.first.token, *(token for token, _ in ticket.first.top))
    if not ticket.token_ids or not all(0 <= token < vocab_size for token in tokens):
        raise _misfit(f"the ticket's tokens are not of this model's vocabulary of {vocab_size}")
    if not (math.isfinite(ticket.lease_s) and ticket.lease_s > 0):
        raise _misfit("the ticket's lease is not a time")
    return False, ticket


def _misfit(message: str) -> RequestError:
    return RequestError(400, message, code="ticket_mismatch", param="kv_transfer_params")


def _ticket_prompts(body: dict[str, Any], ticket: Ticket, chat: bool) -> Prompts:
    """P has tokenised: its token ids are the prompt, whatever the body says. Only `echo` needs the text."""
    text = body.get("prompt") if not chat and body.get("echo") else ""
    return [ticket.token_ids], [text if isinstance(text, str) else ""]


def _chat_prompts(
    body: dict[str, Any], tokenizer: Tokenizer, most: int
) -> tuple[list[Sequence[int]], list[str], Pictures]:
    messages, tools = body.get("messages"), body.get("tools")
    if not isinstance(messages, list) or not messages:
        raise bad("messages", "a non-empty list of messages", messages)
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise bad("tools", "a list of tools", tools)
    prompt = tokenizer.encode_chat(
        messages,
        tools=tools if body.get("tool_choice") != "none" else None,
        add_generation_prompt=flag(body, "add_generation_prompt", True),
        template_kwargs=mapping(body, "chat_template_kwargs"),
        add_special_tokens=flag(body, "add_special_tokens"),
        most=most,
    )
    if not prompt.tokens:
        raise RequestError(400, "the messages make an empty prompt", param="messages")
    return [prompt.tokens], [prompt.text], prompt_pictures(body, prompt, tokenizer.image)


def _completion_prompts(body: dict[str, Any], tokenizer: Tokenizer, most: int) -> Prompts:
    prompt = body.get("prompt")
    wanted = "a non-empty string, list of strings, list of token ids, or list of such lists"
    items: list[object]
    if isinstance(prompt, str) or (isinstance(prompt, list) and prompt and type(prompt[0]) is int):
        items = [prompt]
    elif isinstance(prompt, list):
        items = prompt
    else:
        raise bad("prompt", wanted, prompt)
    if not 0 < len(items) <= MAX_CHOICES:
        raise bad("prompt", f"1 to {MAX_CHOICES} prompts", len(items))
    add = flag(body, "add_special_tokens", True)
    echo = flag(body, "echo")
    prompts: list[Sequence[int]] = []
    texts: list[str] = []
    for item in items:
        if isinstance(item, str) and item:
            prompts.append(tokenizer.encode(item, add_special_tokens=add, most=most))
            texts.append(item)
        elif isinstance(item, list) and item and all(type(i) is int for i in item):
            wrong = next((i for i in item if not 0 <= i < tokenizer.vocab_size), None)
            if wrong is not None:
                raise RequestError(
                    400, f"token id {wrong} is outside the vocabulary of {tokenizer.vocab_size}", param="prompt"
                )
            if tokenizer.image is not None and tokenizer.image.id in item:
                text = f"token id {tokenizer.image.id} stands for pictures: send those to /v1/chat/completions"
                raise RequestError(400, text, param="prompt")
            prompts.append(item)
            texts.append(tokenizer.decode(item) if echo else "")
        else:
            raise bad("prompt", wanted, item)
        if not prompts[-1]:
            raise RequestError(400, "the prompt has no tokens", param="prompt")
    return prompts, texts


def _max_tokens(body: dict[str, Any], chat: bool, hold: bool, prompt_len: int, max_model_len: int) -> int:
    older, newer = (number(body, field, 0, int, 1, 1 << 31) for field in ("max_tokens", "max_completion_tokens"))
    room = max_model_len - prompt_len
    asked = newer or older or None
    if room < 1 or (asked is not None and asked > room):
        # The one token of a held prefill is the router's wish, not the client's.
        wish = "" if asked is None or hold else f" and {asked} for the answer"
        raise RequestError(
            400,
            f"This model's maximum context length is {max_model_len} tokens; the request asks for "
            f"{prompt_len} tokens in the prompt{wish}. Shorten the prompt or the answer.",
            code="context_length_exceeded",
            param="messages" if chat else "prompt",
        )
    return asked or (room if chat else min(room, DEFAULT_COMPLETION_TOKENS))


def _cache_salt(body: dict[str, Any]) -> str:
    salt = str(body.get("cache_salt") or "")
    try:
        salt.encode()
    except UnicodeEncodeError:
        raise bad("cache_salt", "valid Unicode", salt) from None
    return salt


def _logprobs(body: dict[str, Any], chat: bool) -> int | None:
    if not chat:
        value = number(body, "logprobs", -1, int, 0, MAX_LOGPROBS)
        return None if value < 0 else value
    top, wanted = number(body, "top_logprobs", 0, int, 0, MAX_LOGPROBS), flag(body, "logprobs")
    if top and not wanted:
        raise RequestError(400, "top_logprobs needs logprobs: true beside it", param="top_logprobs")
    return top if wanted else None
