"""One request, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tercet.results.record import RequestRecord
from tercet.sim.content import Content


@dataclass(slots=True, eq=False)
class SimRequest:
    """One turn: `prompt_tokens` of `content`, pictures included, for `output_tokens` of answer. Times in seconds.

    `turn` 1 is a conversation's first. `due_s` is when the client wanted to send it, before it had a connection.
    """

    content: Content
    turn: int
    prompt_tokens: int
    output_tokens: int
    on_end: Callable[[SimRequest], None]
    due_s: float = 0.0
    first_s: float = 0.0
    done_s: float = 0.0
    cached_tokens: int = 0
    external_tokens: int = 0
    recomputed: bool = False
    route: str = ""
    failure: str | None = None
    retries: int = 0
    prefilled_s: float = 0.0
    encoded_s: float = 0.0
    begun_s: float = 0.0
    token_s: Sequence[float] = field(default=())

    def record(self, start_s: float) -> RequestRecord:
        """Return its record in the results' terms; times count from `start_s`."""
        failed = self.failure is not None
        chunks = () if failed else tuple(time - start_s for time in (self.first_s, *self.token_s))
        return RequestRecord(
            conversation=self.content.session,
            turn=self.turn,
            due_s=self.due_s - start_s,
            sent_s=self.due_s - start_s,
            done_s=self.done_s - start_s,
            chunk_s=chunks,
            prompt_tokens=self.prompt_tokens,
            output_tokens=0 if failed else self.output_tokens,
            expected_output_tokens=self.output_tokens,
            cached_tokens=self.cached_tokens,
            external_tokens=self.external_tokens,
            recomputed=self.recomputed,
            route=self.route or None,
            status=200 if not failed or self.first_s else 503,
            error=None if not failed else _ERRORS[self.failure or ""],
            failure=self.failure,
            phases_ms={} if failed else self.phases_ms(),
            images=len(self.content.pictures),
            vision_tokens=self.content.vision_tokens or None,
            expected_prompt_tokens=self.prompt_tokens,
        )

    def phases_ms(self) -> dict[str, float]:
        """Return where its time went: `encode` until its pictures were there, `prefill`, `handoff`, `decode`."""
        began = self.encoded_s or self.begun_s
        ends = {"prefill": (self.prefilled_s or self.first_s) - began, "decode": self.done_s - self.first_s}
        if self.encoded_s:
            ends["encode"] = self.encoded_s - self.begun_s
        if self.prefilled_s:
            ends["handoff"] = self.first_s - self.prefilled_s
        return {name: 1e3 * seconds for name, seconds in ends.items()}


_ERRORS = {
    "http_4xx": "refused: prompt and answer are longer than a sequence may be",
    "http_5xx": "refused: no worker is ready for it",
    "not_sent": "not sent: an earlier turn failed",
    "closed": "its worker was lost in mid-stream",
}
