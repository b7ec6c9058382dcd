"""Tenants, members, keys and the audit trail over HTTP."""

from __future__ import annotations

import pytest

from smcp.common.tenancy import as_system
from tenants.models import User
from tests.restdoor import RestDoor, make_operator, make_tenant

pytestmark = pytest.mark.usefixtures("committed_db")


def test_an_operator_creates_a_tenant_and_makes_its_first_key_which_then_reads_it(rest_door: RestDoor) -> None:
    operator = make_operator(rest_door)
    slug = make_tenant(rest_door).slug[:-1] + "-new"[:4]
    created = operator.post("/tenants", json={"slug": slug, "name": "New"})
    assert created.status_code == 201, created.text
    assert created.headers["location"] == f"/api/v1/tenants/{slug}"
    key = operator.ok("POST", f"/tenants/{slug}/api-keys", json={"name": "first", "scopes": ["api:admin"]})
    caller = rest_door.caller(key["key"])
    assert caller.ok("GET", f"/tenants/{slug}")["name"] == "New"
    assert [tenant["slug"] for tenant in caller.ok("GET", "/tenants")["items"]] == [slug]
