"""A legacy client at a modern server loses its connection, or its node, in the middle of a request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.dataplane.harness import Caller, GatewayProcess, World
from tests.dataplane.resuming import calling, resuming
from tests.waiting import wait_for

pytestmark = pytest.mark.acceptance("P1", "S4.4")

FORM = {"method": "elicitation/create", "params": {"message": "who?", "requestedSchema": {"type": "object"}}}
ROOTS = {"method": "roots/list"}
ACCEPTED = {"action": "accept", "content": {"name": "é"}}


@pytest.fixture(scope="module")
def knobs() -> dict[str, str]:
    return {"question_s": "60", "keepalive_s": "1"}


def bridged(world: World, slug: str, node: GatewayProcess | None = None) -> Caller:
    target = world.target("modern-cached", eras=("modern",), issues_sessions=False)
    caller = world.caller(world.server(slug, target), session=False)
    caller.initialize(capabilities={"elicitation": {}, "roots": {}})
    if node is not None:
        there = world.at_node(caller, node)
        wait_for(lambda: there.call("echo").status_code == 200, what="the other node to know the route")
    world.standin.forget()
    return caller


def reply(caller: Caller, question: dict[str, Any], result: Any) -> None:
    answer = caller.send(body={"jsonrpc": "2.0", "id": question["id"], "result": result})
    assert answer.status_code == 202


def answers_in(message: dict[str, Any]) -> Any:
    return json.loads(message["result"]["content"][0]["text"])["answers"]


def test_questions_and_their_answer_can_be_come_back_for(world: World, other_node: GatewayProcess) -> None:
    caller = bridged(world, "resume-asked", other_node)
    there = world.at_node(caller, other_node)
    with calling(caller, "ask", rounds=[{"a": FORM}, {"b": ROOTS}]) as heard:
        first = next(heard)
        place = heard.last_id
    reply(there, first, ACCEPTED)
    with resuming(there, place) as rest:
        second = next(rest)
        reply(there, second, {"roots": []})
        done = next(rest)
        assert list(rest) == []
    assert second["method"] == "roots/list"
    assert done["id"] == "long"
    assert answers_in(done) == {"b": {"roots": []}}
    assert len(world.standin.seen) == 3


def test_a_place_is_given_while_nothing_is_said(world: World, other_node: GatewayProcess) -> None:
    caller = bridged(world, "resume-primed", other_node)
    with calling(caller, "wait", permit="resume-primed", **{"as": "sse"}) as heard:
        place = heard.place()
    with resuming(world.at_node(caller, other_node), place) as rest:
        world.standin.go("resume-primed")
        done = next(rest)
    assert done["result"] == {"content": []}
    assert world.standin.seen[0]["finished"]
