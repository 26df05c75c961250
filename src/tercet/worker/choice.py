"""One choice of an answer while it is being written: tokens to text, stop strings, logprobs."""

from __future__ import annotations

from typing import Any, NamedTuple

from tercet.core.sampling import SampledToken
from tercet.text.detokenizer import IncrementalDetokenizer
from tercet.text.stops import StopStrings
from tercet.text.tokenizer import Tokenizer
from tercet.worker.openai_request import Generation

PROMPT_TAIL = 8
"""Prompt tokens the detokeniser looks back on."""
LOWEST_LOGPROB = -9999.0
"""What stands for minus infinity, which JSON lacks."""


class Piece(NamedTuple):
    """What has come since the last piece: text that can be shown, its tokens, and the end if this is it.

    `details` has an entry a token when logprobs are wanted, with the number of characters before it. One is made for
    every token of a stream, hence a tuple: a frozen data class takes three times as long to make.
    """

    text: str
    tokens: list[int]
    details: list[tuple[SampledToken, int]]
    finish_reason: str | None
    stop_reason: str | int | None
    first: bool


class Choice:
    """Turns tokens into pieces. `index` is the choice's place in the answer.

    Text is decoded as tokens come only when somebody wants it then: a stream, or a stop string.
    """

    __slots__ = (
        "_decoded",
        "_details",
        "_detokenizer",
        "_eager",
        "_end_shown",
        "_min_tokens",
        "_parts",
        "_shown",
        "_stop_tokens",
        "_stops",
        "_wants_details",
        "finish_reason",
        "index",
        "prompt",
        "stop_reason",
        "tokens",
    )

    def __init__(self, index: int, generation: Generation, tokenizer: Tokenizer) -> None:
        sampling = generation.sampling
        self.index = index
        self.prompt = generation.prompts[index // generation.n]
        self.tokens: list[int] = []
        self.finish_reason: str | None = None
        self.stop_reason: str | int | None = None
        self._detokenizer = IncrementalDetokenizer(
            tokenizer, self.prompt[-PROMPT_TAIL:], skip_special_tokens=generation.skip_special_tokens
        )
        self._stops = StopStrings(generation.stops) if generation.stops else None
        self._stop_tokens = sampling.stop_token_ids - (frozenset() if sampling.ignore_eos else tokenizer.eos_token_ids)
        self._min_tokens = sampling.min_tokens
        self._wants_details = sampling.logprobs is not None
        self._eager = generation.stream or self._stops is not None or self._wants_details
        self._parts: list[str] = []
        self._details: list[tuple[SampledToken, int]] = []
        self._shown = 0
        self._end_shown = False
        self._decoded = 0

    @property
    def unshown(self) -> bool:
        """True when `take` would return text or the end."""
        return bool(self._parts) or (self.finish_reason is not None and not self._end_shown)

    def push(self, token: int) -> bool:
        """Take a token after which the answer goes on, unless it completes a stop string. True when that has brought
        text that can be shown, or the end."""
        self.tokens.append(token)
        return self._eager and self._decode(token)

    def push_detailed(self, sampled: SampledToken) -> bool:
        """Take a token with its logprobs, as `push` does."""
        if self._wants_details:
            self._details.append((sampled, self._decoded))
        return self.push(sampled.token)

    def end(self, finish_reason: str, last: SampledToken | None) -> None:
        """Take the end that the engine found and the token, if any, that came with it."""
        if finish_reason == "stop" and last is not None:
            # The token that ended the answer is not part of its text.
            if self._wants_details:
                self._details.append((last, self._decoded))
            self.tokens.append(last.token)
            hidden = 1
            if last.token in self._stop_tokens:
                self.stop_reason = last.token
        else:
            hidden = 0
            if last is not None:
                self.push_detailed(last)
                if self.finish_reason is not None:
                    return
        tail = "" if self._eager else self._detokenizer.push(self.tokens[: len(self.tokens) - hidden])
        tail += self._detokenizer.flush()
        if self._stops is not None:
            tail, matched = self._stops.push(tail)
            if matched is not None:
                finish_reason, self.stop_reason = "stop", matched
            else:
                tail += self._stops.flush()
        self._parts.append(tail)
        self.finish_reason = finish_reason

    def take(self) -> Piece:
        """Return what has come since the last call."""
        text = "".join(self._parts)
        self._parts.clear()
        tokens, details, first = self.tokens[self._shown :], self._details, self._shown == 0
        self._shown = len(self.tokens)
        self._end_shown = self.finish_reason is not None
        if details:
            self._details = []
        return Piece(text, tokens, details, self.finish_reason, self.stop_reason, first)

    def _decode(self, token: int) -> bool:
        text = self._detokenizer.push((token,))
        if not text:
            return False
        self._decoded += len(text)
        if self._stops is not None and len(self.tokens) > self._min_tokens:
            text, matched = self._stops.push(text)
            if matched is not None:
                self.finish_reason, self.stop_reason = "stop", matched
            elif not text:
                return False
        self._parts.append(text)
        return True


def completion_logprobs(tokenizer: Tokenizer, piece: Piece, offset: int) -> dict[str, Any]:
    """Return the `logprobs` object of /v1/completions. `offset` characters precede the answer (the echoed prompt).

    A chosen token that is not among the most likely is added to them, as OpenAI and vLLM do.
    """
    top = []
    for sampled, _ in piece.details:
        likely = {tokenizer.token_text(sampled.token): _finite(sampled.logprob)}
        for token, logprob in sampled.top:
            likely.setdefault(tokenizer.token_text(token), _finite(logprob))
        top.append(likely)
    return {
        "tokens": [tokenizer.token_text(sampled.token) for sampled, _ in piece.details],
        "token_logprobs": [_finite(sampled.logprob) for sampled, _ in piece.details],
        "top_logprobs": top,
        "text_offset": [offset + before for _, before in piece.details],
    }


def chat_logprobs(tokenizer: Tokenizer, piece: Piece) -> dict[str, Any]:
    """Return the `logprobs` object of /v1/chat/completions."""

    def entry(token: int, logprob: float | None) -> dict[str, Any]:
        text = tokenizer.token_bytes(token)
        return {"token": text.decode("utf-8", "replace"), "logprob": _finite(logprob), "bytes": list(text)}

    content = []
    for sampled, _ in piece.details:
        top = [entry(token, logprob) for token, logprob in sampled.top]
        content.append({**entry(sampled.token, sampled.logprob), "top_logprobs": top})
    return {"content": content}


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LOWEST_LOGPROB)
