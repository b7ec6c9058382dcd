"""What the conformance suite does not notice when a proxy breaks it, through the whole way: gateway, edge, dispatcher, Worker.

The gateway alone has tests of each in tests/dataplane; here nothing on the way may break it either.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.dataplane.harness import Caller, call_of, modern_request, request
from tests.waiting import wait_for

OUTLASTS_S = 4  # a stream that was cut after a second, or held back to its end, does not look like this


@pytest.fixture
def caller(everything: str) -> Iterator[Caller]:
    """With a legacy session."""
    with httpx.Client(timeout=30) as http:
        caller = Caller(http, everything)
        assert caller.initialize().status_code == 200
        yield caller


def messages(lines: Iterator[str]) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Of a stream: (event id, message)."""
    event_id = None
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "id":
            event_id = value
        elif name == "data" and value:
            yield event_id, json.loads(value)
            event_id = None


def modern_call(
    tool: str, token: str | None = None, **arguments: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    body, headers = modern_request("tools/call", {"name": tool, "arguments": arguments})
    if token is not None:
        body["params"]["_meta"]["progressToken"] = token
    return body, headers


def held(caller: Caller) -> dict[str, int]:
    """What the server counted of `test_hold`."""
    body, headers = modern_call("test_held")
    answer = caller.send(body=body, mcp_session_id=None, **headers).json()
    return dict(json.loads(answer["result"]["content"][0]["text"]))


def test_what_needs_no_answer_is_202_with_no_body(caller: Caller) -> None:
    answer = caller.send(body={"jsonrpc": "2.0", "method": "notifications/initialized"})
    assert (answer.status_code, answer.content) == (202, b"")
    answer = caller.send(body={"jsonrpc": "2.0", "id": "nobody asked", "result": {}})
    assert (answer.status_code, answer.content) == (202, b"")


@pytest.mark.acceptance("S0.5")
@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_a_stream_lasts_as_long_as_its_call_and_is_not_held_back(caller: Caller, era: str) -> None:
    if era == "modern":
        body, headers = modern_call("test_hold", "t", seconds=OUTLASTS_S)
        headers["mcp_session_id"] = None
    else:
        body, headers = call_of("test_hold", seconds=OUTLASTS_S), {}
        body["params"]["_meta"] = {"progressToken": "t"}
    arrived = []
    with caller.stream(body=body, **headers) as stream:
        for _, message in messages(stream.iter_lines()):
            arrived.append(message["params"]["progress"] if "method" in message else "answer")
            if arrived == [1]:
                assert held(caller)["started"] >= 1  # heard while the call is under way, not after it
    assert arrived == [1, 2, 3, 4, "answer"]


def test_a_modern_client_that_leaves_cancels_its_call_at_the_server(caller: Caller) -> None:
    before = held(caller)
    body, headers = modern_call("test_hold", "t", seconds=60)
    with caller.stream(body=body, mcp_session_id=None, **headers) as stream:
        next(messages(stream.iter_lines()))
    wait_for(lambda: held(caller)["cancelled"] > before["cancelled"], what="the server to hear of it")


def test_a_legacy_client_that_leaves_cancels_nothing(caller: Caller) -> None:
    before = held(caller)
    body = call_of("test_hold", seconds=2)
    body["params"]["_meta"] = {"progressToken": "t"}
    with caller.stream(body=body) as stream:
        event_id, _ = next(messages(stream.iter_lines()))
    with caller.stream("GET", last_event_id=event_id) as stream:
        assert "result" in [message for _, message in messages(stream.iter_lines())][-1]
    assert held(caller)["cancelled"] == before["cancelled"]


def test_get_opens_the_stream_that_carries_what_the_server_says_by_itself(caller: Caller) -> None:
    with caller.stream("GET") as stream:
        assert (stream.status_code, stream.headers["content-type"]) == (200, "text/event-stream")
        caller.call("test_trigger_tool_change")
        _, message = next(messages(stream.iter_lines()))
    assert message["method"] == "notifications/tools/list_changed"


def test_delete_ends_the_session(caller: Caller) -> None:
    assert caller.send("DELETE").status_code == 204
    assert caller.send(body=request("ping")).status_code == 404


@pytest.mark.acceptance("S4.4")
def test_event_ids_arrive_and_a_call_whose_stream_was_closed_is_answered_after_the_last_one(
    caller: Caller,
) -> None:
    with caller.stream(body=call_of("test_reconnection")) as stream:
        lines = [line.partition(": ") for line in stream.iter_lines()]
    event_id = next(value for name, _, value in lines if name == "id")
    with caller.stream("GET", last_event_id=event_id) as stream:
        _, message = next(messages(stream.iter_lines()))
    assert message["result"]["content"][0]["text"] == "told after the stream was closed"


def test_every_event_has_an_id_and_a_stream_goes_on_after_the_last_one_heard(caller: Caller) -> None:
    body = call_of("test_hold", seconds=3)
    body["params"]["_meta"] = {"progressToken": "t"}
    with caller.stream(body=body) as stream:
        first, message = next(messages(stream.iter_lines()))
    assert (bool(first), message["params"]["progress"]) == (True, 1)
    with caller.stream("GET", last_event_id=first) as stream:
        rest = list(messages(stream.iter_lines()))
    assert [message.get("params", {}).get("progress", "answer") for _, message in rest] == [2, 3, "answer"]
    ids = [first, *(event_id for event_id, _ in rest)]
    assert None not in ids
    assert len(set(ids)) == len(ids)
