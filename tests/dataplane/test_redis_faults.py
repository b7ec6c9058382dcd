"""Redis killed and restarted, slow, full: sessions that run go on, what is degraded is said, and everything comes back by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from hosting.dataplane.contract import Route, SessionReport, Suspension
from tests.dataplane.harness import (
    TENANT,
    Caller,
    GatewayProcess,
    Publisher,
    RedisProcess,
    StandInProcess,
    World,
    next_event,
    request,
)
from tests.dataplane.slow import SlowProxy
from tests.parts import free_port
from tests.waiting import wait_for

DELAY_S = 2.5
JUNK = b"x" * 100_000
PATIENCE_S = 8.0  # a request waits a second for Redis at most; the rest is for a busy machine


class Frail(World):
    """A world whose Redis can be killed, slowed down and filled."""

    redis: RedisProcess
    proxy: SlowProxy

    @property
    def redis_state(self) -> str:
        return str(self.gateway.readyz()["redis"])

    def becomes(self, state: str) -> None:
        wait_for(lambda: self.redis_state == state, 30, what=f"Redis to be told as {state}")
        metric = "smcp_gateway_redis_state"
        wait_for(lambda: self.gateway.metric(metric, state=state) == 1, 30, what=f"{state} in the metrics")
        assert self.gateway.metric("smcp_gateway_redis_state") == 1

    def is_whole(self) -> bool:
        """The replay log says so of itself, in its own time."""
        return not any(said.startswith("redis") for said in self.gateway.readyz()["degraded"])

    def fill(self) -> None:
        """Past its bound, and it evicts nothing. Past, not up to: what it holds goes up and down by its own buffers."""
        client = self.publisher.client
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        client.config_set("maxmemory", 0)
        for number in range(200):
            client.set(f"junk:{number}", JUNK)
        client.config_set("maxmemory", int(client.info("memory")["used_memory"]) - 100 * len(JUNK))
        with pytest.raises(redis.OutOfMemoryError):
            client.set("junk:more", JUNK)

    def empty(self) -> None:
        """The junk goes, the bound stays until the next time."""
        for key in self.publisher.client.scan_iter("junk:*"):
            self.publisher.client.delete(key)


@pytest.fixture(scope="module")
def frail(directory: Path, standin: StandInProcess) -> Iterator[Frail]:
    process = RedisProcess(directory / "frail", free_port())
    process.start()
    proxy = SlowProxy(process.url)
    proxy.start()
    publisher = Publisher(process.url)
    publisher.new_epoch()
    gateway = GatewayProcess(directory, redis_url=proxy.url, dispatch_ring=standin.dispatch_ring)
    gateway.start()
    with httpx.Client(timeout=30) as http:
        world = Frail(gateway, standin, publisher, http)
        world.redis, world.proxy = process, proxy
        yield world
    gateway.stop()
    publisher.close()
    proxy.stop()
    process.stop()


class Running:
    """Sessions that go on: legacy calls, some of which Redis is told of, modern calls, and a stream that listens."""

    def __init__(self, world: Frail, route: Route) -> None:
        self.world = world
        self.answers: list[tuple[str, int, float]] = []  # what, status, seconds
        self.heard = 0
        self._route = route
        self._key = world.key()
        self._stop = threading.Event()
        works = (self._call, self._set_level, self._call_modern, self._listen)
        self._threads = [threading.Thread(target=work, daemon=True) for work in works]
        self._trouble: list[BaseException] = []

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        self.go_on()

    def stop(self) -> None:
        self._stop.set()
        wait_for(lambda: self._hears_more() and not self._threads[-1].is_alive(), 30, what="the stream's end")
        for thread in self._threads:
            thread.join(30)

    def _hears_more(self) -> bool:
        self.world.standin.go("get")
        time.sleep(0.1)
        return True

    def go_on(self) -> None:
        """Every kind of them is answered again, and the stream brings something."""
        count, heard = len(self.answers), self.heard
        kinds = {"call", "level", "modern"}
        wait_for(lambda: {kind for kind, *_ in self.answers[count:]} >= kinds, 30, what="all to be answered")
        wait_for(lambda: self._hears_more() and self.heard > heard, 20, what="the stream to bring something")

    def open_another(self) -> None:
        with self._caller() as caller:
            assert caller.call("echo").status_code == 200

    def check(self) -> None:
        assert self._trouble == []
        assert [answer for answer in self.answers if answer[1] != 200] == []
        assert max(seconds for _, _, seconds in self.answers) < PATIENCE_S

    def _loop(self, kind: str, ask: Callable[[], httpx.Response]) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                status = ask().status_code
            except httpx.HTTPError as exc:
                self._trouble.append(exc)
                return
            self.answers.append((kind, status, time.monotonic() - began))
            time.sleep(0.01)

    @contextmanager
    def _caller(self, *, session: bool = True) -> Iterator[Caller]:
        with httpx.Client(timeout=30) as http:
            caller = Caller(http, self.world.url(self._route), self._key)
            if session:
                assert caller.initialize().status_code == 200
            yield caller

    def _call(self) -> None:
        with self._caller() as caller:
            self._loop("call", lambda: caller.call("echo", text="x"))

    def _set_level(self) -> None:
        with self._caller() as caller:
            self._loop("level", lambda: caller.send(body=request("logging/setLevel", {"level": "info"})))

    def _call_modern(self) -> None:
        with self._caller(session=False) as caller:
            self._loop("modern", lambda: caller.modern("tools/call", {"name": "echo"}))

    def _listen(self) -> None:
        with self._caller() as caller, caller.stream("GET") as response:
            if response.status_code != 200:
                self._trouble.append(AssertionError(response.status_code))
            lines = response.iter_lines()
            while not self._stop.is_set() and next_event(lines):
                self.heard += 1


@pytest.fixture
def running(frail: Frail, request: pytest.FixtureRequest) -> Iterator[Running]:
    slug = request.node.name.replace("_", "-")[:40].strip("-")
    load = Running(frail, frail.server(slug, frail.target("scripted-stateful")))
    load.start()
    yield load
    load.stop()


@pytest.mark.acceptance("S3.32")
def test_killed_and_restarted_under_load(frail: Frail, running: Running) -> None:
    frail.redis.kill()
    frail.becomes("down")
    ready = httpx.get(f"{frail.gateway.admin_url}/readyz")
    assert ready.status_code == 200
    assert any("reports wait" in said for said in ready.json()["degraded"])
    running.go_on()
    frail.redis.start()
    frail.becomes("up")
    wait_for(frail.is_whole, 10, what="Redis to be called well again")
    running.go_on()
    running.check()


@pytest.mark.acceptance("S3.32")
def test_slow(frail: Frail, running: Running) -> None:
    frail.proxy.delay_s = DELAY_S
    try:
        frail.becomes("slow")
        ready = frail.gateway.readyz()
        assert ready["ready"]
        assert any("redis: slow" in said for said in ready["degraded"])
        assert ready["redis_write_s"] > 0.5
        assert frail.gateway.metric("smcp_gateway_redis_write_seconds") > 0.5
        running.go_on()
        frail.publisher.publish(Suspension(tenant=TENANT, version=1, server_slug="slow-suspended"))
        wait_for(lambda: frail.gateway.readyz()["counts"]["suspensions"] == 1, 20, what="news, though late")
        running.go_on()
    finally:
        frail.proxy.delay_s = 0.0
    frail.becomes("up")
    wait_for(frail.is_whole, 10, what="Redis to be called well again")
    running.go_on()
    running.check()


def test_so_slow_that_nothing_comes_in_time(frail: Frail, running: Running) -> None:
    frail.proxy.delay_s = 30.0
    try:
        wait_for(lambda: frail.redis_state in {"slow", "down"}, 30, what="the trouble to be told")
        running.go_on()
        frail.becomes("down")
        running.go_on()
    finally:
        frail.proxy.delay_s = 0.0
    wait_for(lambda: frail.redis_state == "up", 60, what="Redis to be taken back")
    running.go_on()
    running.check()


@pytest.mark.acceptance("S3.32")
def test_full(frail: Frail, running: Running) -> None:
    lost = frail.gateway.metric("smcp_gateway_reports_lost_total")
    frail.fill()
    try:
        frail.becomes("full")
        ready = frail.gateway.readyz()
        assert ready["ready"]
        assert any("redis: full" in said for said in ready["degraded"])
        assert "OutOfMemory" in ready["redis_trouble"]
        running.go_on()
        running.open_another()
    finally:
        frail.empty()
    frail.becomes("up")
    running.go_on()
    running.check()
    assert frail.gateway.metric("smcp_gateway_reports_lost_total") == lost
    environment = frail.routes["test-full"].environment

    def told() -> list[SessionReport]:
        reports = [report for report in frail.publisher.reports() if isinstance(report, SessionReport)]
        return [report for report in reports if report.environment == environment]

    wait_for(lambda: len(told()) >= 4, 10, what="what was held back to be reported")


def revocations(world: World) -> set[bytes]:
    keys: Any = world.publisher.client.hkeys(world.publisher.keys.facts)
    return {key for key in keys if key.startswith(b"revocation/") and not key.endswith(b"#v")}


@pytest.mark.parametrize("fault", ["slow", "full", "killed"])
def test_a_lost_session_heals_and_one_ends_meanwhile(frail: Frail, fault: str) -> None:
    route = frail.server(f"heals-{fault}", frail.target(f"scripted-{fault}-stateful"))
    healing, ending = frail.caller(route), frail.caller(route)
    known = revocations(frail)
    assert healing.call("echo").status_code == 200
    told = [entry for entry in frail.standin.seen if entry["script"] == f"scripted-{fault}-stateful"]
    upstream = told[-1]["headers"]["mcp-session-id"]
    if fault == "slow":
        frail.proxy.delay_s = DELAY_S
    elif fault == "full":
        frail.fill()
    else:
        frail.redis.kill()
    try:
        frail.becomes({"slow": "slow", "full": "full", "killed": "down"}[fault])
        assert frail.standin.end_session(route, upstream) == 200
        began = time.monotonic()
        assert healing.call("echo").status_code == 200
        assert ending.send("DELETE").status_code == 204
        assert ending.call("echo").status_code == 404
        assert time.monotonic() - began < 20
    finally:
        frail.proxy.delay_s = 0.0
        if fault == "full":
            frail.empty()
        elif fault == "killed":
            frail.redis.start()
    frail.becomes("up")
    wait_for(lambda: len(revocations(frail) - known) == 1, 20, what="the others to be told")
