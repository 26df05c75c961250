"""The OpenAPI document and the router say the same."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from tercet.router.checks import for_everyone, without_key
from tercet.router.openapi.document import document
from tercet.router.openapi.operations import OPERATIONS

from .harness import routing

ASKED = {(operation.method, operation.path): operation for operation in OPERATIONS}


async def test_every_route_is_described_and_nothing_else_is() -> None:
    async with routing("A") as setup:
        assert set(ASKED) == setup.router.routes
        served = (await setup.get("/openapi.json")).json
    assert served == document()
    described = {(method.upper(), path) for path, methods in served["paths"].items() for method in methods}
    assert described == set(ASKED) and len(ASKED) == len(OPERATIONS)


async def test_other_methods_are_refused_with_those_there_are() -> None:
    async with routing("A") as setup:
        for path in document()["paths"]:
            its = {method for method, other in ASKED if other == path}
            for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - its:
                got = await setup.send(method, path.replace("{", "").replace("}", ""))
                assert got.status == 405, (method, path, got)
                assert {name.strip() for name in got.headers["allow"].split(",")} - {"HEAD"} == its


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_the_document_says_who_may_ask(operation: Any) -> None:
    access = "open" if without_key(operation.path) else "admin"
    if access != "open" and for_everyone(operation.method, operation.path):
        access = "key"
    assert operation.access == access


def test_the_document_is_valid_and_its_references_lead_somewhere() -> None:
    whole = json.dumps(document())
    names = set(document()["components"]["schemas"])
    references = {part.split('"')[0] for part in whole.split('"#/components/schemas/')[1:]}
    assert references <= names and not names - references
    for schema in document()["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    ids = [operation.name for operation in OPERATIONS]
    assert len(set(ids)) == len(ids)


async def test_answers_are_as_described() -> None:
    spec = document()
    async with routing("PD", "pd") as setup:
        for method, path in (("GET", "/status"), ("GET", "/ready"), ("GET", "/mode"), ("GET", "/v1/models")):
            got = await setup.send(method, path)
            schema = spec["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
            jsonschema.validate(got.json, {**schema, "components": spec["components"]})
