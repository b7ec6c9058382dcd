"""The OpenAPI document: valid, complete, and the one that is served."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
import pytest

from tests.hosting.api.test_permissions import METHODS, document
from tests.restdoor import RestDoor

SCHEMA_2020_12 = "https://json-schema.org/draft/2020-12/schema"


def operations() -> list[dict[str, Any]]:
    return [
        methods[method] for methods in document()["paths"].values() for method in METHODS if method in methods
    ]


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(references(value) for value in node.values()))
    if isinstance(node, list):
        return set().union(*(references(value) for value in node))
    return set()


def test_the_served_document_is_this_one(rest_door: RestDoor) -> None:
    served = rest_door.caller(None).get("/openapi.json")
    assert served.status_code == 200
    assert served.json()["openapi"].startswith("3.1")
    assert set(served.json()["paths"]) == set(document()["paths"])


def test_every_reference_leads_somewhere_and_every_schema_is_one() -> None:
    described = document()
    schemas = described["components"]["schemas"]
    assert {name.rpartition("/")[2] for name in references(described)} <= set(schemas)
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema({"$schema": SCHEMA_2020_12, **schema})


def test_operation_ids_are_unique() -> None:
    names = [operation["operationId"] for operation in operations()]
    assert len(names) == len(set(names))


def test_every_parameter_of_a_path_is_described() -> None:
    for path, methods in document()["paths"].items():
        for method in METHODS:
            if method in methods:
                given = {p["name"] for p in methods[method]["parameters"] if p["in"] == "path"}
                assert given == set(re.findall(r"\{(\w+)\}", path)), (method, path)


def test_every_operation_tells_of_problems_and_every_post_of_idempotency() -> None:
    for path, methods in document()["paths"].items():
        for method in METHODS:
            if method not in methods:
                continue
            assert "application/problem+json" in methods[method]["responses"]["default"]["content"], path
            headers = {p["name"] for p in methods[method]["parameters"] if p["in"] == "header"}
            assert ("Idempotency-Key" in headers) == (method == "post"), path


def test_long_work_is_answered_with_202() -> None:
    long = {
        operation["operationId"]
        for operation in operations()
        if "202" in {str(status) for status in operation["responses"]}
    }
    assert long == {"deploy_versions", "retire_server", "retire_environment"}


@pytest.mark.parametrize("word", ["token_sealed", "password", "digest_hex", "answer_sealed"])
def test_no_schema_has_room_for_what_nobody_may_see(word: str) -> None:
    assert word not in str(document()["components"]["schemas"])
