"""What the control plane is told: health by Release, sessions one by one; probes and refusals are nobody's traffic."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest

from hosting.dataplane.contract import (
    LATENCY_BUCKETS_MS,
    CredentialReport,
    HealthReport,
    Keys,
    Route,
    SessionReport,
    mint_probe_token,
)
from hosting.dataplane.facts.follow import connect_redis
from hosting.dataplane.telemetry.metrics import Metrics
from hosting.dataplane.telemetry.reports import MAX_SESSIONS_OF_TENANT, Reports
from tests.dataplane.harness import MODERN, RedisProcess, World, call_of, next_event
from tests.waiting import wait_for


def health(world: World, route: Route) -> list[HealthReport]:
    told = [report for report in world.publisher.reports() if isinstance(report, HealthReport)]
    return [report for report in told if report.environment == route.environment]


def sessions(world: World, route: Route) -> list[SessionReport]:
    told = [report for report in world.publisher.reports() if isinstance(report, SessionReport)]
    return [report for report in told if report.environment == route.environment]


@pytest.mark.acceptance("S4.7")
def test_requests_and_failures_are_counted_for_their_release(world: World) -> None:
    route = world.server("reports-health")
    caller = world.caller(route)
    for _ in range(3):
        caller.call("echo", text="x" * 100)
    caller.call("status", status=500)
    caller.call("status", status=200, error=[-32602, "an answer, not a failure"])
    wait_for(lambda: sum(report.requests for report in health(world, route)) == 6, 5)
    told = health(world, route)
    assert {report.release for report in told} == {route.targets[0].release}
    assert sum(report.failures for report in told) == 1
    assert {report.last_failure for report in told} - {""} == {"upstream_failed"}
    assert sum(map(sum, (report.latency_buckets for report in told))) == 6
    assert all(len(report.latency_buckets) == len(LATENCY_BUCKETS_MS) + 1 for report in told)
    assert sum(report.request_bytes for report in told) > 300
    assert sum(report.response_bytes for report in told) > 300
    assert all(report.window_s > 0 and report.node for report in told)
    assert all(report.latency_ms_max <= report.latency_ms_sum for report in told)


def test_open_streams_are_told_even_when_nothing_else_happens(world: World) -> None:
    route = world.server("reports-streams", world.target("scripted-stateful"))
    caller = world.caller(route)
    with caller.stream("GET"):
        wait_for(lambda: any(report.open_streams == 1 for report in health(world, route)), 5)


def test_a_session_is_told_when_it_opens_and_when_it_ends(world: World) -> None:
    route = world.server("reports-sessions")
    caller = world.caller(route)
    caller.send("DELETE")
    opened, ended = wait_for(lambda: told if len(told := sessions(world, route)) == 2 else [], 5)
    assert (opened.event, ended.event) == ("opened", "ended")
    assert opened.session == ended.session
    assert opened.principal.startswith("key:")
    assert (opened.client_name, opened.client_version) == ("few words", "1")
    assert opened.protocol_version == "2025-11-25"
    assert caller.headers["mcp-session-id"] not in str(opened)


@pytest.mark.acceptance("S4.19")
@pytest.mark.parametrize("name", ["\ud800", "a\x00b", "line\nbreak", {"not": "text\udfff"}])
def test_whatever_a_client_calls_itself_is_told_as_text_and_the_reports_go_on(
    world: World, name: object
) -> None:
    route = world.server("reports-names")
    caller = world.caller(route, session=False)
    assert caller.initialize(clientInfo={"name": name, "version": "1"}).status_code == 200
    other = world.server("reports-names-after")
    world.caller(other)
    wait_for(lambda: sessions(world, other), 5)
    told = sessions(world, route)[-1].client_name
    assert told.isprintable()
    assert told == told.encode().decode()


@pytest.mark.acceptance("P3")
def test_the_use_of_a_key_is_told_once_a_window(world: World) -> None:
    route = world.server("reports-key")
    caller = world.caller(route, world.key(id="k" * 26))
    before = time.time()
    for _ in range(5):
        caller.call("echo")

    def told() -> list[CredentialReport]:
        reports = [report for report in world.publisher.reports() if isinstance(report, CredentialReport)]
        return [report for report in reports if report.credential == "k" * 26]

    wait_for(lambda: told() and told()[-1].at >= before, 5, what="the report")
    assert {report.tenant for report in told()} == {route.tenant}
    assert len(told()) < 5


def test_a_probe_leaves_no_trace(world: World) -> None:
    route = world.server("reports-probe")
    token = mint_probe_token(key=world.gateway.probe_key, environment=route.environment, now=time.time())
    probe = world.at(world.url(route), token)
    revocations = world.gateway.readyz()["counts"]["revocations"]
    facts = world.publisher.client.hlen(world.publisher.keys.facts)
    assert probe.initialize().status_code == 200
    assert probe.send("DELETE").status_code == 204
    other = world.server("reports-probe-after")
    world.caller(other)
    wait_for(lambda: sessions(world, other) and health(world, other), 5)
    assert sessions(world, route) == []
    assert health(world, route) == []
    assert world.gateway.readyz()["counts"]["revocations"] == revocations
    assert (
        world.publisher.client.hlen(world.publisher.keys.facts) == facts + 4
    )  # the other server, its caller's key


def test_refusals_are_not_the_servers_health(world: World) -> None:
    route = world.server("reports-refusals")
    caller = world.caller(route)
    for _ in range(3):
        caller.send(body=b"{")
        world.at(world.url(route)).initialize()
        caller.send("GET")
    wait_for(lambda: health(world, route), 5)
    time_of_one_more_window = world.caller(world.server("reports-later"))
    assert time_of_one_more_window.call("echo").status_code == 200
    wait_for(lambda: health(world, world.routes["reports-later"]), 5)
    told = health(world, route)
    assert sum(report.failures for report in told) == 0


class TestMetrics:
    @pytest.mark.acceptance("S0.25", "S2.52")
    def test_they_count_by_closed_lists_and_hold_nobodys_text(self, world: World) -> None:
        route = world.server("reports-secret-name")
        caller = world.caller(route)
        before = world.gateway.metric("smcp_gateway_requests_total", era="legacy", outcome="ok")
        caller.call("echo", text="tenant text")
        caller.send(body=b"{", x_secret="secret")
        after = world.gateway.metric("smcp_gateway_requests_total", era="legacy", outcome="ok")
        assert after == before + 1
        assert world.gateway.metric("smcp_gateway_requests_total", outcome="bad_request") >= 1
        assert world.gateway.metric("smcp_gateway_sessions_opened_total") >= 1
        assert world.gateway.metric("smcp_gateway_request_seconds_count", era="legacy") >= 1
        assert world.gateway.metric("smcp_gateway_redis_up") == 1
        exposition = httpx.get(f"{world.gateway.admin_url}/metrics").text
        for text in ("reports-secret-name", "acme", "tenant text", "env-", route.tenant):
            assert text not in exposition

    def test_what_is_refused_counts_for_its_era_once_that_is_known(self, world: World) -> None:
        route = world.server("reports-eras")
        caller = world.caller(route)

        def count(era: str, outcome: str) -> float:
            return world.gateway.metric("smcp_gateway_requests_total", era=era, outcome=outcome)

        def refused(era: str, outcome: str, send: Callable[[], httpx.Response]) -> bool:
            before, rest = count(era, outcome), count("none", outcome)
            assert send().status_code >= 400
            return count(era, outcome) == before + 1 and (era == "none" or count("none", outcome) == rest)

        stranger = world.at(world.url(route))
        assert refused("legacy", "upstream_failed", lambda: caller.call("status", status=500))
        asked = {"name": "status", "arguments": {"status": 500}}
        assert refused("modern", "upstream_failed", lambda: caller.modern("tools/call", asked))
        no_get = partial(caller.send, "GET", mcp_protocol_version=MODERN)
        assert refused("modern", "method_not_allowed", no_get)
        assert refused("none", "unauthenticated", stranger.initialize)

    def test_open_streams_are_seen(self, world: World) -> None:
        caller = world.caller(world.server("reports-gauge"))
        with caller.stream(body=call_of("stream", count=1, permit="gauge")) as response:
            assert world.gateway.metric("smcp_gateway_streams_open") == 1
            world.standin.go("gauge")
            assert next_event(response.iter_lines())
        wait_for(lambda: world.gateway.metric("smcp_gateway_streams_open") == 0, 5)


def test_health_and_metrics_are_not_on_the_public_port(world: World) -> None:
    for path in ("/metrics", "/healthz", "/readyz"):
        assert httpx.get(world.gateway.url + path).status_code == 404
        assert httpx.get(world.gateway.admin_url + path).status_code == 200


def test_no_secret_is_in_the_log(world: World) -> None:
    caller = world.caller(world.server("reports-log"))
    caller.call("status", status=500)
    log = world.gateway.log
    assert "upstream.failed" in log
    for secret in (caller.headers["authorization"].split()[1], caller.headers["mcp-session-id"]):
        assert secret not in log


@pytest.mark.acceptance("S4.19")
def test_one_tenants_flood_of_sessions_is_cut_and_counted_and_others_are_heard(
    own_redis: RedisProcess, world: World
) -> None:
    metrics, keys = Metrics(), Keys("flood")

    def told_by(tenant: str) -> SessionReport:
        return SessionReport(
            tenant=tenant, environment="e", session="s", principal="public", event="opened", at=1.0
        )

    async def flood() -> None:
        redis = connect_redis(own_redis.url)
        reports = Reports(
            installation=keys.installation, node="n", window_s=10.0, redis=redis, metrics=metrics
        )
        for window in range(2):
            for _ in range(MAX_SESSIONS_OF_TENANT + 100):
                reports.session(told_by("loud"))
            reports.session(told_by(f"quiet-{window}"))
            await reports.flush()  # the window ends
        await redis.aclose()

    asyncio.run(flood())
    entries: Any = world.publisher.client.xrange(keys.reports)
    told = Counter(str(json.loads(fields[b"report"])["tenant"]) for _, fields in entries)
    assert told == {"loud": 2 * MAX_SESSIONS_OF_TENANT, "quiet-0": 1, "quiet-1": 1}
    assert b"smcp_gateway_reports_lost_total 200.0" in metrics.exposition()
    world.publisher.client.delete(keys.reports)
