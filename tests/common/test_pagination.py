"""Pages stay what they are while the listing changes."""

from __future__ import annotations

import pytest

from hosting.models import Server
from smcp.common.tenancy import as_tenant
from tests.restdoor import RestDoor, TenantAtTheDoor, make_tenant
from tests.rooms import make_room

pytestmark = pytest.mark.usefixtures("committed_db")


@pytest.fixture
def acme(rest_door: RestDoor) -> TenantAtTheDoor:
    make_room()
    return make_tenant(rest_door)


def add(tenant: TenantAtTheDoor, slug: str) -> None:
    tenant.caller().ok("POST", f"{tenant.path}/servers", json={"slug": slug})


def test_following_next_shows_everything_once_although_rows_come_and_go(acme: TenantAtTheDoor) -> None:
    for number in range(7):
        add(acme, f"s{number}")
    seen: list[str] = []
    where: str | None = f"{acme.path}/servers?limit=2"
    while where:
        page = acme.caller().ok("GET", where)
        assert len(page["items"]) <= 2
        seen += [server["slug"] for server in page["items"]]
        where = page["next"]
        if len(seen) == 2:
            add(acme, "newer")
            with as_tenant(acme.id):  # gone from the listing, and the last one shown so far
                Server.objects.filter(slug="s5").update(state=Server.State.RETIRED)
    assert seen == ["s6", "s5", "s4", "s3", "s2", "s1", "s0"]


def test_a_page_that_ends_the_listing_has_no_next(acme: TenantAtTheDoor) -> None:
    for number in range(2):
        add(acme, f"s{number}")
    page = acme.caller().get(f"{acme.path}/servers?limit=2")
    assert page.json()["next"] is None
    assert "link" not in page.headers
    first = acme.caller().get(f"{acme.path}/servers?limit=1")
    assert first.headers["link"] == f'<{first.json()["next"]}>; rel="next"'


def test_a_cursor_belongs_to_its_listing(rest_door: RestDoor, acme: TenantAtTheDoor) -> None:
    for number in range(2):
        add(acme, f"s{number}")
    cursor = acme.caller().ok("GET", f"{acme.path}/servers?limit=1")["next"].partition("?")[2]
    other = make_tenant(rest_door)
    for caller, path in ((acme, f"{acme.path}/api-keys"), (other, f"{other.path}/servers")):
        refused = caller.caller().get(f"{path}?{cursor}")
        assert (refused.status_code, refused.json()["type"]) == (422, "urn:smcp:problem:cursor-invalid")


def test_filters_stay_on_the_next_page(acme: TenantAtTheDoor) -> None:
    for number in range(3):
        add(acme, f"s{number}")
    page = acme.caller().ok("GET", f"{acme.path}/servers?limit=1&state=active")
    assert "state=active" in page["next"]
    assert len(acme.caller().ok("GET", page["next"])["items"]) == 1
