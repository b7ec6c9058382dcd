"""Servers that run elsewhere over HTTP: told where, with which headers, and what the data plane hears of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.conf import settings

from hosting.dataplane.contract import Route, parse_keyring
from hosting.dataplane.remotes import open_headers, private_ring
from hosting.models import Environment, Secret
from hosting.models import Remote as RemoteRow
from hosting.operations.remotes import reseal
from smcp.common.audit import AuditEvent
from smcp.common.tenancy import as_system, as_tenant
from tests.hosting.api.test_servers import fact, make_server
from tests.parts import Parts
from tests.restdoor import RestDoor, TenantAtTheDoor, upload_parts
from tests.waiting import wait_for

URL = "https://mcp.example.com/mcp?team=blue"
CANARY = "canary-51d0a7b3"
HEADERS = [{"name": "Authorization", "prefix": "Bearer ", "secret": "TOKEN"}]


def make_remote(tenant: TenantAtTheDoor, slug: str = "elsewhere", **remote: Any) -> str:
    """The path of its production environment."""
    wish = {"slug": slug, "kind": "remote", "remote": {"url": URL, **remote} if remote else None}
    tenant.caller("api:write").ok("POST", f"{tenant.path}/servers", json=wish)
    return f"{tenant.path}/servers/{slug}/environments/production"


def with_headers(tenant: TenantAtTheDoor, slug: str = "elsewhere") -> str:
    path, caller = make_remote(tenant, slug), tenant.caller("api:write")
    caller.ok("PUT", f"{path}/secrets/TOKEN", json={"value": CANARY})
    caller.ok("PUT", f"{path}/remote", json={"url": URL, "headers": HEADERS})
    return path


def environment_id(tenant: TenantAtTheDoor, path: str) -> str:
    return str(tenant.caller("api:read").ok("GET", path)["id"])


def route_of(tenant: TenantAtTheDoor, path: str, redis_url: str) -> Route:
    """As the data plane has it. Published right after the change, so nothing is waited for but that."""
    key = f"route/{environment_id(tenant, path)}"
    found = wait_for(lambda: fact(redis_url, key), 3, what="the Route")
    assert isinstance(found, Route)
    return found


def opened(route: Route, parts: Parts) -> dict[str, str]:
    """What a gateway reads in a Route's headers."""
    remote = route.targets[0].remote
    assert remote is not None
    ring = private_ring(parse_keyring(parts.secrets.dataplane_keys))
    where = {"tenant": route.tenant, "environment": route.environment, "url": remote.url}
    return dict(open_headers(remote.headers, ring=ring, **where))


@pytest.mark.acceptance("S0.15", "S0.2")
def test_a_remote_is_told_where_it_is_and_the_data_plane_knows_at_once(
    acme: TenantAtTheDoor, redis_url: str, parts: Parts
) -> None:
    path = with_headers(acme)
    shown = acme.caller("api:read").ok("GET", f"{path}/remote")
    assert (shown["url"], shown["transport"], shown["headers"]) == (URL, "streamable-http", HEADERS)
    assert (shown["eras"], shown["checked_at"], shown["check_failure"]) == ([], None, "")
    route = route_of(acme, path, redis_url)
    target = route.targets[0]
    assert target.remote is not None
    assert (target.script, target.weight, target.remote.url) == ("", 10_000, URL)
    assert route.dispatch is None
    assert opened(route, parts) == {"Authorization": f"Bearer {CANARY}"}


@pytest.mark.acceptance("S0.3")
def test_a_server_over_http_and_sse_speaks_legacy(acme: TenantAtTheDoor, redis_url: str) -> None:
    path = make_remote(acme, transport="sse")
    target = route_of(acme, path, redis_url).targets[0]
    assert target.remote is not None
    assert (target.remote.transport, target.eras, target.issues_sessions) == ("sse", ("legacy",), True)
    assert acme.caller("api:read").ok("GET", f"{path}/remote")["eras"] == ["legacy"]


def test_it_needs_no_account_and_can_have_more_environments(acme: TenantAtTheDoor, redis_url: str) -> None:
    path, caller = make_remote(acme, transport="sse"), acme.caller("api:write")
    caller.ok("POST", path.removesuffix("/production"), json={"slug": "staging"})
    with as_tenant(acme.id):
        assert set(Environment.objects.values_list("account_id", flat=True)) == {None}
    staging = path.replace("production", "staging")
    assert caller.get(f"{staging}/remote").status_code == 404
    assert route_of(acme, staging, redis_url).targets == ()


