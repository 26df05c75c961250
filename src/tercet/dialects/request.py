"""A client's request as dialects see it."""

from __future__ import annotations

from typing import Any

from tercet.core.choices import tries_several
from tercet.core.errors import RequestError
from tercet.core.fast_json import dumps, loads
from tercet.dialects.pictures import Pictures

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"

PRIVATE_FIELDS = frozenset(
    {
        "kv_transfer_params",
        "ec_transfer_params",
        "disaggregated_params",
        "data_parallel_rank",
        "routed_dp_rank",
        "disagg_prefill_dp_rank",
    }
)
PRIVATE_PREFIX = "bootstrap_"
PEERS = "_addr_"
"""In the name of a request: vLLM's P2P-NCCL connector reads there with whom to exchange blocks
(`___prefill_addr_HOST:PORT`)."""
MOST_PARTS = 16_384
"""Messages of a chat, and parts of these: what looks at each lets all other requests wait meanwhile."""


class ClientRequest:
    """One request for generation: `body` parsed and free of private fields, `raw` the same as bytes. `headers` go
    to every worker. Where `pictures` were taken out of `body`, `raw` is empty.

    `stream`: the client wants server-sent events, that end with their usage if it wants `include_usage`. `choices` are
    how many answers to one prompt are wanted. These are read once: a request asks for each of them several times.
    """

    __slots__ = ("body", "choices", "headers", "include_usage", "path", "pictures", "raw", "stream")

    def __init__(
        self,
        path: str,
        body: dict[str, Any],
        raw: bytes,
        headers: tuple[tuple[str, str], ...] = (),
        pictures: Pictures | None = None,
    ) -> None:
        self.path, self.body, self.raw, self.headers, self.pictures = path, body, raw, headers, pictures
        self.stream = bool(body.get("stream"))
        options, n = body.get("stream_options"), body.get("n")
        self.include_usage = bool(options.get("include_usage")) if isinstance(options, dict) else False
        self.choices: int = n if isinstance(n, int) and n > 0 else 1

    def let_go(self) -> None:
        """Forget what is asked, which may be long: it will be sent to nobody any more."""
        self.raw = b""
        for name in ("prompt", "messages"):
            self.body.pop(name, None)
        if self.pictures is not None:
            self.pictures.drop()

    @property
    def chat(self) -> bool:
        """True for chat completions."""
        return self.path == CHAT_PATH

    @property
    def continuous_usage(self) -> bool:
        """True when every event of a stream shall hold the usage so far."""
        return self.include_usage and bool(self.body["stream_options"].get("continuous_usage_stats"))

    @property
    def one_choice(self) -> bool:
        """True when one answer to a prompt is wanted, and one tried."""
        return not tries_several(self.body)

    @property
    def max_tokens(self) -> object:
        """The limit that the client set, unchecked; None when there is none."""
        value = self.body.get("max_completion_tokens")
        return self.body.get("max_tokens") if value is None else value


def parse_object(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in `raw`. Raises RequestError 400."""
    try:
        data = loads(raw)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the request body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(data, dict):
        raise RequestError(400, "the request body must be a JSON object", code="invalid_json")
    return data


def read_body(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the JSON object in `raw` without the fields that only the router may set, and the same as bytes.

    A client that could set them would make one worker read from any address it likes. Raises RequestError 400.
    """
    data = parse_object(raw)
    # vLLM takes the same fields out of its own.
    extra = data.get("vllm_xargs")
    stripped = _strip(extra) if isinstance(extra, dict) else False
    # Nearly always there are none, and a loop costs more.
    if not PRIVATE_FIELDS.isdisjoint(data) or PRIVATE_PREFIX in "\n".join(data):
        stripped = _strip(data) or stripped
    name = data.get("request_id")
    if isinstance(name, str) and PEERS in name:
        del data["request_id"]
        stripped = True
    return (data, dump(data)) if stripped else (data, raw)


def refuse_crowd(body: dict[str, Any]) -> None:
    """Raise RequestError 400 for a chat of too many messages and parts: a body of 64 MiB has room for millions."""
    messages = body.get("messages")
    count = len(messages) if isinstance(messages, list) else 0
    if isinstance(messages, list) and count <= MOST_PARTS:
        contents = (message.get("content") for message in messages if isinstance(message, dict))
        count += sum(len(content) for content in contents if isinstance(content, list))
    if count > MOST_PARTS:
        message = f"a chat may have {MOST_PARTS} messages and parts of messages, and this one has {count}"
        raise RequestError(400, message, code="too_many_messages", param="messages")


def _strip(data: dict[str, Any]) -> bool:
    """Delete the private fields; return whether there were any."""
    private = [key for key in data if key in PRIVATE_FIELDS or key.startswith(PRIVATE_PREFIX)]
    for key in private:
        del data[key]
    return bool(private)


def dump(data: dict[str, Any]) -> bytes:
    """Return `data` as compact JSON."""
    return dumps(data)
