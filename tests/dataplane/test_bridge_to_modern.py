"""A legacy client at a server that speaks the modern era only, row by row of the bridge's rules (docs/decisions/0021)."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from hosting.dataplane.contract import Limits
from tests.dataplane.harness import Caller, GatewayProcess, World, call_of, error_of, events_of, request
from tests.dataplane.modern_standin import META, POINTS, REVISION
from tests.waiting import wait_for

pytestmark = pytest.mark.acceptance("P1")

CAPABILITIES = {"elicitation": {}, "sampling": {}, "roots": {"listChanged": True}}


def bridged(world: World, slug: str, script: str = "modern-cached", **more: Any) -> Caller:
    """A legacy client with a session at a modern server."""
    target = world.target(script, eras=("modern",), issues_sessions=False)
    caller = world.caller(world.server(slug, target, **more), session=False)
    assert caller.initialize(capabilities=CAPABILITIES).status_code == 200
    world.standin.forget()
    return caller


def sent(world: World, at: int = -1) -> dict[str, Any]:
    """The message the server was sent."""
    return dict(json.loads(world.standin.seen[at]["body"]))


def methods(world: World) -> list[str]:
    return [json.loads(entry["body"])["method"] for entry in world.standin.seen]


class TestInitialize:
    def test_it_is_answered_from_what_the_server_says_of_itself(self, world: World) -> None:
        route = world.server("to-modern-init", world.target("modern-cached", eras=("modern",)))
        caller = world.caller(route, session=False)
        response = caller.initialize("2025-06-18", capabilities=CAPABILITIES)
        assert response.status_code == 200
        assert response.headers["mcp-session-id"].startswith("s1.s1.")
        result = response.json()["result"]
        assert result == {
            "protocolVersion": "2025-06-18",
            "capabilities": {
                "tools": {"listChanged": True},
                "prompts": {"listChanged": True},
                "resources": {"listChanged": True, "subscribe": True},
                "logging": {},
                "completions": {},
                "extensions": {"com.example/kept": {}},
            },
            "serverInfo": {"name": "modern", "version": "7"},
            "instructions": "be kind",
            "_meta": {"com.example/kept": 1},
        }
        assert methods(world) == ["server/discover"]

    def test_an_unknown_revision_gets_the_latest_legacy_one(self, world: World) -> None:
        route = world.server("to-modern-unknown", world.target("modern-cached", eras=("modern",)))
        caller = world.caller(route, session=False)
        assert caller.initialize("2023-01-01").json()["result"]["protocolVersion"] == "2025-11-25"

    @pytest.mark.parametrize(
        ("script", "asked"), [("modern-cached", 1), ("modern-private", 2), ("modern-anew", 3)]
    )
    def test_the_introduction_is_kept_as_the_server_allows(
        self, world: World, script: str, asked: int
    ) -> None:
        route = world.server(f"to-modern-{script}", world.target(script, eras=("modern",), release=script))
        for _ in range(2):
            world.caller(route, session=False)
        one, other = world.caller(route, session=False), world.caller(route, session=False)
        for caller in (one, one, other):
            assert caller.initialize().status_code == 200
        assert len(world.standin.seen) == asked

    def test_a_server_of_both_eras_without_sessions_is_asked_in_the_modern_one(self, world: World) -> None:
        route = world.server("to-modern-both", world.target("scripted", issues_sessions=False))
        caller = world.caller(route)
        assert caller.call("echo", text="hi").json()["result"]["content"][0]["text"] == "hi"
        assert world.standin.seen[-1]["headers"]["mcp-protocol-version"] == REVISION

    def test_a_server_that_is_not_modern_after_all_is_asked_in_the_legacy_era(self, world: World) -> None:
        route = world.server("to-modern-not", world.target("scripted-undiscovered", issues_sessions=False))
        caller = world.caller(route)
        assert caller.call("echo", text="hi").json()["result"]["content"][0]["text"] == "hi"
        assert world.standin.seen[-1]["headers"]["mcp-protocol-version"] == "2025-11-25"

    def test_a_server_of_no_known_era_is_an_honest_error(self, world: World) -> None:
        route = world.server("to-modern-none", world.target("scripted-undiscovered", eras=("modern",)))
        response = world.caller(route, session=False).initialize()
        assert error_of(response) == (502, -32603)
        assert "mcp-session-id" not in response.headers

    def test_a_session_moves_from_a_modern_release_to_a_legacy_one_and_back(self, world: World) -> None:
        modern = world.target("modern-cached", eras=("modern",))
        legacy = world.target("scripted-stateful")
        caller = world.caller(world.server("to-modern-moves", modern))
        world.server("to-modern-moves", legacy)
        for _ in range(2):
            assert caller.call("echo", text="hi").json()["result"]["content"][0]["text"] == "hi"
        assert [json.loads(entry["body"])["method"] for entry in world.standin.seen] == [
            "initialize",
            "notifications/initialized",
            "tools/call",
            "tools/call",
        ]
        world.server("to-modern-moves", modern)
        assert caller.call("echo", text="hi").json()["result"]["content"][0]["text"] == "hi"
        assert world.standin.seen[-1]["headers"]["mcp-protocol-version"] == REVISION


class TestWhatTheGatewayAnswersItself:
    @pytest.mark.parametrize(
        "method",
        ["notifications/initialized", "notifications/roots/list_changed", "notifications/never/heard/of"],
    )
    def test_notifications_end_here(self, world: World, method: str) -> None:
        caller = bridged(world, "to-modern-notes")
        response = caller.send(body={"jsonrpc": "2.0", "method": method})
        assert (response.status_code, response.content) == (202, b"")
        assert world.standin.seen == []

    def test_ping_is_answered_here(self, world: World) -> None:
        caller = bridged(world, "to-modern-ping")
        assert caller.send(body=request("ping", request_id="p")).json() == {
            "jsonrpc": "2.0", "id": "p", "result": {},
        }  # fmt: skip
        assert world.standin.seen == []

    @pytest.mark.parametrize(
        "method",
        [
            "tasks/get",
            "tasks/list",
            "tasks/cancel",
            "tasks/result",
            "server/discover",
            "subscriptions/listen",
        ],
    )
    def test_what_cannot_exist_here_is_an_unknown_method(self, world: World, method: str) -> None:
        caller = bridged(world, "to-modern-tasks")
        assert error_of(caller.send(body=request(method, {"taskId": "1"}))) == (200, -32601)
        assert world.standin.seen == []

    def test_a_session_is_ended_by_delete(self, world: World) -> None:
        caller = bridged(world, "to-modern-delete")
        assert caller.send("DELETE").status_code == 204
        assert error_of(caller.call("echo")) == (404, -32001)
        assert world.standin.seen == []


class TestWhatTheServerIsSent:
    @pytest.mark.parametrize(
        ("method", "params", "name"),
        [
            ("tools/list", {}, None),
            ("prompts/list", {"cursor": "c"}, None),
            ("resources/list", {}, None),
            ("resources/templates/list", {}, None),
            ("resources/read", {"uri": "test://a"}, "test://a"),
            ("prompts/get", {"name": "p"}, "p"),
            ("tools/call", {"name": "echo", "arguments": {"text": "é"}}, "echo"),
            ("completion/complete", {"ref": {"type": "ref/prompt", "name": "p"}, "argument": {}}, None),
        ],
    )
    def test_a_request_carries_what_the_modern_era_wants(
        self, world: World, method: str, params: dict[str, Any], name: str | None
    ) -> None:
        caller = bridged(world, "to-modern-requests")
        response = caller.send(body=request(method, params, request_id="mine"))
        assert response.status_code == 200
        assert response.json()["id"] == "mine"
        assert not {"resultType", "ttlMs", "cacheScope"} & response.json()["result"].keys()
        message, headers = sent(world), world.standin.seen[-1]["headers"]
        assert message["method"] == method
        meta = message["params"].pop("_meta")
        assert message["params"] == params
        assert meta == {
            f"{META}protocolVersion": REVISION,
            f"{META}clientCapabilities": CAPABILITIES,
            f"{META}clientInfo": {"name": "few words", "version": "1"},
        }
        assert (headers["mcp-protocol-version"], headers["mcp-method"]) == (REVISION, method)
        assert headers.get("mcp-name") == name
        assert "mcp-session-id" not in headers

    def test_only_what_is_the_gateways_to_say_is_taken_out(self, world: World) -> None:
        caller = bridged(world, "to-modern-meta")
        meta = {"progressToken": 7, "traceparent": "00-a", f"{META}logLevel": "debug", "com.example/x": [1]}
        params = {"name": "echo", "arguments": {"text": "hi"}, "task": {"ttl": 1}, "inputResponses": {}}
        caller.send(body=request("tools/call", {**params, "requestState": "x", "_meta": meta, "other": 1}))
        told = sent(world)["params"]
        assert told["_meta"].items() >= {"progressToken": 7, "traceparent": "00-a"}.items()
        assert told["_meta"]["com.example/x"] == [1]
        assert f"{META}logLevel" not in told["_meta"]
        assert told.keys() == {"name", "arguments", "_meta", "other"}

    def test_a_name_no_header_can_carry_is_encoded(self, world: World) -> None:
        caller = bridged(world, "to-modern-names")
        assert caller.send(body=request("prompts/get", {"name": "grüße"})).status_code == 200
        assert world.standin.seen[-1]["headers"]["mcp-name"].startswith("=?base64?")
        assert error_of(caller.send(body=request("prompts/get", {"name": "x" * 9000}))) == (400, -32600)

    def test_a_large_call_goes_through_whole(self, world: World) -> None:
        caller = bridged(world, "to-modern-large")
        text = "x" * 300_000
        assert caller.call("echo", text=text).json()["result"]["content"][0]["text"] == text


class TestParameterHeaders:
    ARGUMENTS: dict[str, Any] = {"region": "zürich", "count": 3, "where": {"zone": "a"}}

    def test_a_call_that_was_never_listed_is_sent_again_with_its_headers(self, world: World) -> None:
        caller = bridged(world, "to-modern-params", "modern-cached-params")
        told = caller.call("region", **self.ARGUMENTS).json()["result"]
        assert told["content"][0]["text"] == "there"
        assert methods(world) == ["tools/call", "tools/list", "tools/call"]
        headers = world.standin.seen[-1]["headers"]
        assert headers["mcp-param-region"].startswith("=?base64?")
        assert (headers["mcp-param-count"], headers["mcp-param-zone"]) == ("3", "a")
        world.standin.forget()
        assert caller.call("region", region="b").json()["result"]["content"][0]["text"] == "there"
        assert methods(world) == ["tools/call"]

    def test_a_list_that_went_by_tells_them_too(self, world: World) -> None:
        caller = bridged(world, "to-modern-listed", "modern-cached-listed")
        caller.send(body=request("tools/list"))
        caller.call("region", **self.ARGUMENTS)
        assert methods(world) == ["tools/list", "tools/call"]

    def test_all_pages_of_a_list_are_looked_at(self, world: World) -> None:
        caller = bridged(world, "to-modern-pages", "modern-cached-paged")
        assert "result" in caller.call("either").json()
        assert caller.call("region", **self.ARGUMENTS).json()["result"]["content"][0]["text"] == "there"
        assert methods(world).count("tools/call") == 2

    def test_it_is_tried_once_more_and_not_for_ever(self, world: World) -> None:
        caller = bridged(world, "to-modern-mismatch")
        error = {"code": -32020, "message": "mismatch"}
        assert error_of(caller.call("status", status=400, error=error)) == (200, -32603)
        assert methods(world) == ["tools/call", "tools/list", "tools/call"]


class TestTools:
    def test_a_list_is_one_that_legacy_clients_can_read(self, world: World) -> None:
        caller = bridged(world, "to-modern-tools")
        tools = {
            tool["name"]: tool for tool in caller.send(body=request("tools/list")).json()["result"]["tools"]
        }
        assert sorted(tools) == ["echo", "either", "fine", "points", "region"]
        assert tools["fine"]["outputSchema"] == {"type": "object"}
        points = tools["points"]["outputSchema"]
        assert points["$schema"] == POINTS["$schema"]
        assert (points["type"], points["required"]) == ("object", ["result"])
        inner = points["properties"]["result"]
        assert inner["items"] == {"$ref": "#/properties/result/$defs/point"}
        assert inner["$defs"]["point"]["properties"]["next"] == {"$ref": "#/properties/result"}

    def test_results_follow_the_schema_they_were_promised_by(self, world: World) -> None:
        caller = bridged(world, "to-modern-wrapped", "modern-cached-wrapped")
        points = caller.call("points").json()["result"]
        assert points["structuredContent"] == {"result": [{"next": []}]}
        assert json.loads(points["content"][0]["text"]) == [{"next": []}]
        either = caller.call("either").json()["result"]  # an object, where it need not be one
        assert either["structuredContent"] == {"result": {"a": 1}}
        fine = caller.call("fine").json()["result"]
        assert fine == {"content": [{"type": "text", "text": "as text"}], "structuredContent": {"a": 1}}
        assert methods(world).count("tools/list") == 1


class TestResults:
    def test_the_modern_eras_marks_are_taken_off(self, world: World) -> None:
        caller = bridged(world, "to-modern-results")
        result = caller.call("kind", result={"ttlMs": 1, "cacheScope": "public", "x": 1.50}).json()["result"]
        assert result == {"content": [], "x": 1.50}
        assert caller.call("echo").json()["result"]["_meta"] == {"com.example/kept": 1}

    @pytest.mark.parametrize("kind", ["task", "odd", 7, None])
    def test_a_result_of_an_unknown_kind_is_an_error(self, world: World, kind: object) -> None:
        caller = bridged(world, "to-modern-kinds")
        assert error_of(caller.call("kind", result={"resultType": kind})) == (200, -32603)

    @pytest.mark.parametrize(
        ("status", "code", "told"),
        [
            (200, -32602, (200, -32602)),
            (400, -32602, (200, -32602)),
            (404, -32601, (200, -32601)),
            (400, -32022, (200, -32603)),
            (401, -32000, (502, -32603)),
            (403, -32000, (502, -32603)),
            (500, -32603, (502, -32603)),
            (503, -32603, (502, -32603)),
        ],
    )
    def test_statuses_are_ones_a_legacy_client_survives(
        self, world: World, status: int, code: int, told: tuple[int, int]
    ) -> None:
        caller = bridged(world, "to-modern-statuses")
        error = {"code": code, "message": "no", "data": {"a": 1}}
        headers = [["www-authenticate", "Bearer"], ["mcp-session-id", "x"]]
        response = caller.call("status", status=status, error=error, headers=headers)
        assert error_of(response) == told
        assert not {"www-authenticate", "mcp-session-id"} & response.headers.keys()
        assert response.json()["id"] == 1

    def test_a_server_that_is_not_there_is_502(self, world: World) -> None:
        target = world.target("gone", eras=("modern",))
        response = world.caller(world.server("to-modern-gone", target), session=False).initialize()
        assert error_of(response) == (502, -32603)

    def test_an_answer_that_is_no_mcp_is_an_error(self, world: World) -> None:
        caller = bridged(world, "to-modern-broken")
        assert error_of(caller.call("status", status=200, body="nonsense")) == (502, -32603)


class TestStreams:
    def test_progress_passes_and_the_answer_is_last(self, world: World) -> None:
        caller = bridged(world, "to-modern-progress")
        params = {"name": "stream", "arguments": {"count": 3}, "_meta": {"progressToken": "t"}}
        told = events_of(caller.send(body=request("tools/call", params)).text)
        assert [message["params"] for message in told[:-1]] == [
            {"progressToken": "t", "progress": at} for at in range(3)
        ]
        assert told[-1]["result"] == {"content": [{"type": "text", "text": "streamed"}]}

    def test_a_client_that_leaves_does_not_end_its_request(self, world: World) -> None:
        caller = bridged(world, "to-modern-leaves")
        with caller.stream(body=call_of("wait", permit="left", **{"as": "sse"})):
            wait_for(lambda: world.standin.seen, what="the call to arrive")
        world.standin.go("left")
        wait_for(lambda: world.standin.seen[0].get("finished"), what="the call to be read to its end")

    def test_a_server_that_falls_silent_is_an_error(self, world: World) -> None:
        caller = bridged(world, "to-modern-silent", limits=Limits(stream_idle_s=0.2))
        response = caller.call("wait", permit="never", **{"as": "sse"})
        assert error_of(response) == (504, -32603)


class TestLogLevel:
    def level(self, caller: Caller) -> list[str]:
        told = events_of(caller.call("stream", count=1).text)
        return [message["params"]["level"] for message in told if message.get("method")]

    def is_level(self, caller: Caller, level: str) -> bool:
        return self.level(caller)[:1] == [level]

    def test_it_is_sent_once_it_is_set(self, world: World) -> None:
        caller = bridged(world, "to-modern-level")
        assert self.level(caller) == []
        answer = caller.send(body=request("logging/setLevel", {"level": "critical"}))
        assert answer.json()["result"] == {}
        assert self.level(caller) == ["critical", "alert", "emergency"]
        assert methods(world) == ["tools/call", "tools/call"]

    @pytest.mark.parametrize("level", ["loud", 3, None, "\ud800"])
    def test_what_is_no_level_is_refused(self, world: World, level: object) -> None:
        caller = bridged(world, "to-modern-no-level")
        body = json.dumps(request("logging/setLevel", {"level": level})).encode()
        assert error_of(caller.send(body=body)) == (200, -32602)

    def test_another_node_learns_it_within_a_second(self, world: World, other_node: GatewayProcess) -> None:
        caller = bridged(world, "to-modern-level-there")
        there = world.at_node(caller, other_node)
        wait_for(lambda: there.call("echo").status_code == 200, what="the other node to know the route")
        assert self.level(there) == []
        for level in ("alert", "emergency"):
            caller.send(body=request("logging/setLevel", {"level": level}))
            wait_for(partial(self.is_level, there, level), 3, what="the level to be known")


class TestBatches:
    def test_a_batch_is_split_and_answered_on_one_stream(self, world: World) -> None:
        target = world.target("modern-cached", eras=("modern",), issues_sessions=False)
        caller = world.caller(world.server("to-modern-batch", target), session=False)
        caller.initialize("2025-03-26")
        batch = [
            request("ping", request_id=1),
            {**call_of("echo", text="a"), "id": 2},
            {"jsonrpc": "2.0", "method": "notifications/initialized"},
            {**call_of("status", status=503), "id": 3},
            {**call_of("stream", count=1), "id": "4"},
        ]
        told = {message["id"]: message for message in events_of(caller.send(body=batch).text)}
        assert told.keys() == {1, 2, 3, "4"}
        assert told[2]["result"]["content"][0]["text"] == "a"
        assert told[3]["error"]["code"] == -32603
        notes = [{"jsonrpc": "2.0", "method": "notifications/initialized"}]
        assert caller.send(body=notes).status_code == 202

    def test_there_are_none_in_other_revisions(self, world: World) -> None:
        caller = bridged(world, "to-modern-no-batch")
        assert error_of(caller.send(body=[request("ping")])) == (400, -32600)
