"""A modern server needs something of a legacy client's user: questions on the stream, answers from anywhere, round after round."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from hosting.dataplane.contract import Limits
from tests.dataplane.harness import (
    Caller,
    GatewayProcess,
    World,
    call_of,
    error_of,
    events_of,
    next_event,
    request,
)
from tests.waiting import wait_for

pytestmark = pytest.mark.acceptance("P1")

FORM = {
    "method": "elicitation/create",
    "params": {"message": "who?", "requestedSchema": {"type": "object", "properties": {}}},
}
URL = {
    "method": "elicitation/create",
    "params": {"mode": "url", "message": "go", "url": "https://a.example/"},
}
SAMPLE = {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 9}}
TOOLS = {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 9, "tools": []}}
ROOTS = {"method": "roots/list"}
ALL: dict[str, Any] = {"elicitation": {"form": {}, "url": {}}, "sampling": {"tools": {}}, "roots": {}}
ACCEPTED = {"action": "accept", "content": {"name": "é"}}


@pytest.fixture(scope="module")
def knobs() -> dict[str, str]:
    return {"question_s": "3", "keepalive_s": "0.3"}


def bridged(world: World, slug: str, capabilities: dict[str, Any] | None = None, **more: Any) -> Caller:
    target = world.target("modern-cached", eras=("modern",), issues_sessions=False)
    caller = world.caller(world.server(slug, target, **more), session=False)
    caller.initialize(capabilities=ALL if capabilities is None else capabilities)
    world.standin.forget()
    return caller


def heard(lines: Iterator[str]) -> dict[str, Any]:
    """The next message of a stream; empty at its end."""
    return dict(json.loads(next_event(lines).get("data", "{}")))


def reply(caller: Caller, question: dict[str, Any], result: Any) -> httpx.Response:
    return caller.send(body={"jsonrpc": "2.0", "id": question["id"], "result": result})


def text_in(message: dict[str, Any]) -> Any:
    """What the scripted server says it was told."""
    return json.loads(message["result"]["content"][0]["text"])


def answer_in(response: httpx.Response) -> dict[str, Any]:
    """The answer of a request that took a while: on a stream, or not if it was just soon enough."""
    is_json = response.headers["content-type"] == "application/json"
    return dict(response.json() if is_json else events_of(response.text)[-1])


def asked(world: World) -> list[dict[str, Any]]:
    return [json.loads(entry["body"]) for entry in world.standin.seen]


class TestRounds:
    def test_every_question_becomes_a_request_and_its_answer_goes_back_under_its_key(
        self, world: World
    ) -> None:
        caller = bridged(world, "rounds-all")
        rounds = [{"a": FORM, "b/ü": SAMPLE, "c": ROOTS}]
        with caller.stream(body=call_of("ask", rounds=rounds)) as response:
            assert response.headers["content-type"] == "text/event-stream"
            lines = response.iter_lines()
            questions = [heard(lines) for _ in range(3)]
            assert [question["method"] for question in questions] == [
                "elicitation/create",
                "sampling/createMessage",
                "roots/list",
            ]
            assert questions[0]["params"] == FORM["params"]
            assert len({question["id"] for question in questions}) == 3
            for question, result in reversed(
                list(zip(questions, (ACCEPTED, {"x": 1.5}, {"roots": []}), strict=True))
            ):
                answer = reply(caller, question, result)
                assert (answer.status_code, answer.content) == (202, b"")
            done = heard(lines)
            assert heard(lines) == {}
        assert done["id"] == 1
        assert text_in(done)["answers"] == {"a": ACCEPTED, "b/ü": {"x": 1.5}, "c": {"roots": []}}

    def test_a_user_may_take_longer_than_the_budget_of_an_answer(self, world: World) -> None:
        caller = bridged(world, "rounds-budget", limits=Limits(answer_budget_s=1.0))
        with caller.stream(body=call_of("ask", rounds=[{"a": FORM}])) as response:
            lines = response.iter_lines()
            question, asked_at = heard(lines), time.monotonic()
            wait_for(lambda: time.monotonic() > asked_at + 1.2, what="the budget to be over")
            assert reply(caller, question, ACCEPTED).status_code == 202
            assert text_in(heard(lines))["answers"] == {"a": ACCEPTED}

    def test_the_state_comes_back_byte_for_byte_and_under_a_new_id(self, world: World) -> None:
        caller = bridged(world, "rounds-state")
        rounds = [{"a": FORM}, {"b": ROOTS}]
        with caller.stream(body=call_of("ask", rounds=rounds)) as response:
            lines = response.iter_lines()
            for _ in rounds:
                reply(caller, heard(lines), ACCEPTED)
            done = heard(lines)
        first, second, third = asked(world)
        assert len({first["id"], second["id"], third["id"]}) == 3
        assert '"requestState":"1 \\"é\\\\ \\t/ ssssssssss"' in world.standin.seen[1]["body"]
        assert second["params"]["inputResponses"] == {"a": ACCEPTED}
        assert third["params"]["inputResponses"] == {"b": ACCEPTED}  # this round's, and no others
        assert text_in(done)["state"].startswith("2 ")
        assert first["params"]["arguments"] == third["params"]["arguments"]

    def test_a_server_may_ask_on_a_stream_of_its_own(self, world: World) -> None:
        caller = bridged(world, "rounds-streamed")
        params = {"name": "stream", "arguments": {"rounds": [{"a": FORM}]}, "_meta": {"progressToken": 5}}
        with caller.stream(body=request("tools/call", params)) as response:
            lines = response.iter_lines()
            assert heard(lines)["params"] == {"progressToken": 5, "progress": 0}
            reply(caller, heard(lines), ACCEPTED)
            assert heard(lines)["params"] == {"progressToken": 5, "progress": 0}
            assert heard(lines)["result"]["content"][0]["text"] == "streamed"

    @pytest.mark.parametrize(
        ("method", "params"),
        [
            ("prompts/get", {"name": "p", "arguments": {"rounds": json.dumps([{"a": FORM}])}}),
            ("resources/read", {"uri": "test://a", "rounds": [{"a": FORM}]}),
        ],
    )
    def test_prompts_and_resources_may_ask_too(
        self, world: World, method: str, params: dict[str, Any]
    ) -> None:
        caller = bridged(world, "rounds-others")
        with caller.stream(body=request(method, params)) as response:
            lines = response.iter_lines()
            reply(caller, heard(lines), ACCEPTED)
            result = heard(lines)["result"]
        told = (
            result["contents"][0]["text"]
            if "contents" in result
            else result["messages"][0]["content"]["text"]
        )
        assert json.loads(told)["answers"] == {"a": ACCEPTED}

    def test_a_url_gets_an_id_of_its_own(self, world: World) -> None:
        caller = bridged(world, "rounds-url")
        with caller.stream(body=call_of("ask", rounds=[{"a": URL}])) as response:
            lines = response.iter_lines()
            question = heard(lines)
            assert question["params"].items() >= URL["params"].items()  # type: ignore[attr-defined]
            assert len(question["params"]["elicitationId"]) >= 16
            reply(caller, question, {"action": "accept"})
            assert text_in(heard(lines))["answers"] == {"a": {"action": "accept"}}

    def test_a_server_that_only_wants_to_be_asked_again_is(self, world: World) -> None:
        caller = bridged(world, "rounds-poll")
        assert text_in(answer_in(caller.call("ask", rounds=[{}, {}])))["state"].startswith("2 ")
        assert len(world.standin.seen) == 3

    def test_ten_rounds_are_enough(self, world: World) -> None:
        caller = bridged(world, "rounds-endless")
        assert answer_in(caller.call("forever"))["result"]["isError"] is True
        assert len(world.standin.seen) == 11


class TestWaiting:
    def test_a_user_who_is_asked_takes_nobodys_place(self, world: World) -> None:
        caller = bridged(world, "rounds-places", limits=Limits(concurrency=1, queue_wait_s=0.1))
        with caller.stream(body=call_of("ask", rounds=[{"a": FORM}])) as response:
            lines = response.iter_lines()
            question = heard(lines)
            assert caller.call("echo", text="hi").json()["result"]["content"][0]["text"] == "hi"
            assert reply(caller, question, ACCEPTED).status_code == 202
            assert text_in(heard(lines))["answers"] == {"a": ACCEPTED}

    def test_a_users_time_is_not_the_servers(self, world: World) -> None:
        caller = bridged(world, "rounds-budget", limits=Limits(answer_budget_s=1.5))
        with caller.stream(body=call_of("ask", rounds=[{"a": FORM}])) as response:
            lines = response.iter_lines()
            question = heard(lines)
            asked_at = time.monotonic()
            wait_for(lambda: time.monotonic() - asked_at > 2, what="the budget to be over")
            reply(caller, question, ACCEPTED)
            assert text_in(heard(lines))["answers"] == {"a": ACCEPTED}


class TestRefusals:
    @pytest.mark.parametrize(
        ("capabilities", "question"),
        [
            ({}, FORM),
            ({"elicitation": {}}, URL),
            ({"elicitation": {"url": {}}}, FORM),
            ({"elicitation": {}}, SAMPLE),
            ({"sampling": {}}, TOOLS),
            ({"sampling": {}}, ROOTS),
            (ALL, {"method": "tools/list"}),
        ],
    )
    def test_what_a_client_has_not_declared_it_is_not_asked(
        self, world: World, capabilities: dict[str, Any], question: dict[str, Any]
    ) -> None:
        caller = bridged(world, "rounds-undeclared", capabilities)
        assert caller.call("ask", rounds=[{"a": question}]).json()["result"]["isError"] is True
        params = {"uri": "test://a", "rounds": [{"a": question}]}
        assert error_of(caller.send(body=request("resources/read", params))) == (200, -32603)
        assert len(world.standin.seen) == 2

    def test_a_clients_error_ends_the_call_and_withdraws_the_other_questions(self, world: World) -> None:
        caller = bridged(world, "rounds-error")
        with caller.stream(body=call_of("ask", rounds=[{"a": FORM, "b": ROOTS}])) as response:
            lines = response.iter_lines()
            first, second = heard(lines), heard(lines)
            error = {"code": -1, "message": "the user has left"}
            caller.send(body={"jsonrpc": "2.0", "id": first["id"], "error": error})
            withdrawn, done = heard(lines), heard(lines)
        assert withdrawn["method"] == "notifications/cancelled"
        assert withdrawn["params"]["requestId"] == second["id"]
        assert done["result"]["isError"] is True
        assert "the user has left" in done["result"]["content"][0]["text"]
        assert reply(caller, second, {"roots": []}).status_code == 202  # too late, and no harm

    def test_nobody_answers(self, world: World) -> None:
        caller = bridged(world, "rounds-silence")
        told = events_of(caller.call("ask", rounds=[{"a": FORM}]).text)
        assert [message.get("method") for message in told] == [
            "elicitation/create", "notifications/cancelled", None,
        ]  # fmt: skip
        assert told[-1]["result"]["isError"] is True

    def test_what_a_server_cannot_do_without_is_told_as_a_result(self, world: World) -> None:
        caller = bridged(world, "rounds-needs")
        error = {"code": -32021, "message": "sampling is needed", "data": {"requiredCapabilities": {}}}
        told = caller.call("status", status=400, error=error).json()
        assert told["result"]["isError"] is True
        assert "sampling is needed" in told["result"]["content"][0]["text"]

    def test_too_many_questions_are_an_error(self, world: World) -> None:
        caller = bridged(world, "rounds-many")
        response = caller.call("ask", rounds=[{str(at): ROOTS for at in range(33)}])
        assert error_of(response) == (200, -32603)

    def test_an_answer_nobody_asked_for_is_refused(self, world: World) -> None:
        caller, other = bridged(world, "rounds-forged"), bridged(world, "rounds-forged")
        with caller.stream(body=call_of("ask", rounds=[{"a": FORM}])) as response:
            lines = response.iter_lines()
            question = heard(lines)
            assert error_of(reply(other, question, ACCEPTED)) == (400, -32600)
            for forged in (7, "x", question["id"][:-2], question["id"] + "A"):
                assert error_of(reply(caller, {"id": forged}, ACCEPTED)) == (400, -32600)
            reply(caller, question, ACCEPTED)
            assert text_in(heard(lines))["answers"] == {"a": ACCEPTED}


class TestCancellation:
    def cancel(self, caller: Caller, request_id: Any = 1) -> None:
        params = {"requestId": request_id, "reason": "changed my mind"}
        note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
        assert caller.send(body=note).status_code == 202

    def test_open_questions_are_withdrawn_and_the_stream_ends(self, world: World) -> None:
        caller = bridged(world, "rounds-cancelled")
        with caller.stream(body=call_of("ask", rounds=[{"a": FORM}])) as response:
            lines = response.iter_lines()
            question = heard(lines)
            self.cancel(caller)
            withdrawn = heard(lines)
            assert withdrawn["params"]["requestId"] == question["id"]
            assert heard(lines) == {}

    @pytest.mark.parametrize("form", ["json", "sse"])
    def test_the_server_is_let_go(self, world: World, form: str) -> None:
        caller = bridged(world, "rounds-let-go")
        with caller.stream(body=call_of("ask", rounds=[{"a": ROOTS}])) as other:
            lines = other.iter_lines()
            question = heard(lines)
            body = {**call_of("wait", permit="never", **{"as": form}), "id": "mine"}
            if form == "sse":
                with caller.stream(body=body) as response:
                    self.cancel(caller, "mine")
                    assert response.read() is not None
            else:
                cancelled = cancelling(world, caller, body, lambda: self.cancel(caller, "mine"))
                assert events_of(cancelled.text) == []
            wait_for(lambda: world.standin.seen[1].get("disconnected"), what="the server to be let go")
            reply(caller, question, {"roots": []})  # another request of the session goes on
            assert text_in(heard(lines))["answers"] == {"a": {"roots": []}}

    def test_a_part_of_a_batch_can_be_cancelled(self, world: World) -> None:
        target = world.target("modern-cached", eras=("modern",), issues_sessions=False)
        caller = world.caller(world.server("rounds-batch", target), session=False)
        caller.initialize("2025-03-26", capabilities=ALL)
        batch = [{**call_of("ask", rounds=[{"a": ROOTS}]), "id": at} for at in (1, 2)]
        with caller.stream(body=batch) as response:
            lines = response.iter_lines()
            questions = [heard(lines), heard(lines)]
            self.cancel(caller, 1)
            withdrawn = heard(lines)["params"]["requestId"]
            (left,) = [question for question in questions if question["id"] != withdrawn]
            reply(caller, left, {"roots": []})
            assert heard(lines)["id"] == 2
            assert heard(lines) == {}


class TestAtAnotherNode:
    def caller(self, world: World, other_node: GatewayProcess) -> Caller:
        caller = bridged(world, "rounds-there")
        there = world.at_node(caller, other_node)
        wait_for(lambda: there.call("echo").status_code == 200, what="the other node to know the route")
        return caller

    def test_an_answer_reaches_the_node_that_asked(self, world: World, other_node: GatewayProcess) -> None:
        caller = self.caller(world, other_node)
        there = world.at_node(caller, other_node)
        with caller.stream(body=call_of("ask", rounds=[{"a": FORM, "b": ROOTS}])) as response:
            lines = response.iter_lines()
            first, second = heard(lines), heard(lines)
            assert reply(there, first, ACCEPTED).status_code == 202
            assert reply(caller, second, {"roots": []}).status_code == 202
            assert text_in(heard(lines))["answers"] == {"a": ACCEPTED, "b": {"roots": []}}

    @pytest.mark.parametrize("is_told", [True, False])
    def test_a_cancellation_reaches_it_too(
        self, world: World, other_node: GatewayProcess, is_told: bool
    ) -> None:
        caller = self.caller(world, other_node)
        there = world.at_node(caller, other_node)
        world.standin.forget()
        tool = call_of("ask", rounds=[{"a": FORM}]) if is_told else call_of("wait", permit="never")
        if is_told:
            with caller.stream(body=tool) as response:
                lines = response.iter_lines()
                question = heard(lines)
                TestCancellation().cancel(there)
                assert heard(lines)["params"]["requestId"] == question["id"]
                assert heard(lines) == {}
            return
        response = cancelling(world, caller, tool, lambda: TestCancellation().cancel(there))
        assert events_of(response.text) == []
        wait_for(lambda: world.standin.seen[0].get("disconnected"), what="the server to be let go")


def cancelling(world: World, caller: Caller, body: Any, cancel: Callable[[], None]) -> httpx.Response:
    """Sends a request that gives no sign of life, cancels it once its server has it, and gives its answer."""
    known = len(world.standin.seen)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(caller.send, body=body)
        wait_for(lambda: len(world.standin.seen) > known, what="the call to arrive")
        cancel()
        return answer.result(20)
