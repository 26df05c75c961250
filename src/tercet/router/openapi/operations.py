"""Everything that the router answers."""

from __future__ import annotations

from tercet.core.stage import ROLE_NAMES, Mode
from tercet.dialects.request import CHAT_PATH, COMPLETIONS_PATH
from tercet.router.dashboard.pages import HOME
from tercet.router.openapi.operation import (
    JSON,
    Answer,
    Operation,
    header_parameter,
    path_parameter,
    query_parameter,
)
from tercet.router.openapi.schema import Schema, array, boolean, integer, number, obj, ref, string
from tercet.router.passthrough import METHODS, OTHER_PATHS
from tercet.router.record import KEPT

EVENTS = "text/event-stream"
PROMETHEUS = "text/plain"
HTML = "text/html"

_FAILURES = (429, 502, 503, 504)
_GENERATION = (
    header_parameter("X-Request-Id", "Comes back in the answer, and is passed to workers.", string()),
    header_parameter(
        "X-Session-Id", "Names a conversation, for those who know it better than its prefix does.", string()
    ),
    header_parameter("X-Tercet-Timeline", "1: the stream has its timeline, in a comment before `[DONE]`.", string()),
    header_parameter("X-Tercet-Priority", "-9 to 9: who waits is ordered by it, where that is allowed.", string()),
)


def _generation(path: str, text: str, asked: str, answer: str) -> Operation:
    content = {JSON: ref(answer), EVENTS: obj({"data": string()})}
    return Operation(
        "POST",
        path,
        text,
        {200: Answer("The answer; with `stream`, server-sent events that end with `[DONE]`.", content)},
        parameters=_GENERATION,
        body={JSON: ref(asked)},
        errors=(404, 405, 422, *_FAILURES),
    )


def _get(path: str, text: str, schema: Schema, access: str = "admin", tag: str = "administration") -> Operation:
    return Operation("GET", path, text, {200: Answer("As it is now.", {JSON: schema})}, access=access, tag=tag)


def _post(path: str, text: str, done: Schema, *errors: int) -> Operation:
    return Operation(
        "POST", path, text, {200: Answer("Done.", {JSON: done})}, access="admin", tag="administration", errors=errors
    )


def _other(method: str) -> Operation:
    return Operation(
        method,
        OTHER_PATHS,
        "Any other path of the OpenAI API (embeddings, tokenize, ...), answered by a worker that has it.",
        {200: Answer("What the worker answered.")},
        parameters=(path_parameter("path", "The rest, which may hold slashes.", string(minLength=1)),),
        body={JSON: {"type": "object"}} if method in ("POST", "PUT", "PATCH") else None,
        body_required=False,
        errors=(404, 405, 415, 422, *_FAILURES),
        others=True,
    )


_MODES: Schema = {
    "type": "object",
    "description": "Of each mode why this topology can't run it, or null.",
    "additionalProperties": {"type": ["string", "null"]},
}
_ROLES = string(enum=sorted({*ROLE_NAMES, *ROLE_NAMES.values()}))

