"""A legacy client at a modern server loses its connection, or its node, in the middle of a request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.dataplane.harness import Caller, GatewayProcess, RedisProcess, World
from tests.dataplane.resuming import calling, resuming
from tests.waiting import wait_for

pytestmark = pytest.mark.acceptance("P1", "S4.4")

FORM = {"method": "elicitation/create", "params": {"message": "who?", "requestedSchema": {"type": "object"}}}
ROOTS = {"method": "roots/list"}
ACCEPTED = {"action": "accept", "content": {"name": "é"}}


@pytest.fixture(scope="module")
def knobs() -> dict[str, str]:
    return {"question_s": "60", "keepalive_s": "1"}


@pytest.fixture
def mortal_node(world: World, own_redis: RedisProcess, tmp_path: Path) -> Iterator[GatewayProcess]:
    """A node of the test's own, to be ended."""
    node = world.gateway.sibling(tmp_path, redis_url=own_redis.url, drain_s="0.5", question_s="60")
    node.environ["SMCP_NODE_ID"] = f"mortal-{node.port}"
    node.start()
    yield node
    node.stop()


def kill(node: GatewayProcess) -> None:
    assert node.process is not None
    node.process.kill()
    node.process.wait(10)


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


@pytest.mark.parametrize("where", ["same", "other"])
def test_the_old_connection_is_let_go_of_and_the_new_one_follows(
    world: World, other_node: GatewayProcess, where: str
) -> None:
    caller = bridged(world, f"resume-moved-{where}", other_node)
    there = world.at_node(caller, other_node) if where == "other" else caller
    with calling(caller, "ask", rounds=[{"a": FORM}]) as old:
        question = next(old)
        with resuming(there, old.last_id) as new:
            assert list(old) == []  # neither withdrawn nor an error
            reply(there, question, ACCEPTED)
            assert answers_in(next(new)) == {"a": ACCEPTED}


def test_a_place_is_given_while_nothing_is_said(world: World, other_node: GatewayProcess) -> None:
    caller = bridged(world, "resume-primed", other_node)
    with calling(caller, "wait", permit="resume-primed", **{"as": "sse"}) as heard:
        place = heard.place()
    with resuming(world.at_node(caller, other_node), place) as rest:
        world.standin.go("resume-primed")
        done = next(rest)
    assert done["result"] == {"content": []}
    assert world.standin.seen[0]["finished"]


def kept_answers(world: World) -> list[Any]:
    client: Any = world.publisher.client
    return [name for key in client.keys("*:asking:*") for name in client.hkeys(key) if name[:2] == b"a:"]


def lives(world: World, node: GatewayProcess) -> bool:
    return bool(world.publisher.client.exists(world.publisher.keys.node(node.environ["SMCP_NODE_ID"])))


class TestTheNodeGoes:
    def asked(self, world: World, slug: str, node: GatewayProcess) -> tuple[Caller, list[Any], str]:
        """Two questions are asked at `node`, and one is answered there, before it is killed."""
        caller = bridged(world, slug, node)
        there = world.at_node(caller, node)
        with calling(there, "ask", rounds=[{"a": FORM, "b": ROOTS}, {"c": ROOTS}]) as heard:
            questions = [next(heard), next(heard)]
            reply(there, questions[0], ACCEPTED)
            wait_for(lambda: kept_answers(world), what="the answer to be kept")
            kill(node)
        return caller, questions, heard.last_id

    @pytest.mark.acceptance("S3.7")
    @pytest.mark.parametrize("is_answered_before", [True, False])
    def test_a_killed_nodes_question_is_answered_at_another(
        self, world: World, mortal_node: GatewayProcess, is_answered_before: bool
    ) -> None:
        caller, questions, place = self.asked(world, "resume-killed", mortal_node)
        if (
            is_answered_before
        ):  # while the dead node still seems to live: its letter waits for whoever comes next
            reply(caller, questions[1], {"roots": []})
        with resuming(caller, place) as rest:
            if not is_answered_before:
                wait_for(lambda: not lives(world, mortal_node), 20, what="the node to be known as dead")
                reply(caller, questions[1], {"roots": []})
            third = next(rest)
            reply(caller, third, {"roots": [1]})
            done = next(rest)
            assert list(rest) == []
        assert answers_in(done) == {"c": {"roots": [1]}}
        second = json.loads(world.standin.seen[1]["body"])["params"]
        assert second["inputResponses"] == {"a": ACCEPTED, "b": {"roots": []}}
        assert len(world.standin.seen) == 3

    @pytest.mark.acceptance("S3.6")
    def test_a_node_that_shuts_down_hands_its_question_over(
        self, world: World, mortal_node: GatewayProcess
    ) -> None:
        caller = bridged(world, "resume-drained", mortal_node)
        with calling(world.at_node(caller, mortal_node), "ask", rounds=[{"a": FORM}]) as heard:
            question = next(heard)
            mortal_node.terminate()
            assert list(heard) == []  # neither withdrawn nor an error
            assert heard.retry == "1000"
        assert mortal_node.wait() == 0
        with resuming(caller, heard.last_id) as rest:
            reply(caller, question, ACCEPTED)
            done = next(rest)
        assert answers_in(done) == {"a": ACCEPTED}

    def test_what_only_the_node_knew_is_an_honest_error(
        self, world: World, mortal_node: GatewayProcess
    ) -> None:
        caller = bridged(world, "resume-lost", mortal_node)
        there = world.at_node(caller, mortal_node)
        with calling(there, "wait", permit="never", **{"as": "sse"}) as heard:
            place = heard.place()
            kill(mortal_node)
        with resuming(caller, place) as rest:
            (told,) = list(rest)
        assert told["id"] == "long"
        assert told["error"]["code"] == -32603


def left_behind(world: World) -> list[Any]:
    """What in Redis belongs to a request on its way."""
    client: Any = world.publisher.client
    return [key for what in ("asking", "parked", "running", "mail") for key in client.keys(f"*:{what}:*")]


def test_nothing_of_a_request_is_left_when_it_is_over(world: World) -> None:
    caller = bridged(world, "resume-tidy")
    with calling(caller, "ask", rounds=[{"a": FORM, "b": ROOTS}]) as heard:
        first, second = next(heard), next(heard)
        assert left_behind(world)
        reply(caller, first, ACCEPTED)
        reply(caller, second, {"roots": []})
        assert "result" in next(heard)
    wait_for(lambda: not left_behind(world), what="Redis to be tidied")


def test_a_user_is_asked_without_redis_too(world: World, own_redis: RedisProcess) -> None:
    caller = bridged(world, "resume-away")
    own_redis.kill()
    try:
        with calling(caller, "ask", rounds=[{"a": FORM}]) as heard:
            reply(caller, next(heard), ACCEPTED)
            assert answers_in(next(heard)) == {"a": ACCEPTED}
    finally:
        own_redis.start()
