"""Scopes × every operation, read from the OpenAPI document itself: an operation added tomorrow is covered today."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.restdoor import RestDoor, TenantAtTheDoor, make_operator, make_tenant
from tests.rooms import make_room

METHODS = ("get", "post", "put", "patch", "delete")
BRINGS = {
    "api:read": {"api:read"},
    "api:write": {"api:read", "api:write"},
    "api:admin": {"api:read", "api:write", "api:admin"},
    "operator": {"operator"},
}


def document() -> dict[str, Any]:
    from smcp.api import build_api

    return dict(build_api().get_openapi_schema(path_prefix="/api/v1/"))


def operations() -> Iterator[tuple[str, str, set[str]]]:
    """(method, path, scopes any of which opens it)"""
    for path, methods in document()["paths"].items():
        for method in METHODS:
            if method in methods:
                scopes = {scope for needed in methods[method]["security"] for scope in needed["ApiKey"]}
                yield method.upper(), path, scopes


@pytest.fixture
def acme(rest_door: RestDoor, committed_db: None) -> TenantAtTheDoor:
    make_room()
    return make_tenant(rest_door)


def filled(path: str, tenant: str) -> str:
    """Names that exist nowhere, but for the tenant: what is asked is whether the door opens, not what is behind it."""
    path = path.replace("{tenant}", tenant)
    return re.sub(r"\{(\w+)\}", lambda match: "1" if match[1] in {"version", "deployment"} else "none", path)


ALL = list(operations())


def test_every_operation_says_who_may() -> None:
    assert len(ALL) > 40
    assert all(scopes and scopes <= {"api:read", "api:write", "api:admin", "operator"} for *_, scopes in ALL)


def test_reading_never_needs_more_than_reading_and_changing_always_does() -> None:
    for method, path, scopes in ALL:
        assert ("api:read" in scopes) == (method == "GET"), (method, path)


@pytest.mark.parametrize(("method", "path", "scopes"), ALL, ids=[f"{m} {p}" for m, p, _ in ALL])
@pytest.mark.acceptance("S4.26")
def test_only_a_key_with_the_scope_opens_it(
    rest_door: RestDoor, acme: TenantAtTheDoor, method: str, path: str, scopes: set[str]
) -> None:
    where = filled(path, acme.slug)
    callers = {scope: acme.caller(scope) for scope in BRINGS if scope != "operator"}
    callers["operator"] = make_operator(rest_door)
    assert rest_door.caller(None).request(method, where).status_code == 401
    assert acme.caller("mcp:call").request(method, where).status_code == 403
    for kind, caller in callers.items():
        answer = caller.request(method, where)
        if BRINGS[kind] & scopes:
            # Nothing useful was sent, so it ends in a refusal of the wish or in an empty answer, but not at the door.
            assert answer.status_code not in {401, 403, 405, 500}, (kind, answer.text)
        else:
            assert answer.status_code == 403, (kind, answer.text)
            assert answer.json()["type"] == "urn:smcp:problem:missing-scope"


@pytest.mark.parametrize(("method", "path"), [(m, p) for m, p, _ in ALL if "{tenant}" in p])
@pytest.mark.acceptance("S4.5", "S4.31")
def test_to_another_tenant_it_is_not_there(
    rest_door: RestDoor, acme: TenantAtTheDoor, method: str, path: str
) -> None:
    other = make_tenant(rest_door)
    for scope in ("api:read", "api:write", "api:admin"):
        answer = other.caller(scope).request(method, filled(path, acme.slug))
        assert (answer.status_code, answer.json()["detail"]) == (404, "There is no such tenant.")
