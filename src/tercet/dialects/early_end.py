"""Turns the prefill worker's whole answer into the client's, when it is all there is to say."""

from __future__ import annotations

from typing import Any

from tercet.dialects.request import ClientRequest, dump

TICKET_FIELD = "kv_transfer_params"
PRIVATE = (TICKET_FIELD, "ec_transfer_params")
"""What an engine says to the router only."""


def early_answer(answer: dict[str, Any], request: ClientRequest) -> tuple[bytes, str]:
    """Return (body, content type) of the client's answer: JSON, or server-sent events when it asked for a stream."""
    answer = {key: value for key, value in answer.items() if key not in PRIVATE}
    if not request.stream:
        return dump(answer), "application/json"
    return as_events(answer, request), "text/event-stream"


def as_events(answer: dict[str, Any], request: ClientRequest) -> bytes:
    """Return a non-streamed OpenAI answer as the events of the stream it would have been."""
    chat, include_usage, so_far = request.chat, request.include_usage, request.continuous_usage
    dropped = ("choices", "usage", "object", "prompt_token_ids")
    head = {key: value for key, value in answer.items() if key not in dropped}
    head["object"] = "chat.completion.chunk" if chat else "text_completion"
    extra = {"usage": answer.get("usage") if so_far else None} if include_usage else {}
    events = []
    for choice in answer.get("choices") or []:
        piece = dict(choice)
        if chat:
            message = dict(piece.pop("message", None) or {})
            calls = message.get("tool_calls")
            if calls:
                message["tool_calls"] = [{"index": i, **call} for i, call in enumerate(calls)]
            piece["delta"] = {
                "role": "assistant",
                **{k: v for k, v in message.items() if v is not None or k == "content"},
            }
        if chat and "prompt_token_ids" in answer:
            piece.setdefault("prompt_token_ids", answer["prompt_token_ids"])
        events.append(dump({**head, "choices": [piece], **extra}))
    if include_usage:
        events.append(dump({**head, "choices": [], "usage": answer.get("usage")}))
    return b"".join(b"data: %b\n\n" % event for event in [*events, b"[DONE]"])
