"""The document, put together."""

from __future__ import annotations

import json

from tercet import __version__
from tercet.http.server import Request, Responder
from tercet.router.openapi import generation, operations
from tercet.router.openapi.operation import Operation, error_responses
from tercet.router.openapi.schema import Schema

TEXT = (
    "An OpenAI-compatible router before encode, prefill and decode workers. Without API keys everybody may do "
    "everything; with them, what administers the router needs a key made by `tercet keys new --admin`."
)


def document() -> Schema:
    """Return the OpenAPI 3.1 document."""
    paths: dict[str, Schema] = {}
    for operation in operations.OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tercet", "version": __version__, "description": TEXT, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": {**generation.SCHEMAS, **operations.SCHEMAS},
            "responses": error_responses(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _described(operation: Operation) -> Schema:
    found = operation.describe()
    if operation.access == "admin":
        found["description"] = "Needs an admin's key where the router has keys."
    return found


class OpenApi:
    """Answers GET /openapi.json."""

    def __init__(self) -> None:
        self._body = b""

    async def send(self, request: Request, responder: Responder) -> None:
        """GET /openapi.json."""
        if not self._body:
            self._body = json.dumps(document()).encode()
        await responder.send(200, self._body)
