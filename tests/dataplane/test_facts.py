"""What the control plane says takes effect at once, survives everything that can happen to Redis, and never goes back in time."""

from __future__ import annotations

import os
import signal
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from hosting.dataplane.contract import REVOCATIONS_KEPT, Revocation, Route, SessionReport, Suspension
from tests.dataplane.harness import (
    TENANT,
    GatewayProcess,
    Publisher,
    RedisProcess,
    StandInProcess,
    World,
    error_of,
)
from tests.parts import free_port
from tests.waiting import wait_for


def suspension(
    version: int, *, server: str = "", is_gone: bool = False, reason: str = "unpaid"
) -> Suspension:
    return Suspension(tenant=TENANT, version=version, server_slug=server, reason=reason, is_gone=is_gone)


class TestSuspension:
    @pytest.mark.acceptance("S4.19")
    def test_it_is_403_with_the_reason_within_a_second_and_over_as_fast(self, world: World) -> None:
        caller = world.caller(world.server("suspended"))
        for version in (10, 12):
            world.publisher.publish(suspension(version))
            published_at = time.monotonic()
            wait_for(lambda: caller.call("echo").status_code == 403, 1.0)
            assert time.monotonic() - published_at < 1.0
            refused = caller.call("echo")
            assert "unpaid" in refused.json()["error"]["message"]
            world.publisher.publish(suspension(version + 1, is_gone=True))
            wait_for(lambda: caller.call("echo").status_code == 200, 1.0)

    def test_one_server_is_suspended_without_the_others(self, world: World) -> None:
        one, other = (
            world.caller(world.server("suspended-one")),
            world.caller(world.server("suspended-other")),
        )
        world.publisher.publish(suspension(1, server="suspended-one"))
        world.settle()
        assert one.call("echo").status_code == 403
        assert other.call("echo").status_code == 200

    def test_an_older_fact_changes_nothing(self, world: World) -> None:
        caller = world.caller(world.server("suspended-old"))
        world.publisher.publish(suspension(5, server="suspended-old", is_gone=True))
        assert world.publisher.publish(suspension(4, server="suspended-old")) == 0
        world.settle()
        assert caller.call("echo").status_code == 200


def test_one_principal_fills_nobodys_redis_with_ended_sessions(world: World) -> None:
    def of(number: int) -> Revocation:
        return Revocation(
            tenant=TENANT, version=1, session=f"{number:016x}", until=time.time() + 600, principal="key:busy"
        )

    world.publisher.publish(*(of(number) for number in range(REVOCATIONS_KEPT + 200)))
    world.settle()
    facts = world.publisher.keys.facts
    wait_for(
        lambda: not world.publisher.client.hexists(facts, of(199).key), 5, what="the oldest to be forgotten"
    )
    assert world.publisher.client.hexists(facts, of(200).key)
    assert not world.publisher.client.hexists(facts, of(0).key + "#v")
    world.publisher.publish(
        *(
            Revocation(tenant=TENANT, version=2, session=of(n).session, until=0, is_gone=True)
            for n in range(200, REVOCATIONS_KEPT + 200)
        )
    )


@pytest.mark.acceptance("S3.11")
def test_a_revoked_session_is_404_on_the_next_request(world: World) -> None:
    route = world.server("revoked")
    caller = world.caller(route)

    def opened() -> list[SessionReport]:
        told = [report for report in world.publisher.reports() if isinstance(report, SessionReport)]
        return [report for report in told if report.environment == route.environment]

    session = wait_for(opened, 5)[0].session
    until = time.time() + 3600
    world.publisher.publish(Revocation(tenant=TENANT, version=1, session=session, until=until))
    wait_for(lambda: caller.call("echo").status_code == 404, 1.0)


def test_a_fact_that_cannot_be_read_is_skipped_and_counted(world: World) -> None:
    before = world.gateway.metric("smcp_gateway_facts_skipped")
    world.publisher.client.xadd(world.publisher.keys.changes, {"fact": b'{"fact":"novelty","x":1}'})
    caller = world.caller(world.server("after-novelty"))
    assert caller.call("echo").status_code == 200
    assert world.gateway.metric("smcp_gateway_facts_skipped") == before + 1


