"""A modern client before a server that speaks only legacy revisions: one request, its headers, its answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.dataplane.bridging import (
    META,
    Bridged,
    ask,
    bridged,
    messages_of,
    modern_body,
    requests,
    script,
    told_by,
    verbs,
)
from tests.dataplane.harness import MODERN, World, error_of, next_event, request
from tests.waiting import wait_for

pytestmark = pytest.mark.acceptance("P1")
SERVER = {"name": "legacy only", "version": "7"}


class TestPolicy:
    @pytest.mark.parametrize(
        ("policy", "issues_sessions", "is_bridged"),
        [
            ("auto", True, False),
            ("auto", False, True),
            ("bridge", True, True),
            ("bridge", False, True),
            ("decline", True, False),
            ("decline", False, False),
        ],
    )
    def test_an_environment_bridges_or_declines(
        self, world: World, policy: str, issues_sessions: bool, is_bridged: bool
    ) -> None:
        target = world.target("legacy-policy", eras=("legacy",), issues_sessions=issues_sessions)
        route = world.server("policy", target, modern_clients=policy)
        client = Bridged(world.at(world.url(route), world.key()))
        response = client.send("server/discover")
        if is_bridged:
            assert MODERN in response.json()["result"]["supportedVersions"]
        else:
            assert error_of(response) == (400, -32022)
            assert MODERN not in response.json()["error"]["data"]["supported"]
            assert world.standin.seen == []

    def test_a_server_that_speaks_modern_revisions_is_asked_as_it_is(self, world: World) -> None:
        route = world.server("policy-modern", world.target("scripted"), modern_clients="bridge")
        Bridged(world.at(world.url(route), world.key())).send("tools/list")
        assert world.standin.seen[-1]["headers"]["mcp-method"] == "tools/list"

    def test_of_two_releases_only_the_one_that_needs_it_is_bridged(self, world: World) -> None:
        old = world.target("legacy-two", eras=("legacy",), issues_sessions=True, weight=10_000)
        new = world.target("scripted-two", weight=0)
        client = Bridged(world.at(world.url(world.server("two-declined", old, new)), world.key()))
        response = client.send("tools/list")
        assert error_of(response) == (400, -32022)
        assert MODERN not in response.json()["error"]["data"]["supported"]
        route = world.server("two-bridged", old, new, modern_clients="bridge")
        assert Bridged(world.at(world.url(route), world.key())).send("tools/list").status_code == 200

    def test_legacy_clients_are_none_of_its_business(self, world: World) -> None:
        client = bridged(world, "policy-legacy")
        assert client.caller.initialize().status_code == 200
        assert client.caller.call("marked").status_code == 200


class TestDiscover:
    def test_it_is_told_from_the_handshake(self, world: World) -> None:
        client = bridged(world, "discover")
        result = client.result("server/discover")
        assert result["supportedVersions"] == [MODERN]
        assert result["capabilities"] == {
            "tools": {"listChanged": True},
            "prompts": {"listChanged": True},
            "resources": {"listChanged": True, "subscribe": True},
            "completions": {},
            "logging": {},
        }
        assert result["instructions"] == "be kind"
        assert result["_meta"][f"{META}serverInfo"] == SERVER
        assert (result["resultType"], result["ttlMs"], result["cacheScope"]) == ("complete", 0, "private")

    def test_a_second_time_nobody_is_asked(self, world: World) -> None:
        client = bridged(world, "discover-twice")
        first = client.result("server/discover")
        world.standin.forget()
        assert client.result("server/discover") == first
        assert world.standin.seen == []

    def test_without_a_stream_there_are_no_news(self, world: World) -> None:
        capabilities = bridged(world, "discover-streamless", "legacy-streamless").result("server/discover")[
            "capabilities"
        ]
        assert capabilities == {
            "tools": {},
            "prompts": {},
            "resources": {},
            "completions": {},
            "logging": {},
        }

    def test_without_news_no_stream_is_tried(self, world: World) -> None:
        bridged(world, "discover-newsless", "legacy-newsless").result("server/discover")
        assert verbs(world) == ["initialize", "notifications/initialized"]

    def test_the_server_is_told_what_the_client_offers(self, world: World) -> None:
        client = bridged(world, "capabilities")
        offered = {
            "elicitation": {"form": {}, "url": {}},
            "sampling": {"tools": {}},
            "roots": {"listChanged": True},
            "tasks": {"list": {}},
            "experimental": {"x": {}},
        }
        client.call(capabilities=offered)
        (told,) = requests(world, "initialize")
        assert told["params"]["capabilities"] == {
            "elicitation": {"form": {}, "url": {}},
            "sampling": {"tools": {}},
            "roots": {},
        }
        assert told["params"]["protocolVersion"] == "2025-11-25"


class TestRequest:
    def test_only_what_the_modern_era_added_is_taken_away(self, world: World) -> None:
        client = bridged(world, "meta")
        params = {
            **script(),
            "task": {"ttl": 1},
            "inputResponses": {"x": {}},
            "vendor": [1.50, 12345678901234567890],
        }
        meta = {"traceparent": "00-a-b-01", "vendor.example/x": {"deep": None}, f"{META}other": 1}
        sent = told_by(client.result("tools/call", params, meta=meta, token="mine", level="error"))["params"]
        token = sent["_meta"].pop("progressToken")
        assert isinstance(token, int)
        assert sent["_meta"] == {"traceparent": "00-a-b-01", "vendor.example/x": {"deep": None}}
        assert sent["vendor"] == [1.50, 12345678901234567890]
        assert set(sent) == {"name", "arguments", "vendor", "_meta"}

    def test_the_headers_are_the_legacy_eras(self, world: World) -> None:
        client = bridged(world, "headers")
        client.send("tools/list", headers={"mcp_param_region": "eu"})
        headers = world.standin.seen[-1]["headers"]
        assert headers["mcp-protocol-version"] == "2025-11-25"
        assert headers["mcp-session-id"].startswith("lg-")
        assert not {"mcp-method", "mcp-name", "mcp-param-region", "authorization", "origin"} & set(headers)

    def test_ids_and_progress_tokens_are_unique_in_the_servers_session(self, world: World) -> None:
        client = bridged(world, "ids")
        for request_id in (1, "1", 1):
            answer = client.ask("tools/call", script(), token=1, request_id=request_id)
            assert answer["id"] == request_id
            assert type(answer["id"]) is type(request_id)
        calls = requests(world, "tools/call")
        ids = [call["id"] for call in calls]
        tokens = [call["params"]["_meta"]["progressToken"] for call in calls]
        assert len(set(ids)) == len(set(tokens)) == 3
        assert len({entry["headers"].get("mcp-session-id") for entry in world.standin.seen[2:]}) == 1

    @pytest.mark.parametrize(
        "method", ["initialize", "ping", "logging/setLevel", "resources/subscribe", "tasks/get"]
    )
    def test_removed_methods_are_404(self, world: World, method: str) -> None:
        client = bridged(world, "removed")
        assert error_of(client.send(method)) == (404, -32601)
        assert world.standin.seen == []

    def test_what_the_server_does_not_know_is_404(self, world: World) -> None:
        assert error_of(bridged(world, "unknown").send("no/such")) == (404, -32601)

    def test_responses_and_batches_are_400_and_notifications_202(self, world: World) -> None:
        client = bridged(world, "kinds")
        body, headers = modern_body("tools/list")
        assert error_of(client.caller.send(body=[body], **headers)) == (400, -32600)
        answer = {"jsonrpc": "2.0", "id": 1, "result": {}}
        assert error_of(client.caller.send(body=answer, mcp_protocol_version=MODERN)) == (400, -32600)
        note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
        assert client.caller.send(body=note, mcp_protocol_version=MODERN).status_code == 202
        assert world.standin.seen == []

    @pytest.mark.parametrize("params", [{"inputResponses": 1}, {"requestState": 1}])
    def test_malformed_rounds_are_minus_32602(self, world: World, params: dict[str, Any]) -> None:
        client = bridged(world, "malformed")
        response = client.send("tools/call", {**script(), "requestState": "x", **params})
        assert error_of(response) == (200, -32602)

    def test_an_unknown_level_is_minus_32602(self, world: World) -> None:
        assert error_of(bridged(world, "level-unknown").send("tools/list", level="loud")) == (400, -32602)

    def test_a_large_request_reaches_the_server_whole(self, world: World) -> None:
        client = bridged(world, "large")
        params = {"name": "marked", "arguments": {"text": "x" * 200_000}}
        sent = told_by(client.result("tools/call", params, token="t"))
        assert len(sent["arguments"]["text"]) == 200_000
        assert list(sent["_meta"]) == ["progressToken"]


class TestMarkedHeaders:
    ARGUMENTS = {"region": "eu", "count": 42, "deep": {"flag": True}}
    HEADERS = {"mcp_param_region": "eu", "mcp_param_count": "42", "mcp_param_flag": "true"}

    def call(self, world: World, arguments: Any, headers: dict[str, str | None]) -> Any:
        return bridged(world, "marked").send(
            "tools/call", {"name": "marked", "arguments": arguments}, headers=headers
        )

    def test_headers_that_agree_pass(self, world: World) -> None:
        assert self.call(world, self.ARGUMENTS, dict(self.HEADERS)).status_code == 200
        assert self.call(world, {}, {}).status_code == 200
        assert self.call(world, {"region": None}, {}).status_code == 200
        assert self.call(world, {"region": "ü"}, {"mcp_param_region": "=?base64?w7w=?="}).status_code == 200
        assert self.call(world, {"count": 42.0}, {"mcp_param_count": "42"}).status_code == 200

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("mcp_param_region", "us"),
            ("mcp_param_region", None),
            ("mcp_param_region", "=?base64?!?="),
            ("mcp_param_count", "43"),
            ("mcp_param_flag", "True"),
        ],
    )
    def test_one_that_does_not_is_minus_32020_and_nothing_is_called(
        self, world: World, name: str, value: str | None
    ) -> None:
        assert error_of(self.call(world, self.ARGUMENTS, {**self.HEADERS, name: value})) == (400, -32020)
        assert requests(world, "tools/call") == []

    def test_one_without_an_argument_is_minus_32020(self, world: World) -> None:
        assert error_of(self.call(world, {}, {"mcp_param_region": "eu"})) == (400, -32020)

    def test_the_schemas_are_read_once_and_again_when_the_tools_have_changed(self, world: World) -> None:
        client = bridged(world, "marked-cached")
        client.call()
        client.call()
        assert len(requests(world, "tools/list")) == 1
        client.call({"say": {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}})
        client.call()
        assert len(requests(world, "tools/list")) == 2

    def test_a_clients_own_list_serves_too(self, world: World) -> None:
        client = bridged(world, "marked-listed")
        client.result("tools/list")
        client.call()
        assert len(requests(world, "tools/list")) == 1


class TestResult:
    def test_it_says_what_it_is_and_whose(self, world: World) -> None:
        result = bridged(world, "result").call()
        assert result["resultType"] == "complete"
        assert result["_meta"] == {f"{META}serverInfo": SERVER}
        assert "ttlMs" not in result

    @pytest.mark.parametrize(
        "method", ["tools/list", "prompts/list", "resources/list", "resources/templates/list"]
    )
    def test_lists_are_private_and_stale_at_once(self, world: World, method: str) -> None:
        result = bridged(world, "lists").result(method)
        assert (result["ttlMs"], result["cacheScope"], result["resultType"]) == (0, "private", "complete")
        if method != "tools/list":
            assert result["_meta"] == {"vendor/kept": 1, f"{META}serverInfo": SERVER}

    def test_a_tool_that_needs_tasks_does_not_exist(self, world: World) -> None:
        client = bridged(world, "tasked")
        tools = {tool["name"]: tool for tool in client.result("tools/list")["tools"]}
        assert "tasked" not in tools
        assert "execution" not in tools["maybe"]
        assert error_of(client.send("tools/call", {"name": "tasked"})) == (404, -32601)
        assert requests(world, "tools/call") == []

    @pytest.mark.parametrize(
        ("code", "status", "told"),
        [
            (-32601, 404, -32601),
            (-32700, 400, -32700),
            (-32600, 400, -32600),
            (-32020, 400, -32020),
            (-32602, 200, -32602),
            (-32603, 200, -32603),
            (-32002, 200, -32602),
            (7, 200, 7),
        ],
    )
    def test_an_error_has_its_eras_status(self, world: World, code: int, status: int, told: int) -> None:
        error = {"code": code, "message": "as told", "data": {"kept": [1]}}
        response = bridged(world, "errors").send("tools/call", script({"error": error}))
        assert error_of(response) == (status, told)
        assert response.json()["error"]["message"] == "as told"
        assert response.json()["error"]["data"] == {"kept": [1]}

    def test_a_missing_resource_names_itself(self, world: World) -> None:
        response = bridged(world, "missing").send("resources/read", {"uri": "test://gone"})
        assert error_of(response) == (200, -32602)
        assert response.json()["error"]["data"] == {"uri": "test://gone"}

    def test_a_stream_that_breaks_off_is_taken_up_again(self, world: World) -> None:
        client = bridged(world, "cut")
        answer = client.call({"cut": "e-1"}, {"result": {"content": []}})
        assert answer["content"] == []
        resumed = [entry["headers"].get("last-event-id") for entry in world.standin.seen]
        assert [name for name in resumed if name] == ["e-1"]

    def test_one_that_cannot_be_taken_up_is_an_honest_error(self, world: World) -> None:
        client = bridged(world, "cut-lost", "scripted-cut")
        params = {"name": "raw_stream", "arguments": {"pieces": ["data: {}\n"]}}
        assert error_of(client.send("tools/call", params)) == (502, -32603)

    def test_a_server_that_is_not_there_is_an_honest_error(self, world: World) -> None:
        target = world.target("nowhere", eras=("legacy",))
        route = world.server("nowhere", target, modern_clients="bridge")
        assert error_of(Bridged(world.at(world.url(route), world.key())).send("tools/list")) == (502, -32603)


class TestDuring:
    PROGRESS = {
        "say": {
            "jsonrpc": "2.0",
            "method": "notifications/progress",
            "params": {"progressToken": "$token", "progress": 0.5, "total": 2},
        }
    }

    def message(self, level: str) -> dict[str, Any]:
        return {
            "say": {
                "jsonrpc": "2.0",
                "method": "notifications/message",
                "params": {"level": level, "data": level},
            }
        }

    @pytest.mark.parametrize("token", ["mine", 7])
    def test_progress_comes_under_the_clients_token(self, world: World, token: Any) -> None:
        response = bridged(world, "progress").send("tools/call", script(self.PROGRESS), token=token)
        first, last = messages_of(response)
        assert first["params"] == {"progressToken": token, "progress": 0.5, "total": 2}
        assert "result" in last

    def test_progress_that_nobody_asked_for_is_dropped(self, world: World) -> None:
        response = bridged(world, "progress-none").send("tools/call", script(self.PROGRESS))
        assert len(messages_of(response)) == 1

    def test_messages_come_only_from_the_level_on_that_is_wanted(self, world: World) -> None:
        client = bridged(world, "levels")
        steps = [self.message(level) for level in ("debug", "warning", "error", "emergency")]
        said = messages_of(client.send("tools/call", script(*steps), level="error"))
        assert [one["params"]["level"] for one in said[:-1]] == ["error", "emergency"]
        assert len(messages_of(client.send("tools/call", script(*steps)))) == 1
        assert [one["params"] for one in requests(world, "logging/setLevel")] == [{"level": "error"}]

    def test_the_server_is_told_the_lowest_level_that_somebody_wants(self, world: World) -> None:
        client = bridged(world, "levels-lowest")
        with client.stream(
            "tools/call", script(self.message("info"), {"permit": "lowest"}), level="info"
        ) as one:
            lines = one.iter_lines()
            assert json.loads(next_event(lines)["data"])["params"]["level"] == "info"
            client.call(level="error")
            client.call(level="debug")
            client.call(level="debug")
            world.standin.go("lowest")
            assert "result" in json.loads(next_event(lines)["data"])
        told = [one["params"]["level"] for one in requests(world, "logging/setLevel")]
        assert told == ["info", "debug"]

    def test_a_mute_server_is_told_no_level(self, world: World) -> None:
        bridged(world, "levels-mute", "legacy-mute").call(level="debug")
        assert requests(world, "logging/setLevel") == []

    def test_a_ping_is_answered_and_other_questions_elsewhere_are_refused(self, world: World) -> None:
        client = bridged(world, "elsewhere")
        answers = told_by(client.call(ask("p", "ping"), ask("v", "vendor/ask"), {"await": 2}))["answers"]
        assert answers['"p"'] == {}
        assert answers['"v"']["error"]["code"] == -32601
        params = {"ref": {"type": "ref/prompt", "name": "p"}, "argument": {"name": "a", "value": "r"}}
        assert client.result("completion/complete", params)["completion"] == {"values": ["red"]}
        (refused,) = [one for one in requests(world) if one.get("id") == "c-1"]
        assert refused["error"]["code"] == -32601

    def test_news_of_a_finished_elicitation_are_dropped(self, world: World) -> None:
        note = {
            "jsonrpc": "2.0",
            "method": "notifications/elicitation/complete",
            "params": {"elicitationId": "e"},
        }
        response = bridged(world, "complete").send("tools/call", script({"say": note}))
        assert len(messages_of(response)) == 1

    def test_a_client_that_leaves_cancels_upstream(self, world: World) -> None:
        client = bridged(world, "leaves")
        with client.stream("tools/call", script(self.PROGRESS, {"permit": "leaves"}), token=1) as response:
            assert next_event(response.iter_lines())
        (call,) = requests(world, "tools/call")
        wait_for(lambda: requests(world, "notifications/cancelled"), 5, what="the server to be told")
        (told,) = requests(world, "notifications/cancelled")
        assert told["params"]["requestId"] == call["id"]


def test_a_client_whose_access_ends_is_told_and_its_call_cancelled(world: World) -> None:
    target = world.target("legacy-revoked", eras=("legacy",))
    route = world.server("revoked", target, modern_clients="bridge")
    client = Bridged(world.at(world.url(route), world.key()))
    steps = script(TestDuring.PROGRESS, {"permit": "revoked"})
    with client.stream("tools/call", steps, token=1) as response:
        lines = response.iter_lines()
        assert next_event(lines)
        world.server("revoked", target, access=("public",), modern_clients="bridge")
        assert json.loads(next_event(lines)["data"])["error"]["code"] == -32000


def test_a_question_before_any_handshake_is_still_a_legacy_clients(world: World) -> None:
    client = bridged(world, "both-eras")
    assert error_of(client.caller.send(body=request("tools/list"))) == (400, -32600)
