"""MCP 2026-07-28: every request stands alone, headers and body agree, closing cancels."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.dataplane.harness import (
    MODERN,
    Caller,
    World,
    call_of,
    error_of,
    events_of,
    modern_request,
    next_event,
    request,
)
from tests.waiting import wait_for


def modern_caller(world: World, slug: str, *targets: Any, **more: Any) -> Caller:
    return world.at(world.url(world.server(slug, *targets, **more)), world.key())


def without(body: dict[str, Any], key: str) -> dict[str, Any]:
    meta = {name: value for name, value in body["params"]["_meta"].items() if not name.endswith(key)}
    return {**body, "params": {**body["params"], "_meta": meta}}


def test_a_request_passes_without_a_session_and_its_bytes_are_unchanged(world: World) -> None:
    caller = modern_caller(world, "modern-plain")
    response = caller.modern(
        "tools/call", {"name": "echo", "arguments": {"text": "hi"}}, mcp_param_region="eu"
    )
    assert response.status_code == 200
    assert "mcp-session-id" not in response.headers
    headers = world.standin.seen[-1]["headers"]
    assert headers["mcp-method"] == "tools/call"
    assert headers["mcp-name"] == "echo"
    assert headers["mcp-param-region"] == "eu"
    assert headers["mcp-protocol-version"] == MODERN


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_get_and_delete_are_405(world: World, method: str) -> None:
    response = modern_caller(world, "modern-405").send(method, mcp_protocol_version=MODERN)
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert world.standin.seen == []


class TestChecks:
    @pytest.mark.parametrize("key", ["protocolVersion", "clientCapabilities"])
    def test_a_missing_meta_is_minus_32602(self, world: World, key: str) -> None:
        body, headers = modern_request("tools/list")
        response = modern_caller(world, "modern-meta").send(body=without(body, key), **headers)
        assert error_of(response) == (400, -32602)
        assert response.json()["id"] == 1
        assert world.standin.seen == []

    @pytest.mark.parametrize(
        "wrong",
        [
            {"mcp_protocol_version": None},
            {"mcp_method": None},
            {"mcp_method": "tools/call"},
            {"mcp_method": "Tools/List"},
        ],
    )
    def test_a_header_that_disagrees_is_minus_32020(self, world: World, wrong: dict[str, Any]) -> None:
        body, headers = modern_request("tools/list")
        response = modern_caller(world, "modern-headers").send(body=body, **{**headers, **wrong})
        assert error_of(response) == (400, -32020)
        assert world.standin.seen == []

    @pytest.mark.parametrize("name", [None, "other", "=?base64?!!?=", "=?base64?ZWNobw?=", "ECHO"])
    def test_a_name_that_disagrees_is_minus_32020(self, world: World, name: str | None) -> None:
        response = modern_caller(world, "modern-names").modern("tools/call", {"name": "echo"}, mcp_name=name)
        assert error_of(response) == (400, -32020)

    def test_a_name_may_be_written_in_base64(self, world: World) -> None:
        encoded = base64.b64encode("écho".encode()).decode()
        body, headers = modern_request("tools/call", {"name": "écho"})
        response = modern_caller(world, "modern-base64").send(
            body=body, **{**headers, "mcp_name": f"=?base64?{encoded}?="}
        )
        assert "error" not in response.text or error_of(response) != (400, -32020)
        assert world.standin.seen[-1]["headers"]["mcp-name"] == f"=?base64?{encoded}?="

    def test_an_unknown_version_is_minus_32022_and_says_what_is_spoken(self, world: World) -> None:
        body, headers = modern_request("tools/list", revision="2027-01-01")
        response = modern_caller(world, "modern-version").send(body=body, **headers)
        assert error_of(response) == (400, -32022)
        data = response.json()["error"]["data"]
        assert data == {"requested": "2027-01-01", "supported": [MODERN]}  # as its discover says

    def test_a_legacy_server_declines_and_a_client_of_both_eras_falls_back(self, world: World) -> None:
        caller = modern_caller(
            world, "modern-declined", world.target("scripted", eras=("legacy",), issues_sessions=True)
        )
        response = caller.modern("server/discover")
        assert error_of(response) == (400, -32022)
        assert response.json()["error"]["data"]["supported"][-1] == "2025-11-25"
        assert caller.initialize().status_code == 200

    def test_the_order_is_meta_headers_version(self, world: World) -> None:
        caller = modern_caller(world, "modern-order")
        body, headers = modern_request("tools/list", revision="2027-01-01")
        assert error_of(caller.send(body=without(body, "clientCapabilities"), mcp_protocol_version="x")) == (
            400,
            -32602,
        )
        assert error_of(caller.send(body=body, **{**headers, "mcp_method": "x"})) == (400, -32020)
        assert error_of(caller.send(body=body, **headers)) == (400, -32022)

    def test_an_unknown_header_version_alone_is_modern(self, world: World) -> None:
        caller = modern_caller(world, "modern-by-header")
        assert error_of(caller.send(body=request("ping"), mcp_protocol_version=MODERN)) == (400, -32602)

    def test_meta_makes_even_initialize_modern(self, world: World) -> None:
        caller = modern_caller(world, "modern-initialize")
        response = caller.modern("initialize", {"protocolVersion": "2025-11-25"})
        assert "mcp-session-id" not in response.headers

    def test_batches_and_responses_are_400(self, world: World) -> None:
        caller = modern_caller(world, "modern-single")
        body, headers = modern_request("ping")
        assert error_of(caller.send(body=[body], **headers)) == (400, -32600)
        answer = {"jsonrpc": "2.0", "id": 1, "result": {}}
        assert error_of(caller.send(body=answer, mcp_protocol_version=MODERN)) == (400, -32600)

    def test_a_notification_is_202(self, world: World) -> None:
        caller = modern_caller(world, "modern-notify")
        message = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
        assert caller.send(body=message, mcp_protocol_version=MODERN).status_code == 202
        assert error_of(caller.send(body=message, mcp_protocol_version="2027-01-01")) == (400, -32022)


def test_an_unknown_method_keeps_the_servers_404(world: World) -> None:
    assert error_of(modern_caller(world, "modern-404").modern("no/such")) == (404, -32601)


@pytest.mark.parametrize(("status", "code"), [(400, -32602), (400, -32021), (404, -32601), (200, -32603)])
def test_an_error_of_the_server_passes_with_its_status(world: World, status: int, code: int) -> None:
    arguments = {"status": status, "error": [code, "told by the server"]}
    response = modern_caller(world, "modern-errors").modern(
        "tools/call", {"name": "status", "arguments": arguments}
    )
    assert error_of(response) == (status, code)


class TestClosing:
    def test_closing_a_stream_cancels_it_at_the_server(self, world: World) -> None:
        caller = modern_caller(world, "modern-close")
        arguments = {"count": 1000, "permit": "modern-close"}
        body, headers = modern_request("tools/call", {"name": "stream", "arguments": arguments})
        with caller.stream(body=body, **headers) as response:
            world.standin.go("modern-close")
            assert next_event(response.iter_lines())
        wait_for(lambda: world.standin.seen[-1].get("disconnected"), 5, what="the server to be told")
        assert "finished" not in world.standin.seen[-1]

    def test_closing_before_any_answer_cancels_it_too(self, world: World) -> None:
        caller = modern_caller(world, "modern-hang")
        body, headers = modern_request("tools/call", {"name": "hang"})
        content, sent = caller._prepare(body, headers)
        with world.http.__class__(timeout=0.5) as impatient, pytest.raises(Exception, match="timed out"):
            impatient.post(caller.url, content=content, headers=sent)
        wait_for(lambda: world.standin.seen[-1].get("disconnected"), 5, what="the server to be told")

    def test_a_listening_client_that_leaves_is_told_too(self, world: World) -> None:
        caller = modern_caller(world, "modern-listen")
        body, headers = modern_request("subscriptions/listen", {"notifications": {}})
        with caller.stream(body=body, **headers) as response:
            assert next_event(response.iter_lines())
        wait_for(lambda: world.standin.seen[-1].get("disconnected"), 5, what="the server to be told")


def test_event_ids_do_not_exist(world: World) -> None:
    caller = modern_caller(world, "modern-no-ids")
    arguments = {"count": 2, "id": "ev-{}"}
    body, headers = modern_request("tools/call", {"name": "stream", "arguments": arguments})
    response = caller.send(body=body, **headers)
    assert "id: " not in response.text
    assert len(events_of(response.text)) == 3


def test_a_legacy_call_next_to_it_still_needs_its_session(world: World) -> None:
    assert error_of(modern_caller(world, "modern-both").send(body=call_of("echo"))) == (400, -32600)
