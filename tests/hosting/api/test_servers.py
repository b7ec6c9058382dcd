"""Servers and their Environments over HTTP."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import redis
from django.conf import settings

from hosting.dataplane.contract import Keys, Limits, Route, Suspension, decode_fact
from smcp.common.audit import AuditEvent
from smcp.common.tenancy import as_system
from tests.restdoor import TenantAtTheDoor
from tests.waiting import wait_for


def make_server(tenant: TenantAtTheDoor, slug: str = "weather") -> str:
    tenant.caller("api:write").ok("POST", f"{tenant.path}/servers", json={"slug": slug})
    return f"{tenant.path}/servers/{slug}"


def fact(url: str, key: str) -> Any:
    with redis.Redis.from_url(url) as client:
        raw = client.hget(Keys(installation=settings.INSTALLATION).facts, key)
    return decode_fact(raw) if isinstance(raw, bytes) else None


def test_a_new_server_has_a_production_environment_with_an_endpoint(acme: TenantAtTheDoor) -> None:
    path = make_server(acme)
    shown = acme.caller("api:read").ok("GET", f"{path}/environments")["items"]
    assert [environment["slug"] for environment in shown] == ["production"]
    assert shown[0]["endpoint"] == f"{settings.GATEWAY_URL}/{acme.slug}/weather/mcp"
    assert shown[0]["access"] == ["api_key"]
    assert shown[0]["limits"]["concurrency"] == Limits().concurrency


def test_a_server_from_the_catalog_comes_with_its_first_version(acme: TenantAtTheDoor) -> None:
    caller = acme.caller("api:write")
    made = caller.post(f"{acme.path}/servers", json={"catalog": "starter", "slug": "mine"})
    assert (made.status_code, made.json()["catalog"]) == (201, "starter")
    versions = caller.ok("GET", f"{acme.path}/servers/mine/versions")["items"]
    assert [version["number"] for version in versions] == [1]
    assert {binding["type"] for binding in versions[0]["bindings"]} == {"kv_namespace", "r2_bucket", "d1"}
    entry = caller.ok("GET", "/catalog/starter")
    assert entry in caller.ok("GET", "/catalog")["items"]
    assert caller.get("/catalog/none").status_code == 404


@pytest.mark.parametrize("slug", ["weather", "WEATHER", "a--b", "x" * 25, "-x"])
def test_a_server_slug_is_a_dns_label_and_is_never_given_twice(acme: TenantAtTheDoor, slug: str) -> None:
    make_server(acme)
    refused = acme.caller().post(f"{acme.path}/servers", json={"slug": slug})
    assert refused.status_code == (409 if slug == "weather" else 422)


def test_a_wish_to_start_a_program_is_refused_with_advice_and_makes_nothing(acme: TenantAtTheDoor) -> None:
    wish = {"slug": "local", "command": "npx", "args": ["-y", "some-server"]}
    refused = acme.caller("api:write").post(f"{acme.path}/servers", json=wish)
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:smcp:problem:stdio-server")
    assert "Streamable HTTP" in refused.json()["detail"]
    assert acme.caller("api:read").ok("GET", f"{acme.path}/servers")["items"] == []


@pytest.mark.acceptance("S0.6", "S4.14")
def test_the_cpu_time_of_a_request_is_bounded_per_environment(acme: TenantAtTheDoor) -> None:
    path = f"{make_server(acme)}/environments/production"
    caller = acme.caller("api:write")
    assert caller.ok("PATCH", path, json={"limits": {"cpu_ms": 300_000}})["limits"]["cpu_ms"] == 300_000
    for too_much in (300_001, 0, 1.5, True):
        assert caller.request("PATCH", path, json={"limits": {"cpu_ms": too_much}}).status_code == 422


def test_two_tenants_may_use_the_same_slug(acme: TenantAtTheDoor, other: TenantAtTheDoor) -> None:
    make_server(acme)
    make_server(other)
    assert other.caller().get(f"{other.path}/servers/weather").status_code == 200


def test_a_server_is_described_anew_only_by_who_saw_it(acme: TenantAtTheDoor) -> None:
    path = make_server(acme)
    caller = acme.caller("api:write")
    tag = caller.get(path).headers["etag"]
    changed = caller.request("PATCH", path, json={"description": "Rain"}, headers={"if-match": tag})
    assert changed.json()["description"] == "Rain"
    assert changed.headers["etag"] == caller.get(path).headers["etag"] != tag
    assert caller.request("PATCH", path, json={"name": "x"}, headers={"if-match": tag}).status_code == 412


def test_of_two_changes_at_once_from_the_same_view_one_is_told_that_it_is_late(acme: TenantAtTheDoor) -> None:
    path = make_server(acme)
    caller, together = acme.caller("api:write"), Barrier(6)
    tag = caller.get(path).headers["etag"]

    def change(number: int) -> int:
        together.wait(20)
        body = {"description": f"by {number}"}
        return caller.request("PATCH", path, json=body, headers={"if-match": tag}).status_code

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(change, range(6))) == [200, 412, 412, 412, 412, 412]


def test_suspending_a_server_is_published_at_once(acme: TenantAtTheDoor, redis_url: str) -> None:
    path, key = make_server(acme), f"suspension/{acme.id}/weather"
    caller = acme.caller("api:write")
    assert caller.ok("POST", f"{path}/suspend", json={"reason": "being mended"})["state"] == "suspended"
    found = wait_for(lambda: fact(redis_url, key), 1, what="the suspension to be published")
    assert isinstance(found, Suspension)
    assert found.reason == "being mended"
    assert caller.ok("POST", f"{path}/resume")["state"] == "active"
    wait_for(lambda: fact(redis_url, key) is None, 1, what="the suspension to be taken back")


def test_policies_reach_the_route_at_once(acme: TenantAtTheDoor, redis_url: str) -> None:
    path = f"{make_server(acme)}/environments/production"
    shown = acme.caller("api:write").ok(
        "PATCH",
        path,
        json={
            "access": ["public"],
            "allowed_origins": ["https://app.example.com"],
            "heals_sessions": False,
            "other_paths": True,
            "modern_clients": "bridge",
            "limits": {"requests_per_minute": 7},
        },
    )

    def route() -> Route | None:
        found = fact(redis_url, f"route/{shown['id']}")
        return found if isinstance(found, Route) and found.limits.requests_per_minute == 7 else None

    found = wait_for(route, 1, what="the route to be published")
    assert (found.access, found.allowed_origins) == (("public",), ("https://app.example.com",))
    assert (found.heals, shown["heals_sessions"]) == (False, False)
    assert (found.other_paths, shown["other_paths"]) == (True, True)
    assert (found.modern_clients, shown["modern_clients"]) == ("bridge", "bridge")


def test_other_paths_are_closed_until_they_are_opened_and_who_did_is_on_record(
    acme: TenantAtTheDoor, redis_url: str
) -> None:
    path = f"{make_server(acme)}/environments/production"
    caller = acme.caller("api:write")
    shown = caller.ok("GET", path)
    assert shown["other_paths"] is False
    found = wait_for(lambda: fact(redis_url, f"route/{shown['id']}"), 1, what="the route to be published")
    assert isinstance(found, Route)
    assert found.other_paths is False
    for nonsense in ("yes", 1, [True]):
        assert caller.request("PATCH", path, json={"other_paths": nonsense}).status_code == 422
    assert caller.ok("GET", path)["other_paths"] is False
    assert caller.ok("PATCH", path, json={"other_paths": True})["other_paths"] is True
    with as_system():
        entry = AuditEvent.objects.get(action="environment.updated", object_id=shown["id"])
    assert entry.detail == {"before": {"other_paths": False}, "after": {"other_paths": True}}


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("access", {"access": []}),
        ("access", {"access": ["oauth"]}),
        ("access", {"access": ["public", "public"]}),
        ("limits.concurrency", {"limits": {"concurrency": 0}}),
        ("limits.concurrency", {"limits": {"concurrency": 1.5}}),
        ("limits.concurrency", {"limits": {"concurrency": True}}),
        ("limits.concurrency", {"limits": {"concurrency": "9"}}),
        ("limits.request_bytes", {"limits": {"request_bytes": 10**12}}),
        ("limits.memory", {"limits": {"memory": 1}}),
        ("limits.answer_timeout_s", {"limits": {"answer_timeout_s": -1}}),
        ("limits.answer_timeout_s", {"limits": {"answer_timeout_s": 300}}),  # above the budget's default
        ("limits.answer_timeout_s", {"limits": {"answer_timeout_s": 30, "answer_budget_s": 10}}),
        ("limits.queue", {"limits": {"queue": -1}}),
        ("limits.queue_wait_s", {"limits": {"queue_wait_s": 0}}),
        ("allowed_origins", {"allowed_origins": ["app.example.com"]}),
        ("allowed_origins", {"allowed_origins": ["https://app.example.com/path"]}),
        ("allowed_origins", {"allowed_origins": ["https://user@app.example.com"]}),
        ("allowed_origins", {"allowed_origins": ["https://app.example.com:99999"]}),
        ("allowed_origins", {"allowed_origins": ["javascript://x"]}),
        ("egress_allow", {"egress_allow": ["api.example.com"]}),
        ("egress_allow", {"egress_allow": ["localhost:80"]}),
        ("egress_allow", {"egress_allow": ["127.0.0.1:80"]}),
        ("egress_allow", {"egress_allow": ["10.0.0.1:443"]}),
        ("egress_allow", {"egress_allow": ["169.254.169.254:80"]}),
        ("egress_allow", {"egress_allow": ["[::1]:80"]}),
        ("egress_allow", {"egress_allow": ["db.internal:5432"]}),
        ("egress_allow", {"egress_allow": ["*.example.com:443"]}),
        ("egress_allow", {"egress_allow": ["api.example.com:0"]}),
        ("egress_allow", {"egress_allow": ["api.example.com:443:443"]}),
        ("variables.1X", {"variables": {"1X": "a"}}),
        ("variables.X", {"variables": {"X": "a" * 5121}}),
        ("variables", {"variables": {f"V{n}": "" for n in range(129)}}),
        ("releases_kept", {"releases_kept": 0}),
        ("releases_kept", {"releases_kept": 11}),
        ("modern_clients", {"modern_clients": "never"}),
        ("account", {"account": "another"}),
        ("slug", {"slug": "renamed"}),
    ],
)
@pytest.mark.acceptance("S4.30")
def test_a_policy_that_cannot_hold_is_refused_and_changes_nothing(
    acme: TenantAtTheDoor, field: str, body: dict[str, Any]
) -> None:
    path = f"{make_server(acme)}/environments/production"
    caller = acme.caller("api:write")
    before = caller.ok("GET", path)
    refused = caller.request("PATCH", path, json={"releases_kept": 5, **body})
    assert refused.status_code == 422
    assert field in {error["field"] for error in refused.json()["errors"]}
    assert caller.ok("GET", path) == before


@pytest.mark.parametrize(
    "body",
    [
        {"egress_allow": ["api.example.com:443", "8.8.8.8:53"]},
        {"allowed_origins": ["*"]},
        {"allowed_origins": ["http://localhost:3000"]},
        {"variables": {"LOG_LEVEL": "debug"}},
        {"limits": {"answer_timeout_s": 0.5, "concurrency": 10}},
        {"limits": {"answer_budget_s": 2, "queue": 0, "queue_wait_s": 0.5}},
        {"limits": {"answer_timeout_s": 600, "answer_budget_s": 600}},
    ],
)
def test_a_policy_that_can_hold_is_kept(acme: TenantAtTheDoor, body: dict[str, Any]) -> None:
    path = f"{make_server(acme)}/environments/production"
    shown = acme.caller("api:write").ok("PATCH", path, json=body)
    for name, value in body.items():
        assert (value.items() <= shown[name].items()) if isinstance(value, dict) else shown[name] == value


def test_the_trail_names_variables_without_their_values(acme: TenantAtTheDoor) -> None:
    path = f"{make_server(acme)}/environments/production"
    caller = acme.caller("api:write")
    caller.ok("PATCH", path, json={"variables": {"TOKEN": "hunter2"}})
    event = caller.ok("GET", f"{acme.path}/audit-events?limit=1")["items"][0]
    assert event["action"] == "environment.updated"
    assert event["detail"]["after"]["variables"] == ["TOKEN"]
    assert "hunter2" not in str(event)


@pytest.mark.acceptance("S0.14")
def test_an_environment_is_added_once(acme: TenantAtTheDoor) -> None:
    path = f"{make_server(acme)}/environments"
    caller = acme.caller("api:write")
    made = caller.post(path, json={"slug": "staging", "access": ["public"]})
    assert (made.status_code, made.json()["endpoint"].rpartition("/")[0]) == (
        201,
        f"{settings.GATEWAY_URL}/{acme.slug}/weather~staging",
    )
    assert caller.post(path, json={"slug": "staging"}).status_code == 409
    assert caller.post(path, json={"slug": "x" * 16}).status_code == 422


def test_without_room_nothing_is_left_behind(acme: TenantAtTheDoor) -> None:
    from hosting.models import Account

    with as_system():
        open_ids = list(Account.objects.filter(state="open").values_list("id", flat=True))
        Account.objects.filter(id__in=open_ids).update(state="full")
    try:
        refused = acme.caller().post(f"{acme.path}/servers", json={"slug": "homeless"})
    finally:
        with as_system():
            Account.objects.filter(id__in=open_ids).update(state="open")
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:smcp:problem:no-room")
    assert refused.headers["retry-after"] == "60"
    assert acme.caller().get(f"{acme.path}/servers/homeless").status_code == 404