def test_the_whole_is_replaced_and_another_url_is_another_server(
    acme: TenantAtTheDoor, redis_url: str
) -> None:
    path, caller = with_headers(acme), acme.caller("api:write")
    first = route_of(acme, path, redis_url)
    with as_system():
        RemoteRow.objects.update(eras=["modern"], issues_sessions=False)
    caller.ok("PUT", f"{path}/remote", json={"url": URL})
    same = route_of(acme, path, redis_url)
    assert same.version > first.version
    assert (same.targets[0].release, same.targets[0].eras) == (first.targets[0].release, ("modern",))
    assert same.targets[0].remote is not None
    assert same.targets[0].remote.headers == ""
    caller.ok("PUT", f"{path}/remote", json={"url": "https://other.example.com/"})
    other = route_of(acme, path, redis_url).targets[0]
    assert other.release != same.targets[0].release
    assert (other.eras, other.issues_sessions) == (("legacy", "modern"), True)


def test_the_same_again_changes_nothing_but_that_it_is_looked_at(
    acme: TenantAtTheDoor, redis_url: str
) -> None:
    path, caller = with_headers(acme), acme.caller("api:write")
    version = route_of(acme, path, redis_url).version
    events = caller.ok("GET", f"{acme.path}/audit-events")["items"]
    caller.ok("PUT", f"{path}/remote", json={"url": URL, "headers": HEADERS})
    assert route_of(acme, path, redis_url).version == version
    assert caller.ok("GET", f"{acme.path}/audit-events")["items"] == events


def test_it_is_taken_away(acme: TenantAtTheDoor, redis_url: str) -> None:
    path, caller = with_headers(acme), acme.caller("api:write")
    assert caller.request("DELETE", f"{path}/remote").status_code == 204
    assert caller.request("DELETE", f"{path}/remote").status_code == 404
    assert caller.get(f"{path}/remote").status_code == 404
    wait_for(lambda: route_of(acme, path, redis_url).targets == (), 3, what="the Route to lose its target")


def test_an_etag_guards_against_two_who_change_it(acme: TenantAtTheDoor) -> None:
    path, caller = with_headers(acme), acme.caller("api:write")
    tag = caller.get(f"{path}/remote").headers["etag"]
    wish = {"url": "https://other.example.com/"}
    assert caller.request("PUT", f"{path}/remote", json=wish, headers={"if-match": tag}).status_code == 200
    stale = caller.request("PUT", f"{path}/remote", json={"url": URL}, headers={"if-match": tag})
    assert stale.status_code == 412
    assert caller.ok("GET", f"{path}/remote")["url"] == wish["url"]


class TestSecrets:
    def test_a_new_value_holds_at_once(self, acme: TenantAtTheDoor, redis_url: str, parts: Parts) -> None:
        path, caller = with_headers(acme), acme.caller("api:write")
        caller.ok("PUT", f"{path}/secrets/TOKEN", json={"value": "fresh"})
        assert opened(route_of(acme, path, redis_url), parts) == {"Authorization": "Bearer fresh"}

    @pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "tab\there", "ümlaut", " padded ", "x\x7fy"])
    def test_a_value_no_header_can_say_is_refused_and_changes_nothing(
        self, acme: TenantAtTheDoor, redis_url: str, parts: Parts, value: str
    ) -> None:
        path, caller = with_headers(acme), acme.caller("api:write")
        refused = caller.request("PUT", f"{path}/secrets/TOKEN", json={"value": value})
        assert refused.status_code == 422
        assert [error["field"] for error in refused.json()["errors"]] == ["value"]
        assert opened(route_of(acme, path, redis_url), parts) == {"Authorization": f"Bearer {CANARY}"}
        with as_tenant(acme.id):
            assert Secret.objects.filter(name="TOKEN").count() == 1

    def test_one_that_a_header_says_cannot_be_deleted(self, acme: TenantAtTheDoor) -> None:
        path, caller = with_headers(acme), acme.caller("api:write")
        refused = caller.request("DELETE", f"{path}/secrets/TOKEN")
        assert (refused.status_code, refused.json()["type"]) == (409, "urn:smcp:problem:secret-in-use")
        caller.ok("PUT", f"{path}/remote", json={"url": URL})
        assert caller.request("DELETE", f"{path}/secrets/TOKEN").status_code == 204

    @pytest.mark.acceptance("S0.28")
    def test_its_value_is_nowhere(self, rest_door: RestDoor, acme: TenantAtTheDoor, redis_url: str) -> None:
        import redis

        path, caller = with_headers(acme), acme.caller("api:write")
        answers = [caller.get(f"{path}/remote"), caller.get(path), caller.get(f"{acme.path}/audit-events")]
        answers.append(caller.request("PUT", f"{path}/remote", json={"url": "ftp://x", "headers": HEADERS}))
        assert not any(CANARY in answer.text for answer in answers)
        assert CANARY not in "\n".join(rest_door.said)
        with redis.Redis.from_url(redis_url) as client:
            for key in client.scan_iter():
                assert CANARY.encode() not in (client.dump(key) or b"")
        with as_tenant(acme.id):
            trail = json.dumps(list(AuditEvent.objects.values_list("detail", flat=True)))
            rows = str([*RemoteRow.objects.values(), *Secret.objects.values()])
        assert CANARY not in trail + rows
        assert "mcp.example.com" in trail
        assert "team=blue" not in trail

    def test_the_process_that_seals_them_cannot_open_them(self, parts: Parts) -> None:
        environ = parts.environ("app")
        assert "SMCP_DATAPLANE_KEYS" not in environ
        assert environ["SMCP_ROUTE_KEYS"] not in {parts.secrets.dataplane_keys, ""}
        assert parse_keyring(environ["SMCP_ROUTE_KEYS"]) == settings.ROUTE_KEYS

    def test_all_are_sealed_anew_when_the_keys_have_changed(
        self, acme: TenantAtTheDoor, redis_url: str, parts: Parts
    ) -> None:
        path = with_headers(acme)
        before = route_of(acme, path, redis_url)
        with as_system():
            assert reseal() >= 1
        after = route_of(acme, path, redis_url)
        assert after.version > before.version
        assert after.targets[0].remote != before.targets[0].remote
        assert opened(after, parts) == opened(before, parts)


