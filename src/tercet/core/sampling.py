"""How the next token is chosen."""

from __future__ import annotations

from dataclasses import dataclass

COLDEST = 1e-5
"""Below this temperature the most likely token is taken, as vLLM does: logits divided by less are infinite."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling of one sequence. A token is a function of (logits, these, seed, position) and of nothing else.

    `seed` is always set by the front (drawn at random when the client gave none).
    `logprobs` is the number of alternatives wanted per token: None for no logprobs, 0 for the chosen token's alone.
    Stop strings are the front's business (it has the text); `stop_token_ids` are the engine's.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    min_tokens: int = 0
    logprobs: int | None = None

    @property
    def greedy(self) -> bool:
        """True when the most likely token is always taken."""
        return self.temperature < COLDEST or self.top_k == 1


@dataclass(frozen=True, slots=True)
class SampledToken:
    """One chosen token.

    `logprob` is in nats and of the *unmodified* distribution; `top` holds the most likely (token, logprob) pairs.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
