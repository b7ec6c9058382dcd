"""Streamable HTTP of 2025-03-26 to 2025-11-25: statuses, sessions, batches, as each revision wants them."""

from __future__ import annotations

import pytest

from hosting.dataplane.contract import b64url, unb64url
from tests.dataplane.harness import (
    OTHER_TENANT,
    World,
    call_of,
    error_of,
    next_event,
    request,
)

NOTIFICATION = {"jsonrpc": "2.0", "method": "notifications/initialized"}


class TestMessages:
    @pytest.mark.acceptance("S3.2")
    @pytest.mark.parametrize("revision", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
    def test_every_revision_is_negotiated_end_to_end(self, world: World, revision: str) -> None:
        caller = world.at(world.url(world.server("legacy-revisions")), world.key())
        response = caller.initialize(revision)
        assert response.json()["result"]["protocolVersion"] == revision
        assert caller.call("echo", text="hi").json()["result"]["content"][0]["text"] == "hi"
        assert world.standin.seen[-1]["headers"]["mcp-protocol-version"] == revision

    @pytest.mark.parametrize("message", [NOTIFICATION, {"jsonrpc": "2.0", "id": 7, "result": {}}])
    def test_a_notification_or_response_is_202_without_a_body(self, world: World, message: dict) -> None:
        response = world.caller(world.server("legacy-202")).send(body=message)
        assert response.status_code == 202
        assert response.content == b""

    def test_only_initialize_is_told_the_session_id(self, world: World) -> None:
        caller = world.at(
            world.url(world.server("legacy-once", world.target("scripted-stateful"))), world.key()
        )
        assert "mcp-session-id" in caller.initialize().headers
        assert "mcp-session-id" not in caller.call("echo").headers

    def test_initialize_may_be_answered_by_a_stream(self, world: World) -> None:
        caller = world.at(
            world.url(world.server("legacy-sse-init", world.target("scripted-stateful"))), world.key()
        )
        response = caller.initialize(_as="sse")
        assert response.headers["content-type"] == "text/event-stream"
        assert response.text.count("data: ") == 2
        assert caller.call("echo").status_code == 200

    def test_a_failed_initialize_opens_no_session(self, world: World) -> None:
        caller = world.at(world.url(world.server("legacy-init-fails")), world.key())
        response = caller.initialize("1999-01-01")
        assert error_of(response) == (502, -32603)
        assert "mcp-session-id" not in response.headers

    @pytest.mark.parametrize("version", ["2025-13-01", "1.0", ""])
    def test_an_unknown_protocol_version_is_400(self, world: World, version: str) -> None:
        response = world.caller(world.server("legacy-versions")).send(
            body=request("ping"), mcp_protocol_version=version
        )
        assert response.status_code == 400

    def test_an_error_of_the_server_is_an_answer(self, world: World) -> None:
        caller = world.caller(world.server("legacy-errors"))
        response = caller.call("status", status=200, error=[-32602, "no such city"])
        assert response.status_code == 200
        assert response.json()["error"] == {"code": -32602, "message": "no such city"}
        response = caller.call("status", status=400, error=[-32602, "no such city"])
        assert error_of(response) == (400, -32602)

    def test_a_404_that_is_not_about_the_session_does_not_end_it(self, world: World) -> None:
        caller = world.caller(world.server("legacy-404"))
        response = caller.send(body=request("no/such/method"))
        assert error_of(response) == (200, -32601)
        assert caller.call("echo").status_code == 200


class TestBatches:
    BATCH = [request("ping", request_id=1), NOTIFICATION, request("ping", request_id="two")]

    def test_a_batch_passes_in_the_revision_that_has_them(self, world: World) -> None:
        caller = world.at(world.url(world.server("legacy-batch")), world.key())
        caller.initialize("2025-03-26")
        response = caller.send(body=self.BATCH)
        assert [answer["id"] for answer in response.json()] == [1, "two"]
        assert caller.send(body=[NOTIFICATION, NOTIFICATION]).status_code == 202

    def test_a_batch_is_400_in_every_other(self, world: World) -> None:
        caller = world.caller(world.server("legacy-no-batch"))
        assert error_of(caller.send(body=self.BATCH)) == (400, -32600)
        assert error_of(caller.send(body=self.BATCH, mcp_protocol_version="2025-06-18")) == (400, -32600)

    @pytest.mark.parametrize(
        "batch",
        [
            [request("initialize"), request("ping", request_id=2)],
            [request("ping"), request("ping")],
            [request("ping", request_id=number) for number in range(101)],
        ],
    )
    def test_a_batch_that_is_no_batch_is_400(self, world: World, batch: list) -> None:
        caller = world.at(world.url(world.server("legacy-bad-batch")), world.key())
        caller.initialize("2025-03-26")
        assert error_of(caller.send(body=batch)) == (400, -32600)


class TestSessions:
    @pytest.mark.acceptance("S4.3")
    def test_the_servers_own_session_id_is_sealed_inside_ours(self, world: World) -> None:
        caller = world.caller(world.server("session-sealed", world.target("scripted-stateful")))
        ours = caller.headers["mcp-session-id"]
        assert ours.startswith("s1.s1.")
        assert len(ours) <= 512
        assert caller.call("echo").status_code == 200
        theirs = world.standin.seen[-1]["headers"]["mcp-session-id"]
        assert theirs.startswith("up-")
        assert theirs not in ours

    def test_a_request_without_the_id_is_400(self, world: World) -> None:
        caller = world.caller(world.server("session-missing"))
        caller.headers.pop("mcp-session-id")
        assert error_of(caller.call("echo")) == (400, -32600)
        assert error_of(caller.send("GET")) == (400, -32600)
        assert error_of(caller.send("DELETE")) == (400, -32600)
        assert world.standin.seen == []

    @pytest.mark.acceptance("P2", "S4.5")
    def test_an_id_that_is_not_the_callers_is_404_and_the_server_hears_nothing(self, world: World) -> None:
        route = world.server("session-strangers", world.target("scripted-stateful"))
        other = world.server("session-strangers", world.target("scripted-stateful"), tenant=OTHER_TENANT)
        staging = world.server("session-strangers", world.target("scripted-stateful"), environment="staging")
        key = world.key()
        caller = world.caller(route, key)
        good = caller.headers["mcp-session-id"]
        head, _, tail = good.rpartition(".")
        flipped = bytearray(unb64url(tail))
        flipped[20] ^= 1
        strangers = [
            world.caller(route, session=False),  # another key of the same tenant
            world.caller(staging, key, session=False),
            world.caller(other, session=False),
        ]
        for stranger in strangers:
            stranger.headers["mcp-session-id"] = good
            for method, body in (("POST", call_of("echo")), ("GET", None), ("DELETE", None)):
                assert error_of(stranger.send(method, body)) == (404, -32001)
        forgeries = [
            f"{head}.{b64url(bytes(flipped))}", good[:-1], good + "A", good.replace("s1.s1", "s1.s2"), good.replace("s1.", "s2.", 1),
            "up-1", "x" * 600, "s1.s1.", "s1", good.upper(),
        ]  # fmt: skip
        for forged in forgeries:
            caller.headers["mcp-session-id"] = forged
            assert error_of(caller.call("echo")) == (404, -32001), forged
        assert world.standin.seen == []
        caller.headers["mcp-session-id"] = good
        assert caller.call("echo").status_code == 200

    @pytest.mark.acceptance("S3.11")
    def test_delete_ends_the_session_here_and_at_the_server(self, world: World) -> None:
        caller = world.caller(world.server("session-ended", world.target("scripted-stateful")))
        assert caller.send("DELETE").status_code == 204
        assert world.standin.seen[-1]["method"] == "DELETE"
        world.standin.forget()
        for method in ("POST", "DELETE"):
            assert error_of(caller.send(method, call_of("echo"))) == (404, -32001)
        assert world.standin.seen == []

    def test_a_server_without_sessions_is_never_told_of_one(self, world: World) -> None:
        caller = world.caller(world.server("session-none"))
        assert caller.call("echo").status_code == 200
        assert caller.send("DELETE").status_code == 204
        assert [entry["method"] for entry in world.standin.seen] == ["POST"]
        assert "mcp-session-id" not in world.standin.seen[0]["headers"]

    def test_a_session_the_server_has_forgotten_is_404_where_it_may_not_be_healed(self, world: World) -> None:
        route = world.server("session-forgotten", world.target("scripted-stateful"), heals=False)
        caller = world.caller(route)
        caller.call("echo")
        assert world.standin.end_session(route, world.standin.seen[-1]["headers"]["mcp-session-id"]) == 200
        world.standin.forget()
        assert error_of(caller.call("echo")) == (404, -32001)
        assert error_of(caller.call("echo")) == (404, -32001)
        assert len(world.standin.seen) == 1  # the second was known to be over
        assert caller.initialize().status_code == 200
        assert caller.call("echo").status_code == 200

    def test_a_session_stays_with_its_release_while_that_is_a_target(self, world: World) -> None:
        old, new = world.target("scripted-old"), world.target("scripted-new")
        caller = world.caller(world.server("session-pinned", old))
        world.server("session-pinned", world.target("scripted-old", weight=0), new)
        caller.call("echo")
        assert world.standin.seen[-1]["script"] == "scripted-old"
        world.server("session-pinned", new)
        assert caller.call("echo").status_code == 200
        assert world.standin.seen[-1]["script"] == "scripted-new"

    def test_a_servers_session_goes_with_its_release_where_it_may_not_be_healed(self, world: World) -> None:
        caller = world.caller(world.server("session-gone", world.target("scripted-a-stateful"), heals=False))
        world.server("session-gone", world.target("scripted-b-stateful"), heals=False)
        assert error_of(caller.call("echo")) == (404, -32001)
        assert world.standin.seen == []


class TestListening:
    def test_a_server_without_a_stream_answers_405(self, world: World) -> None:
        response = world.caller(world.server("listen-none")).send("GET")
        assert response.status_code == 405
        assert "POST" in response.headers["allow"]

    @pytest.mark.acceptance("S4.4")
    def test_a_stream_is_resumed_where_the_server_can(self, world: World) -> None:
        caller = world.caller(world.server("listen-resume", world.target("scripted-stateful")))
        with caller.stream("GET") as response:
            assert response.status_code == 200
            assert response.headers["x-accel-buffering"] == "no"
            assert "no-store" in response.headers["cache-control"]
            lines = response.iter_lines()
            world.standin.go("get")
            first = next_event(lines)
        assert "ev 1" not in first["id"]  # the server's spelling stays behind
        with caller.stream("GET", last_event_id=first["id"]) as response:
            world.standin.go("get", 2)
            second = next_event(response.iter_lines())
        assert '"data": 2' in second["data"]
        assert world.standin.seen[-1]["headers"]["last-event-id"] == "ev 1"

    @pytest.mark.parametrize("last", ["ev 1", "u1.%%", "u1." + "A" * 600, "u1." + b64url(b"a\r\nx: y")])
    def test_an_event_id_that_is_not_ours_is_400(self, world: World, last: str) -> None:
        caller = world.caller(world.server("listen-bad-id", world.target("scripted-stateful")))
        assert error_of(caller.send("GET", last_event_id=last)) == (400, -32600)
        assert world.standin.seen == []

    def test_get_needs_to_accept_events(self, world: World) -> None:
        caller = world.caller(world.server("listen-accept", world.target("scripted-stateful")))
        assert error_of(caller.send("GET", accept="application/json")) == (406, -32600)
