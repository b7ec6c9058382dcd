"""Tenants, members, keys and the audit trail over HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
import redis
from django.conf import settings
from django.utils import timezone

from hosting.dataplane.contract import Keys, Suspension, decode_fact
from smcp.common.ids import new_id
from smcp.common.tenancy import as_system, as_tenant
from tenants.models import ApiKey, User
from tenants.operations import ScopeAboveOwn, create_api_key
from tests.restdoor import Caller, RestDoor, TenantAtTheDoor, make_operator, make_tenant
from tests.waiting import wait_for

pytestmark = pytest.mark.usefixtures("committed_db")


@pytest.fixture
def operator(rest_door: RestDoor) -> Caller:
    return make_operator(rest_door)


@pytest.fixture
def acme(rest_door: RestDoor) -> TenantAtTheDoor:
    return make_tenant(rest_door)


@pytest.fixture
def facts(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def published(facts: redis.Redis, key: str) -> msgspec.Struct | None:
    raw = facts.hget(Keys(installation=settings.INSTALLATION).facts, key)
    return decode_fact(raw) if isinstance(raw, bytes) else None


def make_person() -> str:
    with as_system():
        return User.objects.create_user(f"{new_id()}@example.com", "a long enough password").email


def test_an_operator_makes_a_tenant_and_its_first_key_which_then_reads_it(
    rest_door: RestDoor, operator: Caller
) -> None:
    slug = f"n{new_id()[-12:]}"
    created = operator.post("/tenants", json={"slug": slug, "name": "New"})
    assert created.status_code == 201, created.text
    assert created.headers["location"] == f"/api/v1/tenants/{slug}"
    key = operator.ok("POST", f"/tenants/{slug}/api-keys", json={"name": "first", "scopes": ["api:admin"]})
    caller = rest_door.caller(key["key"])
    assert caller.ok("GET", f"/tenants/{slug}")["name"] == "New"
    assert [tenant["slug"] for tenant in caller.ok("GET", "/tenants")["items"]] == [slug]


def test_operators_list_every_tenant(operator: Caller, acme: TenantAtTheDoor) -> None:
    newest = operator.ok("GET", "/tenants?limit=1")["items"]
    assert [tenant["slug"] for tenant in newest] == [acme.slug]


@pytest.mark.parametrize(
    ("slug", "code"),
    [
        ("api", "slug-invalid"),
        ("Acme", "slug-invalid"),
        ("-a", "slug-invalid"),
        ("a--b", "slug-invalid"),
        ("a" * 21, "slug-invalid"),
        ("", "slug-invalid"),
    ],
)
def test_a_slug_that_cannot_be_a_host_name_of_a_tenant_is_refused(
    operator: Caller, slug: str, code: str
) -> None:
    refused = operator.post("/tenants", json={"slug": slug, "name": "x"})
    assert (refused.status_code, refused.json()["type"]) == (422, f"urn:smcp:problem:{code}")
    assert refused.json()["errors"][0]["field"] == "slug"


def test_a_slug_is_never_given_twice(operator: Caller, acme: TenantAtTheDoor) -> None:
    refused = operator.post("/tenants", json={"slug": acme.slug, "name": "x"})
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:smcp:problem:slug-taken")


def test_a_tenant_is_changed_only_by_who_saw_its_present_state(
    operator: Caller, acme: TenantAtTheDoor
) -> None:
    seen = operator.get(acme.path)
    changed = operator.request(
        "PATCH", acme.path, json={"name": "Two"}, headers={"if-match": seen.headers["etag"]}
    )
    assert (changed.status_code, changed.json()["name"]) == (200, "Two")
    late = operator.request(
        "PATCH", acme.path, json={"name": "Three"}, headers={"if-match": seen.headers["etag"]}
    )
    assert (late.status_code, late.json()["type"]) == (412, "urn:smcp:problem:stale")
    assert operator.ok("GET", acme.path)["name"] == "Two"


def test_what_has_not_changed_is_not_sent_again(operator: Caller, acme: TenantAtTheDoor) -> None:
    tag = operator.get(acme.path).headers["etag"]
    again = operator.get(acme.path, headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")


def test_suspending_tells_the_data_plane_at_once_and_resuming_takes_it_back(
    operator: Caller, acme: TenantAtTheDoor, facts: redis.Redis
) -> None:
    fact_key = f"suspension/{acme.id}/"
    operator.ok("POST", f"{acme.path}/suspend", json={"reason": "unpaid"})
    fact = wait_for(lambda: published(facts, fact_key), 1, what="the suspension to be published")
    assert isinstance(fact, Suspension)
    assert fact.reason == "unpaid"
    operator.ok("POST", f"{acme.path}/resume")
    wait_for(lambda: published(facts, fact_key) is None, 1, what="the suspension to be taken back")


def test_suspending_twice_is_one_change(operator: Caller, acme: TenantAtTheDoor) -> None:
    for _ in range(2):
        operator.ok("POST", f"{acme.path}/suspend", json={"reason": "unpaid"})
    with as_system():
        acme.tenant.refresh_from_db()
    assert acme.tenant.version == 2
    actions = [event["action"] for event in operator.ok("GET", f"{acme.path}/audit-events")["items"]]
    assert actions.count("tenant.suspended") == 1


def test_a_suspended_tenant_may_read_but_not_change(operator: Caller, acme: TenantAtTheDoor) -> None:
    operator.ok("POST", f"{acme.path}/suspend", json={"reason": "unpaid"})
    caller = acme.caller("api:admin")
    assert caller.ok("GET", acme.path)["suspended_reason"] == "unpaid"
    refused = caller.post(f"{acme.path}/api-keys", json={"name": "x", "scopes": ["api:read"]})
    assert (refused.status_code, refused.json()["type"]) == (403, "urn:smcp:problem:tenant-suspended")
    assert "unpaid" in refused.json()["detail"]


def test_members_come_and_go_but_an_owner_stays(acme: TenantAtTheDoor) -> None:
    caller, email = acme.caller(), make_person()
    owner = caller.ok("POST", f"{acme.path}/members", json={"email": email, "role": "owner"})
    one = f"{acme.path}/members/{owner['id']}"
    again = caller.post(f"{acme.path}/members", json={"email": email.upper(), "role": "viewer"})
    assert (again.status_code, again.json()["type"]) == (409, "urn:smcp:problem:already-member")
    for refused in (caller.request("PATCH", one, json={"role": "viewer"}), caller.request("DELETE", one)):
        assert (refused.status_code, refused.json()["type"]) == (409, "urn:smcp:problem:last-owner")
    caller.ok("POST", f"{acme.path}/members", json={"email": make_person(), "role": "owner"})
    assert caller.ok("PATCH", one, json={"role": "viewer"})["role"] == "viewer"
    assert caller.request("DELETE", one).status_code == 204
    assert caller.get(one).status_code == 404
    assert len(caller.ok("GET", f"{acme.path}/members")["items"]) == 1


def test_nobody_without_an_account_becomes_a_member(acme: TenantAtTheDoor) -> None:
    refused = acme.caller().post(f"{acme.path}/members", json={"email": "no@example.com", "role": "viewer"})
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:smcp:problem:no-such-person")


@pytest.mark.acceptance("S4.25")
def test_a_key_is_shown_once_and_never_again(acme: TenantAtTheDoor) -> None:
    caller = acme.caller()
    made = caller.ok("POST", f"{acme.path}/api-keys", json={"name": "ci", "scopes": ["api:read"]})
    assert made["key"].startswith(f"smcp_{made['prefix']}_")
    secret = made["key"].split("_", 2)[2]
    for path in ("", f"/{made['id']}"):
        assert secret not in caller.get(f"{acme.path}/api-keys{path}").text
    with as_tenant(acme.id):
        row = ApiKey.objects.get(id=made["id"])
        assert secret not in str(vars(row))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"scopes": ["api:read", "mcp:call"]}, "scopes-invalid"),
        ({"scopes": []}, "invalid"),
        ({"scopes": ["root"]}, "invalid"),
        ({"scopes": ["api:read"], "environments": ["0" * 26]}, "invalid"),
        ({"scopes": ["mcp:call"], "environments": ["production"]}, "invalid"),
        ({"scopes": ["api:read"], "expires_at": "2020-01-01T00:00:00Z"}, "invalid"),
        ({"scopes": ["api:read"], "expires_at": "2020-01-01T00:00:00"}, "invalid"),
        ({"scopes": ["api:read"], "expires_at": "9999-12-31T23:59:59-23:59"}, "invalid"),
        ({"scopes": ["api:read"], "digest": "x"}, "invalid"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(
    acme: TenantAtTheDoor, body: dict[str, object], code: str
) -> None:
    refused = acme.caller().post(f"{acme.path}/api-keys", json={"name": "x", **body})
    assert (refused.status_code, refused.json()["type"]) == (422, f"urn:smcp:problem:{code}")


def test_nobody_grants_more_than_they_have(acme: TenantAtTheDoor) -> None:
    with pytest.raises(ScopeAboveOwn):
        create_api_key(
            tenant_id=acme.id,
            actor="key:x",
            name="x",
            scopes=["api:admin"],
            may_grant={"api:read", "api:write"},
            now=timezone.now(),
        )


def test_a_new_key_for_calling_reaches_the_data_plane_and_a_revoked_one_leaves_it(
    acme: TenantAtTheDoor, facts: redis.Redis
) -> None:
    caller = acme.caller()
    made = caller.ok("POST", f"{acme.path}/api-keys", json={"name": "agent", "scopes": ["mcp:call"]})
    fact_key = f"credential/{acme.id}/{made['id']}"
    wait_for(lambda: published(facts, fact_key), 1, what="the credential to be published")
    for _ in range(2):
        assert caller.ok("DELETE", f"{acme.path}/api-keys/{made['id']}")["revoked_at"]
    wait_for(lambda: published(facts, fact_key) is None, 1, what="the credential to be taken back")


@pytest.mark.acceptance("S4.29")
def test_the_trail_names_who_did_what_in_which_request(acme: TenantAtTheDoor) -> None:
    caller = acme.caller()
    made = caller.ok(
        "POST",
        f"{acme.path}/api-keys",
        json={"name": "ci", "scopes": ["api:read"]},
        headers={"x-request-id": "mine-1"},
    )
    event = caller.ok("GET", f"{acme.path}/audit-events?limit=1")["items"][0]
    own = ApiKeyOf(acme)
    assert (event["action"], event["object_id"], event["request_id"]) == (
        "api_key.created",
        made["id"],
        "mine-1",
    )
    assert event["actor"] == f"key:{own}"


def ApiKeyOf(tenant: TenantAtTheDoor) -> str:  # noqa: N802
    with as_tenant(tenant.id):
        return str(ApiKey.objects.get(name="api:admin").id)
