"""Who may call: API keys, probes and the public, and that what they present never goes further."""

from __future__ import annotations

import time

import httpx
import pytest

from hosting.dataplane.contract import mint_probe_token
from tests.dataplane.harness import OTHER_TENANT, World, call_of, error_of, modern_request, request


def challenge(response: httpx.Response) -> str:
    return str(response.headers["www-authenticate"])


class TestApiKeys:
    @pytest.mark.acceptance("S4.25")
    def test_a_key_of_the_tenant_lets_in_and_is_never_sent_on(self, world: World) -> None:
        key = world.key()
        caller = world.caller(world.server("callers-keys"), key)
        assert caller.call("echo").status_code == 200
        assert key not in str(world.standin.seen)
        assert "authorization" not in world.standin.seen[-1]["headers"]
        assert key not in world.gateway.log

    @pytest.mark.parametrize(
        "authorization", [None, "Basic eDp5", "Bearer", "smcp_x", "Bearer eyJhbGciOi.J9.x"]
    )
    def test_no_key_is_401_with_a_challenge(self, world: World, authorization: str | None) -> None:
        caller = world.at(world.url(world.server("callers-none")))
        response = caller.send(body=request("initialize"), authorization=authorization)
        assert error_of(response) == (401, -32000)
        assert challenge(response).startswith("Bearer")
        assert world.standin.seen == []

    def test_a_key_nobody_has_is_401(self, world: World) -> None:
        response = world.at(world.url(world.server("callers-bad")), "smcp_" + "x" * 43).initialize()
        assert error_of(response) == (401, -32000)
        assert 'error="invalid_token"' in challenge(response)

    @pytest.mark.acceptance("S4.5", "S4.31")
    def test_a_key_of_another_tenant_is_told_the_same_as_a_key_nobody_has(self, world: World) -> None:
        url = world.url(world.server("callers-tenants"))
        stranger = world.at(url, world.key(tenant=OTHER_TENANT)).initialize()
        nobody = world.at(url, "smcp_" + "x" * 43).initialize()
        assert stranger.status_code == 401
        assert stranger.json() == nobody.json()

    def test_an_expired_key_is_401(self, world: World) -> None:
        url = world.url(world.server("callers-expiry"))
        assert error_of(world.at(url, world.key(expires_at=time.time() - 1)).initialize()) == (401, -32000)
        assert world.at(url, world.key(expires_at=time.time() + 60)).initialize().status_code == 200

    def test_a_key_without_the_scope_is_403(self, world: World) -> None:
        response = world.at(
            world.url(world.server("callers-scope")), world.key(scopes=("api:read",))
        ).initialize()
        assert error_of(response) == (403, -32000)
        assert 'error="insufficient_scope"' in challenge(response)
        assert 'scope="mcp:call"' in challenge(response)

    @pytest.mark.acceptance("S2.35")
    def test_a_key_for_some_environments_is_403_in_the_others(self, world: World) -> None:
        production, staging = world.server("callers-env"), world.server("callers-env", environment="staging")
        key = world.key(environments=(staging.environment,))
        assert world.at(world.url(staging), key).initialize().status_code == 200
        assert error_of(world.at(world.url(production), key).initialize()) == (403, -32000)

    def test_a_revoked_key_stops_working_at_once(self, world: World) -> None:
        route = world.server("callers-revoked")
        key = world.key(id="k" * 26)
        caller = world.caller(route, key)
        world.key(id="k" * 26, is_gone=True)
        assert error_of(caller.call("echo")) == (401, -32000)


class TestPublic:
    def test_anybody_may_call_a_public_server(self, world: World) -> None:
        url = world.url(world.server("callers-public", access=("public",)))
        for key in (None, "some-other-token"):
            caller = world.at(url, key)
            assert caller.initialize().status_code == 200
            assert caller.call("echo").status_code == 200
        assert "some-other-token" not in str(world.standin.seen)

    def test_a_wrong_key_is_refused_where_keys_count_too(self, world: World) -> None:
        url = world.url(world.server("callers-both", access=("public", "api_key")))
        assert world.at(url).initialize().status_code == 200
        assert error_of(world.at(url, "smcp_" + "x" * 43).initialize()) == (401, -32000)


