"""A legacy server asks in the midst of a call: a modern client's request ends with input_required, and goes on with its next round."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.dataplane.bridging import (
    Bridged,
    again,
    ask,
    bridged,
    form,
    messages_of,
    requests,
    script,
    told_by,
    verbs,
)
from tests.dataplane.harness import GatewayProcess, RedisProcess, World, error_of, next_event
from tests.waiting import wait_for

pytestmark = pytest.mark.acceptance("P1")

ACCEPT = {"action": "accept", "content": {"name": "Ada"}}
PROGRESS = {
    "say": {
        "jsonrpc": "2.0",
        "method": "notifications/progress",
        "params": {"progressToken": "$token", "progress": 1},
    }
}


@pytest.fixture(scope="module")
def knobs() -> dict[str, str]:
    return {"node_id": "one"}


def second_node(world: World, own_redis: RedisProcess, directory: Path) -> GatewayProcess:
    gateway = GatewayProcess(directory, redis_url=own_redis.url, dispatch_ring=world.standin.dispatch_ring)
    gateway.environ["SMCP_DATAPLANE_KEYS"] = world.gateway.sealing_ring
    gateway.environ["SMCP_GATEWAY_BRIDGE_PARK_S"] = "3"
    return gateway


@pytest.fixture(scope="module")
def other_node(
    world: World, own_redis: RedisProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    gateway = second_node(world, own_redis, tmp_path_factory.mktemp("other-node"))
    gateway.start()
    yield gateway
    gateway.stop()


def only_key(required: dict[str, Any]) -> str:
    (key,) = required["inputRequests"]
    return str(key)


class TestRounds:
    @pytest.mark.parametrize(
        ("method", "params", "response"),
        [
            ("elicitation/create", form(), ACCEPT),
            ("elicitation/create", {"mode": "form", **form()}, {"action": "decline"}),
            (
                "elicitation/create",
                {"mode": "url", "message": "go", "url": "https://x.test/"},
                {"action": "accept"},
            ),
            (
                "sampling/createMessage",
                {"messages": [], "maxTokens": 5},
                {"role": "assistant", "model": "m", "content": {"type": "text", "text": "hi"}},
            ),
            ("roots/list", {}, {"roots": [{"uri": "file:///a"}]}),
        ],
    )
    def test_each_kind_of_question_reaches_the_client_and_its_answer_the_server(
        self, world: World, method: str, params: dict[str, Any], response: dict[str, Any]
    ) -> None:
        client = bridged(world, "kinds")
        steps = [ask("q", method, **params), {"await": 1}]
        required = client.call(*steps)
        assert required["resultType"] == "input_required"
        expected = {"method": method, "params": params} if params else {"method": method}
        assert required["inputRequests"][only_key(required)] == expected
        answer = client.retry(required, {only_key(required): response}, *steps, request_id=2)
        assert answer["id"] == 2
        assert answer["result"]["resultType"] == "complete"
        assert told_by(answer["result"])["answers"] == {'"q"': response}
        assert len(requests(world, "tools/call")) == 1

    def test_what_only_legacy_revisions_know_is_not_shown(self, world: World) -> None:
        params = {
            "mode": "url",
            "message": "go",
            "url": "https://x.test/",
            "elicitationId": "secret",
            "task": {"ttl": 1},
            "_meta": {"progressToken": 1, "vendor": 2},
        }
        required = bridged(world, "stripped").call(ask(1, "elicitation/create", **params), {"await": 1})
        assert required["inputRequests"][only_key(required)]["params"] == {
            "mode": "url",
            "message": "go",
            "url": "https://x.test/",
            "_meta": {"vendor": 2},
        }

    def test_questions_are_gathered(self, world: World) -> None:
        client = bridged(world, "gathered")
        steps = [ask(1, **form()), ask("b", "roots/list"), ask(3, "sampling/createMessage"), {"await": 3}]
        required = client.call(*steps)
        assert len(required["inputRequests"]) == 3
        answers = told_by(
            client.retry(required, {key: {"for": key} for key in required["inputRequests"]}, *steps)["result"]
        )["answers"]
        assert list(answers) == ["1", '"b"', "3"]

    def test_missing_answers_are_asked_for_again_and_others_ignored(self, world: World) -> None:
        client = bridged(world, "missing")
        steps = [ask(1, **form()), ask(2, "roots/list"), {"await": 2}]
        first = client.call(*steps)
        one, two = first["inputRequests"]
        second = client.retry(first, {one: ACCEPT, "other": {}, "ask-9": {}}, *steps)["result"]
        assert second["resultType"] == "input_required"
        assert list(second["inputRequests"]) == [two]
        third = client.retry(second, {one: {"action": "cancel"}, two: {"roots": []}}, *steps)["result"]
        assert told_by(third)["answers"] == {"1": ACCEPT, "2": {"roots": []}}

    def test_a_round_without_answers_asks_again(self, world: World) -> None:
        client = bridged(world, "nothing")
        steps = [ask(1, **form()), {"await": 1}]
        first = client.call(*steps)
        again_required = client.retry(first, {}, *steps)["result"]
        assert again_required["inputRequests"] == first["inputRequests"]
        wrong = client.retry(first, {only_key(first): "no object"}, *steps)["result"]
        assert wrong["resultType"] == "input_required"

    def test_many_rounds(self, world: World) -> None:
        client = bridged(world, "many")
        steps: list[dict[str, Any]] = []
        for number in range(1, 4):
            steps += [ask(number, **form(str(number))), {"await": number}]
        told = client.call(*steps)
        for number in range(1, 4):
            assert told["inputRequests"][only_key(told)]["params"]["message"] == str(number)
            told = client.retry(told, {only_key(told): {"action": "accept", "n": number}}, *steps)["result"]
        assert list(told_by(told)["answers"]) == ["1", "2", "3"]

    @pytest.mark.parametrize(
        ("method", "params"),
        [
            (
                "prompts/get",
                {
                    "name": "test://script",
                    "arguments": {"steps": '[{"ask":[1,"roots/list",{}]},{"await":1}]'},
                },
            ),
            ("resources/read", {"uri": 'test://script?{"steps":[{"ask":[1,"roots/list",{}]},{"await":1}]}'}),
        ],
    )
    def test_prompts_and_resources_ask_too(self, world: World, method: str, params: dict[str, Any]) -> None:
        client = bridged(world, "others")
        required = client.result(method, params)
        assert required["resultType"] == "input_required"
        answered = {
            **params,
            "requestState": required["requestState"],
            "inputResponses": {only_key(required): {"roots": []}},
        }
        result = client.result(method, answered)
        assert told_by(result)["answers"] == {"1": {"roots": []}}
        assert ("ttlMs" in result) == (method == "resources/read")

    def test_progress_goes_to_the_new_token_and_messages_by_the_new_level(self, world: World) -> None:
        client = bridged(world, "token")
        note = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": 1}}
        steps = [PROGRESS, ask(1, **form()), {"await": 1}, PROGRESS, {"say": note}]
        first = messages_of(client.send("tools/call", script(*steps), token="old"))
        assert first[0]["params"]["progressToken"] == "old"
        required = first[1]["result"]
        params = again(required, {only_key(required): ACCEPT}, *steps)
        told = messages_of(client.send("tools/call", params, token="new", level="info"))
        assert [one.get("method", "result") for one in told] == [
            "notifications/progress",
            "notifications/message",
            "result",
        ]
        assert told[0]["params"]["progressToken"] == "new"

    def test_a_question_that_the_server_withdraws_is_not_asked(self, world: World) -> None:
        withdrawn = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
        result = bridged(world, "withdrawn").call(
            ask(1, **form()), {"say": withdrawn}, {"result": {"content": []}}
        )
        assert result["resultType"] == "complete"

    def test_responses_without_a_state_are_a_new_call(self, world: World) -> None:
        client = bridged(world, "stateless")
        result = client.result("tools/call", {**script(), "inputResponses": {"ask-1": ACCEPT}})
        assert "inputResponses" not in told_by(result)["params"]


class TestBounds:
    def test_a_question_that_is_too_large_to_wait_with_is_refused(self, world: World) -> None:
        client = bridged(world, "large-question")
        steps = [ask(1, **form("x" * 1_100_000)), {"await": 1}]
        answers = told_by(client.call(*steps))["answers"]
        assert answers["1"]["error"]["code"] == -32601

    def test_more_questions_than_a_call_may_have_open_are_refused(self, world: World) -> None:
        client = bridged(world, "many-questions")
        asks = [ask(number, **form(str(number))) for number in range(34)]
        required = client.call(*asks, {"await": 34})
        assert len(required["inputRequests"]) == 32
        refused = [one for one in requests(world) if "error" in one]
        assert [one["id"] for one in refused] == [32, 33]


class TestUndeclared:
    @pytest.mark.parametrize(
        ("declared", "question", "required"),
        [
            ({}, ask(1, **form()), {"elicitation": {"form": {}}}),
            ({"elicitation": {"url": {}}}, ask(1, **form()), {"elicitation": {"form": {}}}),
            ({"elicitation": {}}, ask(1, mode="url", url="https://x.test/"), {"elicitation": {"url": {}}}),
            ({"roots": {}}, ask(1, "sampling/createMessage", messages=[]), {"sampling": {}}),
            ({"sampling": {}}, ask(1, "sampling/createMessage", tools=[]), {"sampling": {"tools": {}}}),
            ({"sampling": {}}, ask(1, "roots/list"), {"roots": {}}),
        ],
    )
    def test_it_is_refused_on_both_sides(
        self, world: World, declared: dict[str, Any], question: dict[str, Any], required: dict[str, Any]
    ) -> None:
        client = bridged(world, "undeclared")
        response = client.send("tools/call", script(question, {"await": 1}), capabilities=declared)
        assert error_of(response) == (400, -32021)
        assert response.json()["error"]["data"] == {"requiredCapabilities": required}
        (refused,) = [one for one in requests(world) if "error" in one]
        assert refused["id"] == 1
        wait_for(lambda: requests(world, "notifications/cancelled"), 5, what="the call to be cancelled")

    def test_in_the_midst_of_a_stream_it_is_an_event(self, world: World) -> None:
        client = bridged(world, "undeclared-late")
        told = messages_of(
            client.send(
                "tools/call", script(PROGRESS, ask(1, **form()), {"await": 1}), token=1, capabilities={}
            )
        )
        assert told[-1]["error"]["code"] == -32021
        assert told[-1]["error"]["data"] == {"requiredCapabilities": {"elicitation": {"form": {}}}}

    def test_elicitation_without_a_mode_means_forms(self, world: World) -> None:
        client = bridged(world, "undeclared-form")
        required = client.call(ask(1, **form()), {"await": 1}, capabilities={"elicitation": {}})
        assert required["resultType"] == "input_required"


class TestState:
    STEPS = [ask(1, **form()), {"await": 1}]

    def required(self, world: World, slug: str, **more: Any) -> tuple[Bridged, dict[str, Any]]:
        client = bridged(world, slug, **more)
        return client, client.call(*self.STEPS)

    def refused(
        self, client: Bridged, required: dict[str, Any], params: dict[str, Any] | None = None
    ) -> None:
        given = {**again(required, {"ask-1": ACCEPT}, *self.STEPS), **(params or {})}
        assert error_of(client.send("tools/call", given)) == (200, -32602)

    def test_a_forged_one_is_minus_32602(self, world: World) -> None:
        client, required = self.required(world, "forged")
        state = required["requestState"]
        for forged in ("", "s1", "x" * 5000, state[:-1], f"{state}A", state[:20] + "A" + state[21:], "é"):
            self.refused(client, {"requestState": forged})
        assert [one for one in requests(world) if "result" in one] == []

    def test_anothers_is_minus_32602(self, world: World) -> None:
        client, required = self.required(world, "anothers")
        stranger = Bridged(world.at(client.caller.url, world.key()))
        self.refused(stranger, required)

    def test_another_environments_is_minus_32602(self, world: World) -> None:
        client, required = self.required(world, "env-one")
        elsewhere = bridged(world, "env-two")
        elsewhere.caller.headers["authorization"] = client.caller.headers["authorization"]
        self.refused(elsewhere, required)

    def test_another_calls_is_minus_32602(self, world: World) -> None:
        client, required = self.required(world, "another-call")
        self.refused(client, required, {"name": "marked"})

    def test_a_used_one_ends_honestly_and_nothing_is_called_again(self, world: World) -> None:
        client, required = self.required(world, "used")
        assert "result" in client.retry(required, {"ask-1": ACCEPT}, *self.STEPS)
        assert client.retry(required, {"ask-1": ACCEPT}, *self.STEPS)["error"]["code"] == -32603
        assert len(requests(world, "tools/call")) == 1

    def test_two_at_once_do_not_both_answer(self, world: World) -> None:
        steps = [ask(1, **form()), {"await": 1}, {"permit": "at-once"}]
        client = bridged(world, "at-once")
        required = client.call(*steps)
        params = again(required, {"ask-1": ACCEPT}, *steps)
        told: list[dict[str, Any]] = []
        first = threading.Thread(target=lambda: told.append(client.ask("tools/call", params)))
        first.start()
        wait_for(lambda: [one for one in requests(world) if "result" in one], 5, what="the first to answer")
        assert client.ask("tools/call", params)["error"]["code"] == -32602
        world.standin.go("at-once")
        first.join(10)
        assert "result" in told[0]

    def test_too_many_waiting_calls_are_429_and_cancelled(self, world: World) -> None:
        client = bridged(world, "many-parked")
        calls = [[ask(number, **form()), {"await": 1}] for number in range(18)]
        kept = [client.call(*steps) for steps in calls[:16]]
        assert error_of(client.send("tools/call", script(*calls[16])))[0] == 429
        wait_for(lambda: requests(world, "notifications/cancelled"), 5, what="the call to be cancelled")
        neighbour = Bridged(world.at(client.caller.url, world.key()))
        assert neighbour.call(*self.STEPS)["resultType"] == "input_required"
        for steps, required in zip(calls, kept, strict=False):
            assert "result" in client.retry(required, {"ask-1": ACCEPT}, *steps)
        assert client.call(*calls[17])["resultType"] == "input_required"


class TestUrlRequired:
    ERROR = {
        "error": {
            "code": -32042,
            "message": "sign in",
            "data": {
                "elicitations": [
                    {"mode": "url", "elicitationId": "e", "url": "https://x.test/", "message": "sign in"}
                ]
            },
        }
    }

    def test_it_becomes_input_required_and_the_next_round_is_the_call_anew(self, world: World) -> None:
        client = bridged(world, "url")
        required = client.call(self.ERROR)
        ((key, question),) = required["inputRequests"].items()
        assert question == {
            "method": "elicitation/create",
            "params": {"mode": "url", "url": "https://x.test/", "message": "sign in"},
        }
        params = {
            **script(),
            "requestState": required["requestState"],
            "inputResponses": {key: {"action": "accept"}},
        }
        assert client.result("tools/call", params)["resultType"] == "complete"
        assert len(requests(world, "tools/call")) == 2

    def test_whoever_declines_gets_an_error_and_nothing_is_called(self, world: World) -> None:
        client = bridged(world, "url-declined")
        required = client.call(self.ERROR)
        params = again(required, {only_key(required): {"action": "decline"}})
        assert error_of(client.send("tools/call", params)) == (200, -32603)
        assert len(requests(world, "tools/call")) == 1

    def test_a_client_that_cannot_is_told_what_it_would_need(self, world: World) -> None:
        response = bridged(world, "url-undeclared").send("tools/call", script(self.ERROR), capabilities={})
        assert error_of(response) == (400, -32021)
        assert response.json()["error"]["data"] == {"requiredCapabilities": {"elicitation": {"url": {}}}}


class TestNodes:
    STEPS = [ask(1, **form()), {"await": 1}, PROGRESS, {"permit": "nodes"}]

    @pytest.mark.acceptance("S3.4")
    def test_the_next_round_may_come_to_another_node(self, world: World, other_node: GatewayProcess) -> None:
        client = bridged(world, "nodes")
        steps = [ask(1, **form()), {"await": 1}, PROGRESS, ask(2, "roots/list"), {"await": 2}]
        first = client.call(*steps, token="a")
        there = client.at(world, other_node)
        wait_for(lambda: there.send("server/discover").status_code == 200, 10, what="the other node to know")
        params = again(first, {only_key(first): ACCEPT}, *steps)
        told = messages_of(there.send("tools/call", params, token="b", request_id="x"))
        assert told[0]["params"] == {"progressToken": "b", "progress": 1}
        assert told[1]["id"] == "x"
        second = told[1]["result"]
        third = client.retry(second, {only_key(second): {"roots": []}}, *steps)["result"]
        assert told_by(third)["answers"] == {"1": ACCEPT, "2": {"roots": []}}
        assert len(requests(world, "tools/call")) == 1

    def test_more_than_a_box_holds_arrives_whole_and_in_order(
        self, world: World, other_node: GatewayProcess
    ) -> None:
        client = bridged(world, "nodes-many")
        says = [
            {
                "say": {
                    "jsonrpc": "2.0",
                    "method": "notifications/message",
                    "params": {"level": "info", "data": n},
                }
            }
            for n in range(300)
        ]
        steps = [ask(1, **form()), {"await": 1}, *says]
        first = client.call(*steps)
        there = client.at(world, other_node)
        params = again(first, {only_key(first): ACCEPT}, *steps)
        told = messages_of(there.send("tools/call", params, level="debug"))
        assert [one["params"]["data"] for one in told[:-1]] == list(range(300))
        assert "result" in told[-1]

    def test_a_client_that_leaves_another_node_cancels_upstream(
        self, world: World, other_node: GatewayProcess
    ) -> None:
        client = bridged(world, "nodes-leaves")
        first = client.call(*self.STEPS, token=1)
        params = again(first, {only_key(first): ACCEPT}, *self.STEPS)
        with client.at(world, other_node).stream("tools/call", params, token=2) as response:
            assert next_event(response.iter_lines())
        wait_for(lambda: requests(world, "notifications/cancelled"), 10, what="the server to be told")

    def test_a_call_that_nobody_goes_on_with_is_cancelled_and_its_state_worth_nothing(
        self, world: World, other_node: GatewayProcess
    ) -> None:
        there = bridged(world, "nodes-late").at(world, other_node)
        wait_for(lambda: there.send("server/discover").status_code == 200, 10, what="the other node to know")
        required = there.call(*self.STEPS)
        wait_for(lambda: requests(world, "notifications/cancelled"), 15, what="the call to be given up")
        params = again(required, {only_key(required): ACCEPT}, *self.STEPS)
        assert error_of(there.send("tools/call", params))[1] in {-32602, -32603}
        assert other_node.metric("smcp_gateway_parked_calls") == 0

    @pytest.mark.acceptance("S3.7")
    def test_the_owner_is_killed_and_the_outcome_is_said_to_be_unknown(
        self, world: World, own_redis: RedisProcess, tmp_path: Path
    ) -> None:
        doomed = second_node(world, own_redis, tmp_path)
        doomed.environ["SMCP_GATEWAY_BRIDGE_PARK_S"] = "60"
        doomed.start()
        client = bridged(world, "nodes-killed")
        there = client.at(world, doomed)
        wait_for(lambda: there.send("server/discover").status_code == 200, 10, what="the doomed node to know")
        required = there.call(*self.STEPS)
        assert doomed.process is not None
        doomed.process.kill()
        doomed.wait()
        began = time.monotonic()
        told = client.retry(required, {only_key(required): ACCEPT}, *self.STEPS)
        assert told["error"]["code"] == -32603
        assert "unknown" in told["error"]["message"]
        assert time.monotonic() - began < 20
        assert len(requests(world, "tools/call")) == 1
        assert client.call()["resultType"] == "complete"

    @pytest.mark.acceptance("S3.7")
    def test_the_node_the_client_came_to_is_killed_and_the_call_cancelled(
        self, world: World, own_redis: RedisProcess, tmp_path: Path
    ) -> None:
        doomed = second_node(world, own_redis, tmp_path)
        doomed.start()
        client = bridged(world, "nodes-reached")
        there = client.at(world, doomed)
        wait_for(lambda: there.send("server/discover").status_code == 200, 10, what="the doomed node to know")
        parked = world.gateway.metric("smcp_gateway_parked_calls")
        required = client.call(*self.STEPS, token=1)
        params = again(required, {only_key(required): ACCEPT}, *self.STEPS)
        with there.stream("tools/call", params, token=2) as response:
            assert next_event(response.iter_lines())
            assert doomed.process is not None
            doomed.process.kill()
            doomed.wait()
        wait_for(lambda: requests(world, "notifications/cancelled"), 30, what="the call to be cancelled")
        wait_for(
            lambda: world.gateway.metric("smcp_gateway_parked_calls") == parked, 5, what="it to be forgotten"
        )
        assert client.call()["resultType"] == "complete"

    def test_a_node_that_stops_cancels_what_waits_there(
        self, world: World, own_redis: RedisProcess, tmp_path: Path
    ) -> None:
        stopping = second_node(world, own_redis, tmp_path)
        stopping.environ["SMCP_GATEWAY_BRIDGE_PARK_S"] = "60"
        stopping.start()
        there = bridged(world, "nodes-stopped").at(world, stopping)
        wait_for(
            lambda: there.send("server/discover").status_code == 200, 10, what="the stopping node to know"
        )
        there.call(*self.STEPS)
        assert stopping.stop() == 0
        assert requests(world, "notifications/cancelled")
        assert world.standin.seen[-1]["method"] == "DELETE"


def test_redis_is_away_and_the_same_node_goes_on(world: World, own_redis: RedisProcess) -> None:
    client = bridged(world, "redis-away")
    steps = [ask(1, **form()), {"await": 1}]
    required = client.call(*steps)
    own_redis.kill()
    try:
        assert "result" in client.retry(required, {only_key(required): ACCEPT}, *steps)
        assert client.call(*steps)["resultType"] == "input_required"
    finally:
        own_redis.start()


class TestOnTheServersOwnStream:
    """Where servers of the official Python SDK's first major version ask, unless they are told better."""

    ASKED = {"jsonrpc": "2.0", "id": "own", "method": "roots/list", "params": {}}

    def test_a_question_there_belongs_to_the_one_call_under_way(self, world: World) -> None:
        client = bridged(world, "own")
        steps: list[dict[str, Any]] = [{"ask_aside": ["own", "roots/list", {}]}, {"await": 1}]
        told = client.call(*steps)
        assert told["inputRequests"][only_key(told)] == {"method": "roots/list"}
        answer = client.retry(told, {only_key(told): {"roots": []}}, *steps)["result"]
        assert told_by(answer)["answers"] == {'"own"': {"roots": []}}

    def test_of_two_calls_nobody_is_asked(self, world: World) -> None:
        client = bridged(world, "own-two", "legacy-own-two")
        calls = [threading.Thread(target=client.call, args=({"permit": "own-two"},)) for _ in range(2)]
        for call in calls:
            call.start()
        wait_for(lambda: len(requests(world, "tools/call")) == 2, 10, what="two calls to be under way")
        assert world.standin.broadcast("legacy-own-two", self.ASKED) == 1
        wait_for(lambda: [one for one in requests(world) if one.get("id") == "own"], 5, what="a refusal")
        world.standin.go("own-two", 2)
        for call in calls:
            call.join(10)
        (refused,) = [one for one in requests(world) if one.get("id") == "own"]
        assert refused["error"]["code"] == -32601

    def test_a_client_that_offers_nothing_has_no_stream_opened_for_it(self, world: World) -> None:
        bridged(world, "own-none", "legacy-own-none").call(capabilities={})
        assert "GET" not in verbs(world)