class TestReloads:
    def test_a_new_epoch_is_read_from_the_start(self, world: World) -> None:
        kept, dropped = world.server("epoch-kept"), world.server("epoch-dropped")
        kept_caller, dropped_caller = world.caller(kept), world.caller(dropped)
        reloads = world.gateway.metric("smcp_gateway_route_reloads")
        world.publisher.client.hdel(world.publisher.keys.facts, dropped.key, f"{dropped.key}#v")
        world.publisher.new_epoch()
        wait_for(lambda: world.gateway.metric("smcp_gateway_route_reloads") > reloads, 5, what="the reload")
        assert kept_caller.call("echo").status_code == 200
        assert dropped_caller.call("echo").status_code == 404

    def test_a_stream_trimmed_past_the_cursor_is_noticed(self, world: World) -> None:
        """The gateway is held still while more is published than the stream keeps."""
        caller = world.caller(world.server("trimmed"))
        reloads = world.gateway.metric("smcp_gateway_route_reloads")
        os.kill(world.gateway.pid, signal.SIGSTOP)
        try:
            route = world.routes["trimmed"]
            fields = {name: getattr(route, name) for name in route.__struct_fields__}
            gone = Route(**{**fields, "version": world.publisher.next_version("route"), "is_gone": True})
            world.publisher.publish(gone)
            filler = [suspension(number, server=f"filler-{number}") for number in range(1, 600)]
            world.publisher.publish(*filler)
            world.publisher.client.xtrim(world.publisher.keys.changes, maxlen=10, approximate=False)
        finally:
            os.kill(world.gateway.pid, signal.SIGCONT)
        wait_for(lambda: world.gateway.metric("smcp_gateway_route_reloads") > reloads, 10, what="the reload")
        assert error_of(caller.call("echo")) == (404, -32000)


