"""Who gets through the REST door, and who does not."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from hosting.dataplane.contract import digest_of_key
from smcp.common.tenancy import as_system, as_tenant
from tenants import keys
from tenants.models import ApiKey, OperatorKey
from tenants.operations import create_api_key, create_operator_key
from tests.restdoor import RestDoor, TenantAtTheDoor, make_operator, make_tenant

pytestmark = pytest.mark.usefixtures("committed_db")


@pytest.fixture
def acme(rest_door: RestDoor) -> TenantAtTheDoor:
    return make_tenant(rest_door)


def age(key_name: str, tenant: TenantAtTheDoor, **changes: object) -> None:
    with as_tenant(tenant.id):
        assert ApiKey.objects.filter(name=key_name).update(**changes) == 1


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Basic dXNlcjpwYXNz",
        "Bearer smcp_short_x",
        "Bearer " + "x" * 5000,
        f"Bearer smcp_{'a' * 12}_{'b' * 43}",
        "Bearer smcp_p1_0000.1.x",
    ],
)
def test_a_missing_or_malformed_key_is_401_with_a_challenge(rest_door: RestDoor, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header}
    refused = rest_door.caller(None).get("/tenants", headers=headers)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == 'Bearer realm="smcp"'
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["type"] == "urn:smcp:problem:unauthenticated"


def test_a_key_with_a_changed_secret_is_unknown(rest_door: RestDoor, acme: TenantAtTheDoor) -> None:
    key = acme.keys["api:read"]
    forged = key[:-1] + ("a" if key[-1] != "a" else "b")
    assert rest_door.caller(forged).get(acme.path).status_code == 401


@pytest.mark.parametrize("changes", [{"revoked_at": timezone.now()}, {"expires_at": timezone.now()}])
def test_a_revoked_or_expired_key_is_401(acme: TenantAtTheDoor, changes: dict[str, object]) -> None:
    caller = acme.caller("api:read")
    assert caller.get(acme.path).status_code == 200
    age("api:read", acme, **changes)
    assert caller.get(acme.path).status_code == 401


def test_an_expired_operators_key_is_401(rest_door: RestDoor) -> None:
    with as_system():
        row, key = create_operator_key(name="old")
        OperatorKey.objects.filter(id=row.id).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert rest_door.caller(key).get("/tenants").status_code == 401


def test_a_key_for_calling_servers_never_opens_this_door(acme: TenantAtTheDoor) -> None:
    refused = acme.caller("mcp:call").get(acme.path)
    assert (refused.status_code, refused.json()["type"]) == (403, "urn:smcp:problem:missing-scope")


def test_a_key_for_this_door_is_no_credential_of_the_data_plane(acme: TenantAtTheDoor) -> None:
    from hosting.routing import compose_credentials

    with as_tenant(acme.id):
        calling = {credential.id for credential in compose_credentials(ApiKey.objects.all())}
        expected = set(ApiKey.objects.filter(name="mcp:call").values_list("id", flat=True))
    assert calling == expected


def test_use_is_noted_at_most_once_a_minute(acme: TenantAtTheDoor) -> None:
    caller = acme.caller("api:read")

    def last_used() -> object:
        with as_tenant(acme.id):
            return ApiKey.objects.get(name="api:read").last_used_at

    caller.ok("GET", acme.path)
    first = last_used()
    caller.ok("GET", acme.path)
    assert first is not None
    assert last_used() == first
    age("api:read", acme, last_used_at=timezone.now() - timedelta(seconds=61))
    caller.ok("GET", acme.path)
    assert last_used() > first  # type: ignore[operator]


def test_another_tenants_thing_looks_like_nothing(rest_door: RestDoor, acme: TenantAtTheDoor) -> None:
    other = make_tenant(rest_door)
    theirs, missing = acme.caller().get(other.path), acme.caller().get("/tenants/no-such-tenant")
    assert theirs.status_code == missing.status_code == 404
    same = [
        {key: value for key, value in answer.json().items() if key not in {"instance", "request_id"}}
        for answer in (theirs, missing)
    ]
    assert same[0] == same[1]


def test_an_operators_key_does_not_open_what_tenants_run(rest_door: RestDoor, acme: TenantAtTheDoor) -> None:
    refused = make_operator(rest_door).get(f"{acme.path}/servers")
    assert (refused.status_code, refused.json()["type"]) == (403, "urn:smcp:problem:missing-scope")


def test_both_planes_know_a_key_by_the_same_digest() -> None:
    key = keys.make_key()
    assert key.digest == keys.digest_of(key.text) == digest_of_key(key.text)
    assert keys.prefix_of(key.text) == key.prefix
    assert key.text not in repr(key)


def test_no_key_appears_in_what_the_process_says(rest_door: RestDoor, acme: TenantAtTheDoor) -> None:
    for key in acme.keys.values():
        rest_door.caller(key).get(acme.path)
        rest_door.caller(key + "x").get(acme.path)
    said = "\n".join(rest_door.said)
    assert not any(key.split("_", 2)[2] in said for key in acme.keys.values())


def test_a_key_made_with_an_end_stops_then(rest_door: RestDoor, acme: TenantAtTheDoor) -> None:
    now = timezone.now()
    _, key = create_api_key(
        tenant_id=acme.id,
        actor="system",
        name="short",
        scopes=["api:read"],
        expires_at=now + timedelta(hours=1),
        now=now,
    )
    assert rest_door.caller(key).get(acme.path).status_code == 200
