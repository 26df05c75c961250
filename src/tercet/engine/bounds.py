"""What bounds a sequence: whether it fits an engine at all, and where its answer ends."""

from __future__ import annotations

from tercet.core.errors import RequestError
from tercet.engine.limits import SchedulerConfig
from tercet.engine.sequence import Sequence


def check_fit(sequence: Sequence, config: SchedulerConfig) -> None:
    """Raise RequestError when a sequence can never fit, or when its ticket contradicts it or the engine."""
    if not 0 < sequence.prompt_len < config.max_len:
        raise RequestError(
            400,
            f"the prompt has {sequence.prompt_len} tokens; prompt and answer together can have {config.max_len}",
            code="context_length_exceeded",
        )
    ticket = sequence.ticket
    if ticket is not None and (
        ticket.block_size != config.block_size
        or len(ticket.block_ids) != -(-sequence.prompt_len // config.block_size)
        or len(ticket.token_ids) != sequence.prompt_len
        or sequence.tokens[sequence.prompt_len :] != [ticket.first.token]
    ):
        raise RequestError(400, "the ticket does not fit its sequence or this engine", code="ticket_mismatch")


def set_bounds(sequence: Sequence, config: SchedulerConfig) -> None:
    """Set the length and the tokens at which a sequence ends."""
    sampling = sequence.sampling
    sequence.limit = min(sequence.prompt_len + sampling.max_tokens, config.max_len)
    sequence.stops = sampling.stop_token_ids | (frozenset() if sampling.ignore_eos else config.eos_token_ids)


def finish_reason(sequence: Sequence) -> str | None:
    """Return "stop" or "length" when a sequence's last token ends it, else None."""
    if sequence.tokens[-1] in sequence.stops and sequence.output_len >= sequence.sampling.min_tokens:
        return "stop"
    return "length" if len(sequence.tokens) >= sequence.limit else None
