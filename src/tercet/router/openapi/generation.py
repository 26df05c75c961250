"""Schemas of the OpenAI API: what the router and the built-in engine read. Other fields go to the engine as they are,
and other engines read more."""

from __future__ import annotations

from tercet.router.openapi.schema import Schema, array, boolean, integer, nullable, number, obj, ref, string

MAX_CHOICES = 64
STOP: Schema = {"anyOf": [string(), array(string(minLength=1), maxItems=16), {"type": "null"}]}
_LIMIT = nullable(integer(1, 1 << 31))

_SAMPLING: dict[str, Schema] = {
    "model": {**nullable(string()), "description": "May be left out where one model is served."},
    "stream": nullable(boolean()),
    "stream_options": nullable(
        obj(include_usage=nullable(boolean()), continuous_usage_stats=nullable(boolean())),
    ),
    "max_tokens": _LIMIT,
    "max_completion_tokens": _LIMIT,
    "min_tokens": nullable(integer(0)),
    "n": nullable(integer(1, MAX_CHOICES)),
    "temperature": nullable(number(0, 2)),
    "top_p": nullable(number(0, 1)),
    "top_k": nullable(integer(-1, 1 << 31)),
    "seed": nullable(integer()),
    "stop": STOP,
    "stop_token_ids": nullable(array(integer(0))),
    "ignore_eos": nullable(boolean()),
    "skip_special_tokens": nullable(boolean()),
    "return_token_ids": nullable(boolean()),
}

_PART: Schema = {
    "oneOf": [
        obj({"type": string(enum=["text"]), "text": string()}),
        obj({"type": string(enum=["image_url"]), "image_url": obj({"url": string()})}),
    ]
}

SCHEMAS: dict[str, Schema] = {
    "Message": obj(
        {"role": string(enum=["system", "user", "assistant", "tool"])},
        content=nullable({"anyOf": [string(), array(_PART)]}),
    ),
    "ChatRequest": obj(
        {"messages": array(ref("Message"), minItems=1)},
        **_SAMPLING,
        logprobs=nullable(boolean()),
        top_logprobs=nullable(integer(0, 20)),
        tools=nullable(array({"type": "object"})),
        tool_choice={},
        response_format=nullable(obj(type=string())),
    ),
    "CompletionRequest": obj(
        {
            "prompt": {
                "description": "A text, texts, token ids, or lists of token ids.",
                "anyOf": [
                    string(minLength=1),
                    array(string(minLength=1), minItems=1, maxItems=MAX_CHOICES),
                    array(integer(0), minItems=1),
                    array(array(integer(0), minItems=1), minItems=1, maxItems=MAX_CHOICES),
                ],
            }
        },
        **_SAMPLING,
        logprobs=nullable(integer(0, 20)),
        echo=nullable(boolean()),
    ),
    "Usage": obj(
        {"prompt_tokens": integer(0), "completion_tokens": integer(0), "total_tokens": integer(0)},
        prompt_tokens_details=nullable(obj(cached_tokens=integer(0), image_tokens=integer(0))),
    ),
    "ChatAnswer": obj(
        {
            "id": string(),
            "object": string(enum=["chat.completion"]),
            "model": string(),
            "choices": array(
                obj(
                    {
                        "index": integer(0),
                        "message": obj({"role": string(), "content": nullable(string())}),
                        "finish_reason": nullable(string()),
                    }
                ),
                minItems=1,
            ),
        },
        created=integer(),
        usage=ref("Usage"),
    ),
    "CompletionAnswer": obj(
        {
            "id": string(),
            "object": string(enum=["text_completion"]),
            "model": string(),
            "choices": array(
                obj({"index": integer(0), "text": string(), "finish_reason": nullable(string())}), minItems=1
            ),
        },
        created=integer(),
        usage=ref("Usage"),
    ),
    "Model": obj({"id": string(), "object": string()}),
    "Models": obj({"object": string(enum=["list"]), "data": array(ref("Model"))}),
    "Error": obj(
        {
            "error": obj(
                {
                    "message": string(),
                    "type": string(),
                    "code": nullable({"type": ["string", "integer"]}),
                    "param": nullable(string()),
                }
            )
        }
    ),
}
