"""Tenants at the REST door, with room for their servers."""

from __future__ import annotations

import pytest

from tests.restdoor import RestDoor, TenantAtTheDoor, make_room, make_tenant


@pytest.fixture
def acme(rest_door: RestDoor, committed_db: None) -> TenantAtTheDoor:
    make_room()
    return make_tenant(rest_door)


@pytest.fixture
def other(rest_door: RestDoor, committed_db: None) -> TenantAtTheDoor:
    return make_tenant(rest_door)
