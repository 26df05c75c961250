"""A client's request as dialects see it."""

from __future__ import annotations

from typing import Any

from tercet.core.errors import RequestError
from tercet.core.fast_json import dumps, loads
from tercet.core.record import record
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


@record(frozen=True, slots=True)
class ClientRequest:
    """One request for generation: `body` parsed and free of private fields, `raw` the same as bytes. `headers` go
    to every worker. Where `pictures` were taken out of `body`, `raw` is empty."""

    path: str
    body: dict[str, Any]
    raw: bytes
    headers: tuple[tuple[str, str], ...] = ()
    pictures: Pictures | None = None

    @property
    def chat(self) -> bool:
        """True for chat completions."""
        return self.path == CHAT_PATH

    @property
    def stream(self) -> bool:
        """True when the client wants server-sent events."""
        return bool(self.body.get("stream"))

    @property
    def include_usage(self) -> bool:
        """True when a streamed answer shall end with its usage."""
        options = self.body.get("stream_options")
        return isinstance(options, dict) and bool(options.get("include_usage"))

    @property
    def continuous_usage(self) -> bool:
        """True when every event of a stream shall hold the usage so far."""
        options = self.body.get("stream_options")
        return self.include_usage and isinstance(options, dict) and bool(options.get("continuous_usage_stats"))

    @property
    def max_tokens(self) -> object:
        """The limit that the client set, unchecked; None when there is none."""
        value = self.body.get("max_completion_tokens")
        return self.body.get("max_tokens") if value is None else value

    @property
    def choices(self) -> int:
        """How many answers to one prompt are wanted."""
        n = self.body.get("n")
        return n if isinstance(n, int) and n > 0 else 1


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
    extra = data.get("vllm_xargs")  # vLLM takes the same fields out of it
    stripped = [_strip(data), isinstance(extra, dict) and _strip(extra)]
    return (data, dump(data)) if any(stripped) else (data, raw)


def _strip(data: dict[str, Any]) -> bool:
    """Delete the private fields; return whether there were any."""
    if PRIVATE_FIELDS.isdisjoint(data) and PRIVATE_PREFIX not in "\n".join(data):
        return False  # nearly always: a loop costs more
    private = [key for key in data if key in PRIVATE_FIELDS or key.startswith(PRIVATE_PREFIX)]
    for key in private:
        del data[key]
    return bool(private)


def dump(data: dict[str, Any]) -> bytes:
    """Return `data` as compact JSON."""
    return dumps(data)
