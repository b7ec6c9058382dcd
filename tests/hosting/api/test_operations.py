"""Long work over HTTP: 202, where to follow it, and every step as it happens."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from django.utils import timezone

from hosting.api.events import STREAMS_MAX
from hosting.models import Operation, Step
from smcp.common.tenancy import as_system
from tests.restdoor import RestDoor, TenantAtTheDoor
from tests.waiting import wait_for

ENVIRONMENT = "servers/mine/environments/production"


@pytest.fixture
def deploying(acme: TenantAtTheDoor, ended: list[str]) -> tuple[TenantAtTheDoor, dict[str, Any]]:
    """A deployment that was asked for and that nobody carries out."""
    ended.append(acme.id)
    caller = acme.caller("api:write")
    caller.ok("POST", f"{acme.path}/servers", json={"catalog": "starter", "slug": "mine"})
    asked = caller.post(f"{acme.path}/{ENVIRONMENT}/deployments", json=everything())
    assert asked.status_code == 202, asked.text
    assert asked.headers["location"] == f"/api/v1{acme.path}/operations/{asked.json()['id']}"
    return acme, asked.json()


def everything(*shares: tuple[int, float]) -> dict[str, Any]:
    return {"versions": [{"version": v, "percentage": p} for v, p in shares or ((1, 100),)]}


def events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def step_to(operation_id: str, state: str, message: str = "") -> None:
    with as_system():
        first = Step.objects.filter(operation_id=operation_id, position=0)
        assert first.update(state=state, message=message) == 1


def end(operation_id: str, state: str) -> None:
    with as_system():
        Operation.objects.filter(id=operation_id).update(
            state=state,
            finished_at=timezone.now(),
            error={"code": "x", "message": "it broke", "step": "upload_release"}
            if state == "failed"
            else None,
        )


def test_an_operation_is_read_with_its_steps(deploying: tuple[TenantAtTheDoor, dict[str, Any]]) -> None:
    acme, operation = deploying
    shown = acme.caller("api:read").ok("GET", f"{acme.path}/operations/{operation['id']}")
    assert (shown["kind"], shown["state"], shown["server"], shown["environment"]) == (
        "deploy",
        "pending",
        "mine",
        "production",
    )
    assert len(shown["steps"]) > 3
    listed = acme.caller("api:read").ok("GET", f"{acme.path}/operations?server=mine&state=pending")["items"]
    assert [each["id"] for each in listed] == [operation["id"]]


def test_a_second_wish_waits_for_the_first(deploying: tuple[TenantAtTheDoor, dict[str, Any]]) -> None:
    acme, _ = deploying
    caller = acme.caller("api:write")
    for refused in (
        caller.post(f"{acme.path}/{ENVIRONMENT}/deployments", json=everything()),
        caller.request("DELETE", f"{acme.path}/{ENVIRONMENT}"),
        caller.request("DELETE", f"{acme.path}/servers/mine"),
    ):
        assert (refused.status_code, refused.json()["type"]) == (409, "urn:smcp:problem:operation-under-way")


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"versions": []},
        everything((1, 50)),
        everything((1, 60), (1, 40)),
        everything((2, 100)),
        everything((10**30, 100)),
        everything((1, 0)),
        everything((1, 101)),
        everything((1, 33.333)),
        {"versions": [{"version": "latest", "percentage": 100}]},
    ],
)
def test_a_wish_that_cannot_be_deployed_is_refused_at_once(
    acme: TenantAtTheDoor, wish: dict[str, Any]
) -> None:
    caller = acme.caller("api:write")
    caller.ok("POST", f"{acme.path}/servers", json={"catalog": "starter", "slug": "mine"})
    refused = caller.post(f"{acme.path}/{ENVIRONMENT}/deployments", json=wish)
    assert refused.status_code == 422, refused.text
    assert caller.ok("GET", f"{acme.path}/operations")["items"] == []


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
def test_the_stream_tells_the_present_state_then_every_change_until_it_ends(
    deploying: tuple[TenantAtTheDoor, dict[str, Any]], outcome: str
) -> None:
    acme, operation = deploying
    path = f"{acme.path}/operations/{operation['id']}/events"
    with acme.caller("api:read").stream(path, headers={"last-event-id": "whatever"}) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-request-id"]
        told = events(answer.iter_lines())
        assert next(told)["state"] == "pending"
        step_to(operation["id"], "started", "choosing")
        assert next(told)["steps"][0]["message"] == "choosing"
        end(operation["id"], outcome)
        last = next(told)
        assert last["state"] == outcome
        assert (last["error"] or {}).get("message") == ("it broke" if outcome == "failed" else None)
        assert list(told) == []  # and it ends by itself


def test_a_reader_who_comes_after_the_end_is_told_and_let_go(
    deploying: tuple[TenantAtTheDoor, dict[str, Any]],
) -> None:
    acme, operation = deploying
    end(operation["id"], "succeeded")
    told = acme.caller("api:read").get(f"{acme.path}/operations/{operation['id']}/events")
    assert [each["state"] for each in events(iter(told.text.splitlines()))] == ["succeeded"]


def test_nobody_else_reads_the_stream(
    deploying: tuple[TenantAtTheDoor, dict[str, Any]], other: TenantAtTheDoor
) -> None:
    acme, operation = deploying
    path = f"/operations/{operation['id']}/events"
    assert other.caller().get(acme.path + path).status_code == 404
    assert other.caller().get(other.path + path).status_code == 404
    assert acme.caller("mcp:call").get(acme.path + path).status_code == 403


def test_open_streams_hold_no_thread_and_are_bounded(
    rest_door: RestDoor, deploying: tuple[TenantAtTheDoor, dict[str, Any]]
) -> None:
    """With as many as a tenant may have, other requests are still served, and one more is refused."""
    acme, operation = deploying
    path = f"{acme.path}/operations/{operation['id']}/events"
    caller = acme.caller("api:read")
    threads_before = threads_of(rest_door)
    with ExitStack() as held:
        open_streams = []  # a generator that is let go closes its connection
        for _ in range(STREAMS_MAX):
            answer = held.enter_context(caller.stream(path))
            open_streams.append(events(answer.iter_lines()))
            assert next(open_streams[-1])["state"] == "pending"
        assert threads_of(rest_door) - threads_before < STREAMS_MAX
        assert caller.get(acme.path).status_code == 200
        assert len(open_streams) == STREAMS_MAX
        refused = caller.get(path)
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:smcp:problem:too-many-streams")
    end(operation["id"], "succeeded")
    wait_for(lambda: caller.get(path).status_code == 200, 10, what="the streams to be given back")


def threads_of(door: RestDoor) -> int:
    import psutil

    processes = [psutil.Process(door.pid), *psutil.Process(door.pid).children(recursive=True)]
    return sum(process.num_threads() for process in processes)


def test_two_wishes_at_once_become_one_operation(acme: TenantAtTheDoor, ended: list[str]) -> None:
    ended.append(acme.id)
    caller = acme.caller("api:write")
    caller.ok("POST", f"{acme.path}/servers", json={"catalog": "starter", "slug": "mine"})
    together, answers = threading.Barrier(4), []

    def ask() -> None:
        together.wait(20)
        answers.append(caller.post(f"{acme.path}/{ENVIRONMENT}/deployments", json=everything()).status_code)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(answers) == [202, 409, 409, 409]