OPERATIONS: tuple[Operation, ...] = (
    _generation(CHAT_PATH, "Answer a conversation.", "ChatRequest", "ChatAnswer"),
    _generation(COMPLETIONS_PATH, "Continue a text.", "CompletionRequest", "CompletionAnswer"),
    _get("/v1/models", "The models of all workers, each once.", ref("Models"), "key", "inference"),
    Operation(
        "GET",
        "/v1/models/{id}",
        "One model.",
        {200: Answer("The model.", {JSON: ref("Model")})},
        parameters=(path_parameter("id", "Its name, which may hold slashes.", string(minLength=1)),),
        errors=(404,),
    ),
    *map(_other, METHODS),
    _get("/health", "The router lives.", obj({"status": string(enum=["ok"])}), "open", "health"),
    Operation(
        "GET",
        "/ready",
        "Whether a request would find a way through the workers.",
        {
            200: Answer("It would.", {JSON: ref("Ready")}),
            503: Answer("It would not; `reason` says why.", {JSON: ref("Ready")}),
        },
        access="open",
        tag="health",
    ),
    Operation(
        "GET",
        "/metrics",
        "Counters, gauges and histograms, for Prometheus.",
        {200: Answer("The text format 0.0.4.", {PROMETHEUS: string()})},
        access="open",
        tag="health",
    ),
    _get("/openapi.json", "This document.", {"type": "object"}, "open", "health"),
    Operation(
        "GET",
        HOME,
        "The dashboard: a page that asks `/status` and `/requests` once a second.",
        {200: Answer("The page.", {HTML: string()}), 304: Answer("As it was.")},
        access="open",
        tag="dashboard",
    ),
    Operation(
        "GET",
        HOME + "/{file}",
        "A file of the dashboard.",
        {200: Answer("The file."), 304: Answer("As it was."), 308: Answer("Of no file: the dashboard is at `/ui`.")},
        access="open",
        tag="dashboard",
        parameters=(path_parameter("file", "Its name.", string()),),
        errors=(404,),
    ),
    _get("/mode", "The mode, and which others there are.", obj({"mode": ref("Mode"), "modes": _MODES}), "key"),
    Operation(
        "POST",
        "/mode/{name}",
        "Route requests by this mode from now on; those under way keep their route.",
        {200: Answer("It is so.", {JSON: obj({"mode": ref("Mode"), "before": ref("Mode")})})},
        access="admin",
        tag="administration",
        parameters=(path_parameter("name", "The mode.", ref("Mode")),),
        errors=(404, 409),
    ),
    Operation(
        "GET",
        "/requests",
        "Records of the latest requests for generation, the latest to end first.",
        {200: Answer("The records.", {JSON: obj({"kept": integer(1), "requests": array(ref("Record"))})})},
        access="admin",
        tag="administration",
        parameters=(query_parameter("limit", "How many, at most.", integer(1, KEPT)),),
    ),
    _get("/status", "Workers, ranks, pairs, and what is under way.", ref("Status")),
    Operation(
        "POST",
        "/workers",
        "Have a worker join. It gets requests once an inference through it succeeded.",
        {
            201: Answer(
                "It joined.",
                {JSON: obj({"url": string(), "role": string()})},
                {"delete_workers_id": {"id": "$response.body#/url"}},
            )
        },
        access="admin",
        tag="administration",
        body={
            JSON: obj(
                {
                    "url": string(
                        pattern=r"^https?://[^\s/?#@]+(/[^\s?#@]*)?(#[a-z0-9=,-]+)?$",
                        description="http://HOST:PORT, and what flags say behind it: #ranks=2,bootstrap=8998",
                    ),
                    "role": _ROLES,
                }
            )
        },
        errors=(409,),
    ),
    Operation(
        "DELETE",
        "/workers/{id}",
        "Have a worker leave: no new requests, and an end once those under way are answered.",
        {
            202: Answer(
                "It leaves; `/status` says `draining` until then.",
                {JSON: obj({"url": string(), "draining": {"const": True}, "in_flight": integer(0)})},
            )
        },
        access="admin",
        tag="administration",
        parameters=(
            path_parameter("id", "Its URL, percent-encoded, or the name of one of its ranks: D1.", string(minLength=1)),
            query_parameter("timeout", "Seconds for the requests under way.", number(0)),
        ),
        errors=(404,),
    ),
    _post("/conversations/clear", "Forget which worker holds which conversation.", obj({"cleared": integer(0)})),
    _post("/metrics/clear", "Count from zero again.", obj({"cleared": {"const": True}})),
    _post(
        "/cache/reset",
        "Empty every worker's prefix cache.",
        obj({"reset": {"const": True}, "workers": array(string())}),
        502,
    ),
)

_RANK = obj(
    {
        "name": string(),
        "address": string(),
        "ready": boolean(),
        "breaker": string(enum=["closed", "half-open", "open"]),
        "requests": integer(0),
        "tokens": integer(0),
        "kv_use": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
    }
)
_WORKER = obj(
    {
        "url": string(),
        "role": string(),
        "stages": array(string()),
        "ready": boolean(),
        "draining": boolean(),
        "drain_left_s": {"type": ["number", "null"], "minimum": 0},
        "problem": {"type": ["string", "null"]},
        "models": array(string()),
        "ranks": array(_RANK),
    }
)
SCHEMAS: dict[str, Schema] = {
    "Record": obj(
        {
            "id": string(),
            "mode": ref("Mode"),
            "status": integer(),
            "duration_ms": number(0),
            "route": {"type": ["string", "null"]},
            "retries": integer(0),
            "key": {"type": ["string", "null"]},
            "spans": array(
                obj({"phase": string(), "worker": {"type": ["string", "null"]}}),
            ),
        },
        process=integer(0),
    ),
    "Mode": string(enum=[mode.value for mode in Mode]),
    "Ready": obj(
        {"ready": boolean(), "mode": ref("Mode")},
        reason=string(),
        workers=array(string()),
        problems={"type": "object"},
    ),
    "Status": obj(
        {
            "version": string(),
            "time": number(0),
            "mode": ref("Mode"),
            "modes": _MODES,
            "ready": boolean(),
            "reason": {"type": ["string", "null"]},
            "uptime_s": number(0),
            "in_flight": integer(0),
            "waiting": integer(0),
            "workers": array(_WORKER),
            "pairs": array({"type": "object"}),
            "processes": array(
                obj(
                    {
                        "process": integer(0),
                        "pid": integer(1),
                        "in_flight": integer(0),
                        "waiting": integer(0),
                        "starts": integer(1),
                        "ready": boolean(),
                    }
                )
            ),
            "counts": {"type": "object"},
        }
    ),
}
