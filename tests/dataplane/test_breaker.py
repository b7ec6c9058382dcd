"""A server that keeps failing is given a rest, tried again, and taken back; nobody but the server can bring that about."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from hosting.dataplane.contract import Dispatch, HealthReport, Limits, Route, mint_probe_token
from hosting.dataplane.forwarding.breaker import FIRST_PAUSE_S, MIN_REQUESTS, TRIALS
from tests.dataplane.harness import (
    AUDIENCE,
    Caller,
    World,
    call_of,
    error_of,
    events_of,
    modern_request,
)
from tests.dataplane.hostile import raw_request
from tests.parts import free_port
from tests.waiting import wait_for

FAILING = {"status": 500, "body": "x"}


def status(caller: Caller, **arguments: object) -> tuple[int, str]:
    """Of one modern call: HTTP status, and what was said."""
    response = caller.modern("tools/call", {"name": "status", "arguments": arguments})
    return response.status_code, response.json().get("error", {}).get("message", "")


def is_open(world: World, state: str = "open") -> bool:
    return world.gateway.metric("smcp_gateway_circuits", state=state) > 0


def refused(world: World) -> float:
    return world.gateway.metric("smcp_gateway_requests_total", outcome="circuit_open")


def prober(world: World, route: Route) -> Caller:
    token = mint_probe_token(key=world.gateway.probe_key, environment=route.environment, now=time.time())
    return world.at(world.url(route), token)


def opened(world: World, slug: str, *targets: object, **more: object) -> tuple[Route, Caller]:
    """A Server whose breaker has just opened."""
    route = world.server(slug, *targets, **more)  # type: ignore[arg-type]
    caller = world.at(world.url(route), world.key())
    for _ in range(MIN_REQUESTS):
        assert status(caller, **FAILING)[0] == 502
    assert status(caller, **FAILING)[0] == 503
    return route, caller


@pytest.mark.acceptance("P7")
def test_a_server_that_keeps_failing_is_not_asked_until_its_rest_is_over(world: World) -> None:
    changes = world.gateway.metric("smcp_gateway_circuit_changes_total", state="open")
    before = refused(world)
    route, caller = opened(world, "breaker")
    opened_at = time.monotonic()
    neighbour = world.caller(world.server("breaker-neighbour"))
    world.standin.forget()
    response = caller.modern("tools/call", {"name": "echo"})
    assert error_of(response) == (503, -32603)
    assert response.json()["id"] == 1
    assert 1 <= int(response.headers["retry-after"]) <= FIRST_PAUSE_S
    assert caller.initialize().status_code == 503
    assert world.standin.seen == []
    assert neighbour.call("echo").status_code == 200
    assert is_open(world)
    assert world.gateway.metric("smcp_gateway_circuit_changes_total", state="open") == changes + 1
    assert refused(world) >= before + 3
    assert f'"release": "{route.targets[0].release}"' in world.gateway.log.replace('":"', '": "')

    wait_for(lambda: status(caller, status=200, body="")[0] != 503, 15, what="a trial to be let through")
    assert time.monotonic() - opened_at > FIRST_PAUSE_S - 1
    for _ in range(TRIALS):
        assert caller.modern("tools/call", {"name": "echo"}).status_code == 200
    wait_for(lambda: not is_open(world, "half_open"), 5, what="the breaker to close")
    assert not is_open(world)
    with ThreadPoolExecutor(10) as pool:
        told = list(pool.map(lambda _: caller.modern("tools/call", {"name": "echo"}).status_code, range(20)))
    assert told == [200] * 20


def test_one_trial_that_fails_opens_it_again_for_longer(world: World) -> None:
    _, caller = opened(world, "breaker-again")
    wait_for(lambda: status(caller, **FAILING)[0] == 502, 15, what="a trial to be let through")
    response = caller.modern("tools/call", {"name": "echo"})
    assert error_of(response) == (503, -32603)
    assert FIRST_PAUSE_S < int(response.headers["retry-after"]) <= 2 * FIRST_PAUSE_S


def test_only_a_few_are_let_through_while_it_is_tried(world: World) -> None:
    _, caller = opened(world, "breaker-few")
    time.sleep(FIRST_PAUSE_S)
    world.standin.forget()
    body, headers = modern_request("tools/call", {"name": "wait", "arguments": {"permit": "trial"}})
    with ThreadPoolExecutor(12) as pool:
        told = [pool.submit(caller.send, "POST", body, **headers) for _ in range(12)]
        wait_for(lambda: sum(one.done() for one in told) == 12 - TRIALS, 10, what="the others to be refused")
        assert len(world.standin.seen) == TRIALS
        world.standin.go("trial", TRIALS)
        assert sorted(one.result().status_code for one in told) == [200] * TRIALS + [503] * (12 - TRIALS)
    assert caller.modern("tools/call", {"name": "echo"}).status_code == 200


def test_a_probe_passes_and_its_answers_close_it(world: World) -> None:
    route, caller = opened(world, "breaker-probe")
    probe = prober(world, route)
    for _ in range(TRIALS):
        assert probe.modern("tools/list").status_code == 200
    assert caller.modern("tools/call", {"name": "echo"}).status_code == 200


def test_what_was_not_sent_is_neither_reported_nor_counted_as_the_servers_failure(world: World) -> None:
    route, caller = opened(world, "breaker-reports")
    for _ in range(30):
        assert status(caller)[0] == 503

    def windows() -> list[HealthReport]:
        told = [report for report in world.publisher.reports() if isinstance(report, HealthReport)]
        return [report for report in told if report.environment == route.environment]

    wait_for(lambda: sum(window.failures for window in windows()) == MIN_REQUESTS, 10)
    assert sum(window.requests for window in windows()) == MIN_REQUESTS


CANNOT_BE_REACHED = Dispatch(url=f"http://127.0.0.1:{free_port()}", audience=AUDIENCE)


@pytest.mark.parametrize("way", ["refused", "cut", "late"])
def test_every_kind_of_failure_of_its_own_opens_it(world: World, way: str) -> None:
    dispatch = CANNOT_BE_REACHED if way == "refused" else world.standin.raw_dispatch
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"
    world.standin.answer_raw(head, stays_open=way == "late")
    limits = Limits(answer_timeout_s=0.3)
    route = world.server(f"breaker-{way}", world.target("broken"), dispatch=dispatch, limits=limits)
    caller = world.at(world.url(route), world.key())
    with ThreadPoolExecutor(MIN_REQUESTS) as pool:
        told = list(pool.map(lambda _: status(caller)[0], range(MIN_REQUESTS)))
    assert told == [504 if way == "late" else 502] * MIN_REQUESTS
    assert status(caller)[0] == 503


ANSWERS: dict[str, Callable[[Caller], object]] = {
    "a JSON-RPC error": lambda caller: status(caller, status=200, error=[-32000, "no"]),
    "an unknown method": lambda caller: caller.modern("tools/nonsense"),
    "a 400": lambda caller: status(caller, status=400, error=[-32602, "no"]),
    "a 401": lambda caller: status(caller, status=401),
    "a 429": lambda caller: status(caller, status=429, error=[-32000, "slow down"]),
    "nonsense": lambda caller: status(caller, status=200, body="nonsense"),
    "the dispatcher's not-found": lambda caller: status(
        caller, status=404, headers=[["smcp-dispatch-error", "not-found"]]
    ),
    "the dispatcher's own error": lambda caller: status(
        caller, status=500, headers=[["smcp-dispatch-error", "internal"]]
    ),
    "a client in a hurry": lambda caller: caller.modern(
        "tools/call", {"name": "hang"}, prefer="wait=0"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_what_is_not_the_servers_failure_opens_nothing(world: World, name: str) -> None:
    slug = "answers-" + "".join(char for char in name.lower() if char.isalpha())
    caller = world.at(world.url(world.server(slug)), world.key())
    for _ in range(MIN_REQUESTS + 5):
        ANSWERS[name](caller)
    assert caller.modern("tools/call", {"name": "echo"}).status_code == 200


def test_a_minority_of_failures_opens_nothing(world: World) -> None:
    caller = world.at(world.url(world.server("breaker-minority")), world.key())
    for number in range(60):
        told = status(caller, **FAILING) if number % 3 == 0 else caller.modern("tools/list")
        assert told
    assert caller.modern("tools/list").status_code == 200


def test_another_release_of_the_environment_goes_on(world: World) -> None:
    route = world.server("breaker-releases", world.target("scripted-a"))
    caller = world.at(world.url(route), world.key())
    for _ in range(MIN_REQUESTS):
        assert status(caller, **FAILING)[0] == 502
    assert status(caller)[0] == 503
    world.server("breaker-releases", world.target("scripted-b"))
    assert caller.modern("tools/call", {"name": "echo"}).status_code == 200


class TestBudget:
    """The time one request has, from its head to the end of a JSON answer or the head of a stream."""

    def drips(self, world: World, slug: str, **limits: float) -> Caller:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n{"
        world.standin.answer_raw(head, more=b" ", every_s=0.05)
        target = world.target("broken")
        route = world.server(slug, target, dispatch=world.standin.raw_dispatch, limits=Limits(**limits))  # type: ignore[arg-type]
        return world.at(world.url(route), world.key())

    def took(self, caller: Caller, kind: str, **headers: str) -> float:
        began = time.monotonic()
        response = caller.modern("tools/call", {"name": "x"}, **headers)
        assert error_of(response) == (504, -32603)
        assert response.json()["id"] == 1
        assert ("in time" in response.json()["error"]["message"]) == (kind == "the server's")
        return time.monotonic() - began

    @pytest.mark.acceptance("P7")
    def test_an_answer_that_drips_ends_with_the_environments_budget(self, world: World) -> None:
        caller = self.drips(world, "budget-drips", answer_timeout_s=30, answer_budget_s=0.8)
        assert 0.7 < self.took(caller, "the server's") < 10
        world.standin.answer_raw(b"")

    def test_a_client_may_have_less_and_never_more(self, world: World) -> None:
        caller = self.drips(world, "budget-prefer", answer_timeout_s=30, answer_budget_s=2)
        assert 0.9 < self.took(caller, "its own", prefer='wait="1"') < 1.9
        assert self.took(caller, "the server's", prefer="wait=500") > 1.9
        assert self.took(caller, "the server's", prefer="wait=nonsense, wait =x, notwait=1") > 1.9
        world.standin.answer_raw(b"")

    def test_a_large_answer_that_drips_ends_with_it_too(self, world: World) -> None:
        """It has begun to go through: the connection ends before the answer does."""
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9000000\r\n\r\n{"
        world.standin.answer_raw(head + b" " * 2_000_000, more=b" ", every_s=0.05)
        limits = Limits(answer_timeout_s=30, answer_budget_s=1.5)
        route = world.server(
            "budget-large", world.target("broken"), dispatch=world.standin.raw_dispatch, limits=limits
        )
        caller = world.at(world.url(route), world.key())
        began = time.monotonic()
        with pytest.raises(httpx.RemoteProtocolError):
            caller.modern("tools/call", {"name": "x"})
        assert time.monotonic() - began < 15
        world.standin.answer_raw(b"")

    def test_a_stream_that_has_begun_is_not_bound_by_it(self, world: World) -> None:
        caller = world.caller(world.server("budget-stream", limits=Limits(answer_budget_s=0.5)))
        with caller.stream(body=call_of("stream", count=1, permit="budget")) as response:
            time.sleep(0.8)
            world.standin.go("budget")
            assert [event.get("id") for event in events_of(response.read().decode())][-1] == 1

    def test_a_client_that_sends_slowly_takes_nothing_of_its_servers_time(self, world: World) -> None:
        route = world.server("budget-slow", limits=Limits(answer_budget_s=0.6))
        caller = world.caller(route)
        request = raw_request(caller, call_of("echo", text="x"), origin=world.gateway.url)
        with socket.create_connection(("127.0.0.1", world.gateway.port), timeout=10) as connection:
            connection.sendall(request[:-10])
            time.sleep(1.0)
            connection.sendall(request[-10:])
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