class TestProbes:
    def token(self, world: World, environment: str, *, now: float | None = None, key: bytes = b"") -> str:
        return mint_probe_token(
            key=key or world.gateway.probe_key, environment=environment, now=now or time.time()
        )

    @pytest.mark.acceptance("P3")
    def test_a_probe_may_open_a_session_look_around_and_leave(self, world: World) -> None:
        route = world.server("callers-probe", world.target("scripted-stateful"))
        probe = world.at(world.url(route), self.token(world, route.environment))
        assert probe.initialize().status_code == 200
        initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        assert probe.send(body=initialized).status_code == 202
        for method in ("ping", "tools/list", "prompts/list", "resources/list", "resources/templates/list"):
            assert probe.send(body=request(method)).status_code == 200, method
        assert probe.send("DELETE").status_code == 204
        assert world.standin.seen[-1]["method"] == "DELETE"
        assert error_of(probe.send(body=request("ping"))) == (404, -32001)

    def test_a_probe_speaks_the_modern_era_too(self, world: World) -> None:
        route = world.server("callers-probe-modern")
        probe = world.at(world.url(route), self.token(world, route.environment))
        assert probe.modern("server/discover").status_code == 200
        assert probe.modern("tools/list").status_code == 200

    @pytest.mark.parametrize(
        "method",
        ["tools/call", "resources/read", "prompts/get", "completion/complete", "subscriptions/listen"],
    )
    def test_a_probe_may_do_nothing_else(self, world: World, method: str) -> None:
        route = world.server("callers-probe-only")
        probe = world.at(world.url(route), self.token(world, route.environment))
        assert probe.initialize().status_code == 200
        world.standin.forget()
        assert error_of(probe.send(body=request(method, {"name": "echo"}))) == (403, -32000)
        body, headers = modern_request(method, {"name": "echo", "uri": "echo"})
        assert error_of(probe.send(body=body, **headers)) == (403, -32000)
        assert error_of(probe.send("GET")) == (403, -32000)
        assert world.standin.seen == []

    def test_a_probe_token_counts_for_one_environment_one_minute_and_one_key(self, world: World) -> None:
        route, other = world.server("callers-probe-a"), world.server("callers-probe-b")
        for token in (
            self.token(world, other.environment),
            self.token(world, route.environment, now=time.time() - 61),
            self.token(world, route.environment, now=time.time() + 600),
            self.token(world, route.environment, key=b"x" * 32),
        ):
            assert error_of(world.at(world.url(route), token).initialize()) == (401, -32000)

    def test_a_probe_is_not_told_apart_by_the_server(self, world: World) -> None:
        route = world.server("callers-probe-plain")
        world.standin.forget()
        world.at(world.url(route), self.token(world, route.environment)).initialize()
        world.at(world.url(route), world.key()).initialize()
        by_probe, by_key = (set(entry["headers"]) for entry in world.standin.seen)
        assert by_probe == by_key


def test_what_goes_upstream_is_built_and_not_copied(world: World) -> None:
    caller = world.caller(world.server("callers-headers"))
    caller.send(
        body=call_of("echo"),
        cookie="a=b",
        x_forwarded_for="1.2.3.4",
        smcp_assertion="forged",
        smcp_tenant="forged",
        x_secret="x",
        user_agent="me",
        accept_encoding="gzip",
        te="trailers",
    )
    headers = world.standin.seen[-1]["headers"]
    assert set(headers) == {
        "host", "accept", "accept-encoding", "content-type", "content-length", "mcp-protocol-version",
        "smcp-assertion", "x-request-id",
    }  # fmt: skip
    assert headers["accept-encoding"] == "identity"
    assert headers["host"] == "dispatcher.test"
    assert world.standin.seen[-1]["script"] == "scripted"
    assert world.standin.seen[-1]["tenant"] == world.routes["callers-headers"].tenant


def test_what_comes_back_is_an_allow_list(world: World) -> None:
    caller = world.caller(world.server("callers-back"))
    told = [
        ["set-cookie", "a=b"], ["www-authenticate", "Bearer"], ["mcp-session-id", "mine"], ["clear-site-data", "*"],
        ["access-control-allow-origin", "*"], ["location", "https://evil.example"], ["server", "me"], ["link", "x"],
    ]  # fmt: skip
    response = caller.call("echo", headers=told)
    assert response.status_code == 200
    assert set(response.headers) == {
        "content-type", "content-length", "cache-control", "x-content-type-options", "x-request-id", "date",
    } | ({"server"} & set(response.headers))  # fmt: skip
    assert response.headers.get("server") != "me"
    assert response.headers["cache-control"] == "no-store"
