"""Sessions over HTTP: listed with counts, ended once, and what the data plane is told of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.conf import settings
from django.utils import timezone

from hosting import routing
from hosting.dataplane.contract import Keys, Revocation, Route, decode_fact
from hosting.models import Environment, Session, UnlistedSessions
from smcp.common.audit import AuditEvent
from smcp.common.tenancy import as_system, as_tenant
from tests.factories import make_api_key, make_session
from tests.hosting.api.test_servers import make_server
from tests.restdoor import RestDoor, TenantAtTheDoor

LISTING = pytest.mark.acceptance("S3.10")
ENDING = pytest.mark.acceptance("S3.11")
KEYS = Keys(installation=settings.INSTALLATION)


def environment_of(tenant: TenantAtTheDoor, slug: str = "production") -> Environment:
    with as_system():
        return Environment.objects.select_related("tenant").get(tenant_id=tenant.id, slug=slug)


def open_sessions(
    tenant: TenantAtTheDoor, count: int, slug: str = "production", **fields: Any
) -> list[Session]:
    environment = environment_of(tenant, slug)
    with as_system():
        return [make_session(environment, **fields) for _ in range(count)]


@pytest.fixture
def facts(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def fact(facts: redis.Redis, key: str) -> Any:
    raw = facts.hget(KEYS.facts, key)
    return decode_fact(raw) if isinstance(raw, bytes) else None


def revocation(facts: redis.Redis, session: Session) -> Any:
    return fact(facts, f"revocation/{session.tenant_id}/{session.handle}")


def audited(tenant: TenantAtTheDoor) -> list[tuple[str, Any]]:
    with as_tenant(tenant.id):
        events = AuditEvent.objects.filter(action__contains="session").order_by("id")
        return [(event.action, event.detail.get("session", event.detail.get("sessions"))) for event in events]


@LISTING
def test_sessions_are_listed_by_environment_and_by_server_page_by_page(acme: TenantAtTheDoor) -> None:
    server = make_server(acme)
    caller = acme.caller("api:write")
    caller.ok("POST", f"{server}/environments", json={"slug": "staging"})
    with as_system():
        key, _ = make_api_key(environment_of(acme).tenant, name="A laptop")
    mine = open_sessions(acme, 1, principal=f"key:{key.id}", client_name="inspector", client_version="2.1")[0]
    others = open_sessions(acme, 2)
    [over] = open_sessions(acme, 1, state="ended", ended_at=timezone.now())
    staged = open_sessions(acme, 1, "staging")[0]
    first = caller.ok("GET", f"{server}/environments/production/sessions?limit=3")
    assert [one["id"] for one in first["items"]] == [over.handle, others[1].handle, others[0].handle]
    assert (first["open"], first["unlisted"]) == (3, 0)
    second = caller.ok("GET", first["next"])
    assert second["next"] is None
    [shown] = second["items"]
    assert shown == caller.ok("GET", f"{server}/environments/production/sessions/{mine.handle}")
    assert (shown["id"], shown["state"], shown["environment"]) == (mine.handle, "open", "production")
    assert (shown["principal"], shown["key_name"]) == (f"key:{key.id}", "A laptop")
    assert (shown["client_name"], shown["client_version"]) == ("inspector", "2.1")
    assert shown["protocol_version"] == "2025-11-25"
    assert first["items"][1]["key_name"] is None
    of_server = caller.ok("GET", f"{server}/sessions?state=open")
    assert {one["id"] for one in of_server["items"]} == {one.handle for one in (mine, *others, staged)}
    assert {one["environment"] for one in of_server["items"]} == {"production", "staging"}
    ended = caller.ok("GET", f"{server}/environments/production/sessions?state=ended")
    assert [one["id"] for one in ended["items"]] == [over.handle]
    assert caller.get(f"{server}/sessions?state=closed").status_code == 422


@LISTING
def test_what_is_not_listed_is_counted(acme: TenantAtTheDoor) -> None:
    server = make_server(acme)
    with as_system():
        UnlistedSessions.objects.create(
            tenant_id=acme.id, environment=environment_of(acme), count=7, last_at=timezone.now()
        )
    for path in (f"{server}/sessions", f"{server}/environments/production/sessions"):
        shown = acme.caller("api:read").ok("GET", path)
        assert (shown["items"], shown["open"], shown["unlisted"]) == ([], 0, 7)


@ENDING
def test_a_session_is_ended_once_and_every_node_is_told(acme: TenantAtTheDoor, facts: redis.Redis) -> None:
    path = f"{make_server(acme)}/environments/production/sessions"
    session, neighbour = open_sessions(acme, 2)
    caller = acme.caller("api:write")
    for _ in range(2):
        assert caller.request("DELETE", f"{path}/{session.handle}").status_code == 204
    told = revocation(facts, session)
    assert isinstance(told, Revocation)
    assert (told.environment, told.principal) == (session.environment_id, "")
    assert told.until == session.expires_at.timestamp()
    assert revocation(facts, neighbour) is None
    shown = caller.ok("GET", f"{path}/{session.handle}")
    assert shown["state"] == "ended"
    assert shown["ended_by"].startswith("key:")
    assert audited(acme) == [("session.ended", session.handle)]
    assert caller.ok("GET", path)["open"] == 1
    assert caller.request("DELETE", f"{path}/0000000000000000").status_code == 404


@ENDING
def test_an_emptied_redis_hears_again_of_what_was_ended(acme: TenantAtTheDoor, facts: redis.Redis) -> None:
    path = f"{make_server(acme)}/environments/production/sessions"
    session, gone, by_client = open_sessions(acme, 3)
    caller = acme.caller("api:write")
    for one in (session, gone):
        caller.request("DELETE", f"{path}/{one.handle}")
    with as_system():
        Session.objects.filter(id=gone.id).update(expires_at=timezone.now() - timedelta(seconds=1))
        Session.objects.filter(id=by_client.id).update(state="ended", ended_at=timezone.now())
    facts.delete(KEYS.facts, KEYS.changes, KEYS.epoch)
    routing.republish()
    assert revocation(facts, session) is not None
    assert (revocation(facts, gone), revocation(facts, by_client)) == (None, None)
    assert routing.republish() == 0


@ENDING
def test_all_sessions_of_an_environment_end_at_once(acme: TenantAtTheDoor, facts: redis.Redis) -> None:
    server = make_server(acme)
    path = f"{server}/environments/production/sessions"
    caller = acme.caller("api:write")
    caller.ok("POST", f"{server}/environments", json={"slug": "staging"})
    sessions, [staged] = open_sessions(acme, 3), open_sessions(acme, 1, "staging")
    with as_system():
        UnlistedSessions.objects.create(
            tenant_id=acme.id, environment=environment_of(acme), count=7, last_at=timezone.now()
        )
    before = int(timezone.now().timestamp())
    assert caller.ok("DELETE", path) == {"ended": 3}
    route = fact(facts, f"route/{sessions[0].environment_id}")
    assert isinstance(route, Route)
    assert before <= route.sessions_after <= timezone.now().timestamp()
    assert all(revocation(facts, one).until < timezone.now().timestamp() + 700 for one in sessions)
    assert revocation(facts, staged) is None
    shown = caller.ok("GET", path)
    assert {one["state"] for one in shown["items"]} == {"ended"}
    assert (shown["open"], shown["unlisted"]) == (0, 0)
    assert caller.ok("DELETE", path) == {"ended": 0}
    assert audited(acme) == [("environment.sessions_ended", 3), ("environment.sessions_ended", 0)]
    facts.delete(KEYS.facts, KEYS.changes, KEYS.epoch)
    routing.republish()
    again = fact(facts, f"route/{sessions[0].environment_id}")
    assert again.sessions_after >= route.sessions_after
    assert revocation(facts, sessions[0]) is None  # the Route says it


@ENDING
def test_so_many_are_ended_one_by_one_and_then_only_all(acme: TenantAtTheDoor) -> None:
    path = f"{make_server(acme)}/environments/production/sessions"
    [last] = open_sessions(acme, 1)
    environment = environment_of(acme)
    now = timezone.now()
    with as_system():
        Session.objects.bulk_create(
            Session(
                tenant_id=acme.id,
                environment=environment,
                handle=f"{number:016x}",
                state="ended",
                ended_at=now,
                ended_by="key:k",
                expires_at=now + timedelta(days=1),
            )
            for number in range(1000)
        )
    caller = acme.caller("api:write")
    refused = caller.request("DELETE", f"{path}/{last.handle}")
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:smcp:problem:too-many-ended")
    assert caller.ok("GET", f"{path}/{last.handle}")["state"] == "open"
    assert caller.ok("DELETE", path) == {"ended": 1}


@pytest.mark.acceptance("S4.5")
def test_another_tenants_sessions_are_not_there(
    rest_door: RestDoor, acme: TenantAtTheDoor, other: TenantAtTheDoor, facts: redis.Redis
) -> None:
    theirs, mine = make_server(other), make_server(acme)
    [session] = open_sessions(other, 1)
    caller = acme.caller("api:admin")
    one = f"environments/production/sessions/{session.handle}"
    for method in ("GET", "DELETE"):
        assert caller.request(method, f"{theirs}/{one}").status_code == 404
        assert caller.request(method, f"{mine}/{one}").status_code == 404
    assert caller.ok("GET", f"{mine}/sessions")["items"] == []
    assert revocation(facts, session) is None
    with as_tenant(acme.id):
        assert not Session.objects.filter(id=session.id).exists()
    with as_tenant(other.id):
        assert Session.objects.get(id=session.id).state == "open"