class TestRedisAway:
    """A world of its own: its Redis is killed."""

    @pytest.fixture
    def frail(self, tmp_path: Path, standin: StandInProcess) -> Iterator[tuple[World, RedisProcess]]:
        redis = RedisProcess(tmp_path / "redis", free_port())
        redis.start()
        publisher = Publisher(redis.url)
        publisher.new_epoch()
        gateway = GatewayProcess(tmp_path, redis_url=redis.url, dispatch_ring=standin.dispatch_ring)
        gateway.start()
        with httpx.Client(timeout=20) as http:
            yield World(gateway, standin, publisher, http), redis
        gateway.stop()
        publisher.close()
        redis.stop()

    @pytest.mark.acceptance("S3.32")
    def test_calls_go_on_while_redis_is_killed_and_back_under_load(
        self, frail: tuple[World, RedisProcess]
    ) -> None:
        world, redis = frail
        route = world.server("frail", world.target("scripted-stateful"))
        key = world.key()
        stop, failures, calls = threading.Event(), [], []

        def work() -> None:
            with httpx.Client(timeout=20) as http:
                caller = type(world.at("", ""))(http, world.url(route), key)
                assert caller.initialize().status_code == 200
                while not stop.is_set():
                    response = caller.call("echo")
                    calls.append(response.status_code)
                    if response.status_code != 200:
                        failures.append(response.text)

        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        wait_for(lambda: len(calls) > 50)
        redis.kill()
        wait_for(lambda: world.gateway.readyz()["redis"] == "down", 10, what="the gateway to notice")
        ready = httpx.get(f"{world.gateway.admin_url}/readyz")
        assert ready.status_code == 200
        assert ready.json()["degraded"]
        assert world.gateway.metric("smcp_gateway_redis_up") == 0
        before = len(calls)
        wait_for(lambda: len(calls) > before + 50)
        redis.start()
        wait_for(lambda: world.gateway.readyz()["redis"] == "up", 15, what="the gateway to come back")
        world.publisher.publish(suspension(1))
        wait_for(lambda: 403 in calls, 5, what="the suspension to arrive")
        stop.set()
        for worker in workers:
            worker.join()
        assert {text for text in failures if "suspended" not in text} == set()

    def test_a_session_ended_while_redis_is_away_is_told_later(
        self, frail: tuple[World, RedisProcess]
    ) -> None:
        world, redis = frail
        caller = world.caller(world.server("frail-delete"))
        redis.kill()
        wait_for(lambda: world.gateway.readyz()["redis"] == "down", 10)
        assert caller.send("DELETE").status_code == 204
        assert error_of(caller.call("echo")) == (404, -32001)
        redis.start()
        keys = world.publisher.keys
        wait_for(
            lambda: any(b"revocation/" in key for key in world.publisher.client.hkeys(keys.facts)),
            15,
            what="the revocation to be published",
        )

    def test_data_lost_with_redis_changes_nothing_until_it_is_published_again(
        self, frail: tuple[World, RedisProcess]
    ) -> None:
        world, _ = frail
        route = world.server("frail-lost")
        caller = world.caller(route)
        world.publisher.client.flushall()
        wait_for(lambda: world.gateway.readyz()["redis"] == "down", 10)
        assert "gone" in world.gateway.readyz()["redis_trouble"]
        assert caller.call("echo").status_code == 200
        world.publisher.publish(route)
        world.publisher.new_epoch()
        wait_for(lambda: world.gateway.readyz()["redis"] == "up", 10)
        assert caller.call("echo").status_code == 401  # its key was not published again

    def test_a_gateway_starts_from_its_own_disk_while_redis_is_away(
        self, frail: tuple[World, RedisProcess]
    ) -> None:
        world, redis = frail
        caller = world.caller(world.server("frail-disk", world.target("scripted-stateful")))
        file = world.gateway.state_dir / "routes.snapshot"
        wait_for(lambda: file.exists() and b"frail-disk" in file.read_bytes(), 15, what="the snapshot")
        wait_for(lambda: file.read_bytes().count(b'"credential"') == 1, 15, what="the snapshot")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        world.gateway.stop()
        redis.kill()
        world.gateway.start()
        ready = world.gateway.readyz()
        assert ready["source"] == "disk"
        assert ready["redis"] == "down"
        assert caller.call("echo").status_code == 200  # the same session, too
        redis.start()
        wait_for(lambda: world.gateway.readyz()["source"] == "redis", 15)
        assert caller.call("echo").status_code == 200

    def test_a_gateway_that_knows_nothing_says_so(self, tmp_path: Path, standin: StandInProcess) -> None:
        url = f"redis://127.0.0.1:{free_port()}"
        gateway = GatewayProcess(tmp_path, redis_url=url, dispatch_ring=standin.dispatch_ring)
        gateway.spawn()
        try:
            gateway.wait_http(f"{gateway.admin_url}/readyz", status=503)
            gateway.wait_http(f"{gateway.admin_url}/healthz")
            gateway.wait_http(f"{gateway.url}/acme/x/mcp", status=503)
            assert int(httpx.get(f"{gateway.url}/acme/x/mcp").headers["retry-after"]) > 0
        finally:
            assert gateway.stop() == 0

    @pytest.mark.parametrize("content", [b"", b"{}", b'{"form":1}\n', b"\xff" * 100])
    def test_a_broken_file_is_no_snapshot(
        self, tmp_path: Path, standin: StandInProcess, content: bytes
    ) -> None:
        url = f"redis://127.0.0.1:{free_port()}"
        gateway = GatewayProcess(tmp_path, redis_url=url, dispatch_ring=standin.dispatch_ring)
        gateway.state_dir.mkdir()
        (gateway.state_dir / "routes.snapshot").write_bytes(content)
        gateway.spawn()
        try:
            gateway.wait_http(f"{gateway.admin_url}/readyz", status=503)
            assert "routes.no_snapshot" in gateway.log
        finally:
            assert gateway.stop() == 0
