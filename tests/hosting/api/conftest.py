"""Tenants at the REST door, with room for their servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.utils import timezone

from hosting.models import Operation
from smcp.common.tenancy import as_system
from tests.restdoor import OwnProcess, RestDoor, TenantAtTheDoor, make_tenant
from tests.rooms import make_room, only_room


@pytest.fixture
def acme(rest_door: RestDoor, committed_db: None) -> TenantAtTheDoor:
    make_room()
    return make_tenant(rest_door)


@pytest.fixture
def other(rest_door: RestDoor, committed_db: None) -> TenantAtTheDoor:
    return make_tenant(rest_door)


@pytest.fixture
def busy_acme(worker: OwnProcess, rest_door: RestDoor, committed_db: None) -> Iterator[TenantAtTheDoor]:
    """A tenant whose servers are really deployed: all other accounts are closed meanwhile."""
    with only_room("default"):
        yield make_tenant(rest_door)


@pytest.fixture
def ended(committed_db: None) -> Iterator[list[str]]:
    """Tenants whose Operations nobody will carry out: they are ended afterwards, so that no worker tries."""
    tenants: list[str] = []
    yield tenants
    with as_system():
        Operation.objects.filter(tenant_id__in=tenants, finished_at=None).update(
            state=Operation.State.FAILED, finished_at=timezone.now()
        )