class TestRefusals:
    @pytest.mark.parametrize(
        "url",
        [
            "", "mcp.example.com/mcp", "ftp://mcp.example.com/", "http://mcp.example.com/mcp", "https://", "https://user:pw@e.com/",
            "https://e.com/#part", "https://e.com:0/", "https://e.com:70000/", "https://e .com/", "https://e.com/\r\nx", "//e.com/x",
            "https://127.0.0.1/", "https://127.1/", "https://2130706433/", "https://0x7f.1/", "https://017700000001/",
            "https://[::1]/", "https://[::ffff:127.0.0.1]/", "https://[64:ff9b::7f00:1]/", "https://[2002:7f00:1::]/", "https://10.0.0.1/",
            "https://169.254.169.254/latest", "https://100.64.0.1/", "https://224.0.0.1/", "https://localhost/", "https://postgres/",
            "https://redis.internal/", "https://x.localhost/", "https://metadata.google.internal/", "https://e.com./", "https://ünï.com/",
            "https://e.com\\@127.0.0.1/", "https://" + "e" * 2050 + ".com/",
        ],
    )  # fmt: skip
    def test_an_address_that_is_no_place_for_a_server(self, acme: TenantAtTheDoor, url: str) -> None:
        path, caller = make_remote(acme, transport="sse"), acme.caller("api:write")
        refused = caller.request("PUT", f"{path}/remote", json={"url": url})
        assert refused.status_code == 422, url
        assert refused.headers["content-type"].startswith("application/problem+json")
        assert "url" in refused.text
        assert caller.ok("GET", f"{path}/remote")["url"] == URL

    @pytest.mark.parametrize(
        "name",
        [
            "Host", "Connection", "Transfer-Encoding", "Content-Length", "Content-Type", "Accept", "Accept-Encoding", "TE", "Upgrade",
            "Mcp-Session-Id", "MCP-Protocol-Version", "Mcp-Anything", "Last-Event-ID", "Smcp-Assertion", "X-Forwarded-For", "Forwarded",
            "X-Request-Id", "Proxy-Authorization", "Origin", "Sec-Fetch-Site", "Expect", "", "A B", "A:B", "A\r\nB", "ü", "x" * 65,
        ],
    )  # fmt: skip
    def test_a_header_that_is_not_the_tenants_to_set(self, acme: TenantAtTheDoor, name: str) -> None:
        path, caller = with_headers(acme), acme.caller("api:write")
        wish = {"url": URL, "headers": [{"name": name, "secret": "TOKEN"}]}
        assert caller.request("PUT", f"{path}/remote", json=wish).status_code == 422
        assert caller.ok("GET", f"{path}/remote")["headers"] == HEADERS

    @pytest.mark.parametrize(
        ("headers", "says"),
        [
            ([{"name": "X-A", "secret": "MISSING"}], "no secret “MISSING”"),
            ([{"name": "X-A", "secret": "TOKEN"}, {"name": "x-a", "secret": "TOKEN"}], "Each header once"),
            ([{"name": "X-A", "secret": "TOKEN", "prefix": "a\r\nb: "}], "Visible ASCII"),
            ([{"name": "X-A", "secret": "no name"}], "name of a secret"),
            ([{"name": "X-A", "value": "plain"}], "value"),
            ([{"name": f"X-{n}", "secret": "TOKEN"} for n in range(17)], "16"),
        ],
    )
    def test_headers_that_cannot_be_sent(
        self, acme: TenantAtTheDoor, headers: list[dict[str, str]], says: str
    ) -> None:
        path, caller = with_headers(acme), acme.caller("api:write")
        refused = caller.request("PUT", f"{path}/remote", json={"url": URL, "headers": headers})
        assert refused.status_code == 422
        assert says in refused.text
        assert caller.ok("GET", f"{path}/remote")["headers"] == HEADERS

    @pytest.mark.acceptance("S0.4")
    @pytest.mark.parametrize(
        "wish",
        [
            {"slug": "local", "kind": "remote", "remote": {"command": "npx", "args": ["-y", "server"]}},
            {"slug": "local", "kind": "remote", "remote": {"url": URL, "transport": "stdio"}},
            {"slug": "local", "kind": "stdio"},
        ],
    )
    def test_a_program_to_start(self, acme: TenantAtTheDoor, wish: dict[str, Any]) -> None:
        refused = acme.caller("api:write").post(f"{acme.path}/servers", json=wish)
        assert refused.status_code == 422
        assert "start" in refused.text
        assert acme.caller().ok("GET", f"{acme.path}/servers")["items"] == []

    def test_code_for_a_server_that_runs_elsewhere(self, acme: TenantAtTheDoor) -> None:
        path, caller = make_remote(acme, transport="sse"), acme.caller("api:write")
        code = {"worker.js": ("application/javascript+module", b"export default {}")}
        files = upload_parts({"main_module": "worker.js", "compatibility_date": "2026-11-01"}, code)
        server = path.removesuffix("/environments/production")
        deployment = {"versions": [{"version": 1, "percentage": 100}]}
        for refused in (
            caller.post(f"{server}/versions", files=files),
            caller.post(f"{path}/deployments", json=deployment),
        ):
            assert refused.status_code == 409, refused.text
            assert refused.json()["type"] == "urn:smcp:problem:server-runs-elsewhere"
        for policy in ({"variables": {"A": "b"}}, {"egress_allow": ["e.com:443"]}, {"releases_kept": 2}):
            assert caller.request("PATCH", path, json=policy).status_code == 422

    def test_an_address_for_a_server_that_is_hosted_here(self, acme: TenantAtTheDoor) -> None:
        path, caller = make_server(acme), acme.caller("api:write")
        for method, body in (("PUT", {"url": URL}), ("DELETE", None)):
            refused = caller.request(method, f"{path}/environments/production/remote", json=body)
            assert (refused.status_code, refused.json()["type"]) == (409, "urn:smcp:problem:server-hosted")
        both = {"slug": "both", "kind": "worker", "remote": {"url": URL}}
        assert caller.post(f"{acme.path}/servers", json=both).status_code == 422
        both = {"slug": "both", "catalog": "starter", "remote": {"url": URL}}
        assert caller.post(f"{acme.path}/servers", json=both).status_code == 422

    def test_an_open_proxy_unless_it_is_meant(self, acme: TenantAtTheDoor) -> None:
        path, caller = with_headers(acme), acme.caller("api:write")
        refused = caller.request("PATCH", path, json={"access": ["public"]})
        assert (refused.status_code, refused.json()["type"]) == (422, "urn:smcp:problem:open-proxy")
        assert caller.ok("GET", path)["access"] == ["api_key"]
        wish = {"url": URL, "headers": HEADERS, "confirm_public": True}
        caller.ok("PUT", f"{path}/remote", json=wish)
        caller.ok("PATCH", path, json={"access": ["public"]})
        again = caller.request("PUT", f"{path}/remote", json={**wish, "confirm_public": False})
        assert again.json()["type"] == "urn:smcp:problem:open-proxy"
        caller.ok("PUT", f"{path}/remote", json={"url": URL})

    def test_another_tenants_remote_is_not_there(self, acme: TenantAtTheDoor, other: TenantAtTheDoor) -> None:
        path = with_headers(acme)
        for method in ("GET", "PUT", "DELETE"):
            body = {"url": URL} if method == "PUT" else None
            assert other.caller().request(method, f"{path}/remote", json=body).status_code in {403, 404}
        assert acme.caller().ok("GET", f"{path}/remote")["headers"] == HEADERS
