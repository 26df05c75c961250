"""One method of one path."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus

from tercet.router.openapi.schema import Schema, ref

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer: what it means, its body by content type, and what can be done with it by operation."""

    text: str
    content: dict[str, Schema] = field(default_factory=dict)
    links: dict[str, dict[str, str]] = field(default_factory=dict)
    """Operation -> its parameters, as runtime expressions."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What a client may ask. `path` has its variable part in braces, described in `parameters`, as headers and query
    are; `errors` are the statuses besides those that every request may get; `access` is one of `open`, `key`, `admin`.
    """

    method: str
    path: str
    text: str
    answers: dict[int, Answer]
    access: str = "key"
    tag: str = "inference"
    parameters: tuple[Schema, ...] = ()
    body: dict[str, Schema] | None = None
    body_required: bool = True
    errors: tuple[int, ...] = ()
    others: bool = False
    """True where a worker may answer with any other status."""

    @property
    def name(self) -> str:
        """The operation's id."""
        words = self.path.replace("{", "").replace("}", "").strip("/").replace(".", "/").replace("-", "_").split("/")
        return "_".join((self.method.lower(), *filter(None, words)))

    def describe(self) -> Schema:
        """Return the OpenAPI operation object."""
        refused = _ALWAYS if self.access == "open" else (*_ALWAYS, 401, 403)
        responses = {str(status): _answer(answer) for status, answer in self.answers.items()}
        for status in sorted({*refused, *self.errors} - set(self.answers)):
            responses[str(status)] = {"$ref": f"#/components/responses/{status}"}
        if self.others:
            responses["default"] = {"description": "What the worker answered."}
        found: Schema = {
            "operationId": self.name,
            "summary": self.text,
            "tags": [self.tag],
            "responses": responses,
            "security": [] if self.access == "open" else [{"key": []}, {}],
        }
        if self.parameters:
            found["parameters"] = list(self.parameters)
        if self.body is not None:
            found["requestBody"] = {"required": self.body_required, "content": _content(self.body)}
        return found


def error_responses() -> dict[str, Schema]:
    """Return the answers to what is refused, by status."""
    content = {JSON: {"schema": ref("Error")}}
    return {
        str(status): {"description": text or HTTPStatus(status).phrase, "content": content}
        for status, text in ERRORS.items()
    }


def path_parameter(name: str, text: str, schema: Schema) -> Schema:
    """Return the variable part of a path."""
    return {"name": name, "in": "path", "required": True, "description": text, "schema": schema}


def query_parameter(name: str, text: str, schema: Schema) -> Schema:
    """Return a part of the query."""
    return {"name": name, "in": "query", "description": text, "schema": schema}


def header_parameter(name: str, text: str, schema: Schema) -> Schema:
    """Return a request header."""
    return {"name": name, "in": "header", "description": text, "schema": schema}


def _answer(answer: Answer) -> Schema:
    found: Schema = {"description": answer.text}
    if answer.content:
        found["content"] = _content(answer.content)
    if answer.links:
        found["links"] = {
            name: {"operationId": name, "parameters": parameters} for name, parameters in answer.links.items()
        }
    return found


def _content(by_type: dict[str, Schema]) -> Schema:
    return {kind: {"schema": schema} for kind, schema in by_type.items()}


_ALWAYS = (400, 408, 413, 417, 431)
"""What any request may be refused with before its path is looked at."""

ERRORS: dict[int, str] = {
    400: "The request is malformed, or the model can't do what it asks for.",
    401: "The API key is missing or wrong.",
    403: "An admin's key, or a client certificate, is needed.",
    404: "There is no such model, worker, mode or path here.",
    405: "The path has other methods: see Allow.",
    408: "The request did not arrive in time.",
    409: "It can't be so now: the worker is here already, or the topology lacks a stage.",
    413: "The body is too large.",
    415: "",
    417: "",
    422: "",
    429: "The key is over its limit, or the queue is full: see Retry-After.",
    431: "The headers are too large.",
    502: "A worker failed, and so did the others that were tried.",
    503: "No worker is ready, or none had room in time: see Retry-After.",
    504: "A worker did not answer in time.",
}
