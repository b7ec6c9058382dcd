"""Servers that fail, lie, drip, or never answer: an honest error for their callers, nothing for their neighbours."""

from __future__ import annotations

import json
import time

import psutil
import pytest

from hosting.dataplane.contract import Dispatch, Limits, Target
from tests.dataplane.harness import AUDIENCE, Caller, World, call_of, error_of, modern_request
from tests.parts import free_port
from tests.waiting import wait_for

RESULT = b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
EVENTS_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


class TestRefusals:
    """A modern call, so that a broken server needs no session first; statuses are the same in the legacy era."""

    def call(self, world: World, slug: str, **arguments: object) -> object:
        caller = world.at(world.url(world.server(slug)), world.key())
        return caller.modern("tools/call", {"name": "status", "arguments": arguments})

    @pytest.mark.acceptance("S4.19")
    @pytest.mark.parametrize("status", [401, 403])
    def test_a_servers_401_never_becomes_a_clients(self, world: World, status: int) -> None:
        told = [
            ["www-authenticate", 'Bearer resource_metadata="https://evil.example/"'],
            ["location", "https://evil.example/"],
        ]
        for caller in (
            world.caller(world.server("behind-denied")),
            world.at(world.url(world.server("behind-denied")), world.key()),
        ):
            arguments = {"status": status, "headers": told, "error": [-32000, "https://evil.example"]}
            if "mcp-session-id" in caller.headers:
                response = caller.call("status", **arguments)
            else:
                response = caller.modern("tools/call", {"name": "status", "arguments": arguments})
            assert error_of(response) == (502, -32603)
            assert response.json()["id"] == 1
            assert "evil" not in str(response.headers) + response.text

    @pytest.mark.parametrize("status", [500, 502, 503, 599])
    def test_a_servers_5xx_is_502(self, world: World, status: int) -> None:
        caller = world.caller(world.server("behind-5xx"))
        response = caller.call("status", status=status, body="a stack trace")
        assert error_of(response) == (502, -32603)
        assert response.json()["error"]["data"] == {"status": status}
        assert "stack trace" not in response.text

    @pytest.mark.parametrize("status", [301, 307, 308])
    def test_a_redirect_is_not_followed(self, world: World, status: int) -> None:
        caller = world.caller(world.server("behind-redirect"))
        response = caller.call("status", status=status, headers=[["location", world.standin.url + "/mcp"]])
        assert error_of(response) == (502, -32603)
        assert len(world.standin.seen) == 1

    @pytest.mark.parametrize(
        ("marker", "status", "expected"),
        [
            ("not-found", 404, 502),
            ("exception", 502, 502),
            ("limits", 503, 503),
            ("limits", 429, 429),
            ("anything", 500, 502),
        ],
    )
    def test_the_dispatchers_errors_are_told_apart(
        self, world: World, marker: str, status: int, expected: int
    ) -> None:
        caller = world.caller(world.server("behind-dispatch"))
        response = caller.call(
            "status", status=status, headers=[["smcp-dispatch-error", marker], ["retry-after", "7"]]
        )
        assert error_of(response) == (expected, -32603)
        assert response.headers.get("retry-after") == "7"

    @pytest.mark.acceptance("S4.19")
    def test_what_a_servers_code_threw_is_for_its_tenant_and_never_for_its_callers(
        self, world: World
    ) -> None:
        caller = world.caller(world.server("behind-threw"))
        told = [["smcp-dispatch-error", "exception"], ["smcp-dispatch-message", "hunter2"]]
        response = caller.call("status", status=502, headers=told, body="hunter2")
        assert error_of(response) == (502, -32603)
        assert "hunter2" not in response.text + str(response.headers)
        passing = caller.call("echo", headers=[["smcp-dispatch-message", "hunter2"]])
        assert passing.status_code == 200
        assert "hunter2" not in passing.text + str(passing.headers)

    @pytest.mark.acceptance("S2.10")
    def test_a_servers_429_keeps_its_retry_after_within_reason(self, world: World) -> None:
        caller = world.caller(world.server("behind-429"))
        for given, kept in (
            ("7", "7"),
            ("99999", "3600"),
            ("Fri, 31 Dec 1999 23:59:59 GMT", None),
            ("7\u00b2", None),
        ):
            told = [["retry-after", given]] if given.isascii() else []
            response = caller.call("status", status=429, error=[-32000, "slow down"], headers=told)
            assert response.status_code == 429
            assert response.headers.get("retry-after") == kept

    @pytest.mark.parametrize(
        "arguments",
        [
            {"status": 200, "body": "hello", "content_type": "text/plain"},
            {"status": 200, "body": "{}"},
            {"status": 200, "body": "{"},
            {"status": 200, "body": '{"jsonrpc":"2.0","id":2,"result":{}}'},
            {"status": 200, "body": '{"jsonrpc":"2.0","id":"1","result":{}}'},
            {"status": 200, "body": ""},
            {"status": 202, "body": ""},
            {"status": 204, "body": ""},
            {"status": 418, "body": "teapot", "content_type": "text/html"},
            {
                "status": 200,
                "body": '{"jsonrpc":"2.0","id":1,"result":{}}',
                "headers": [["content-encoding", "gzip"]],
            },
        ],
    )
    def test_an_answer_that_is_not_mcp_is_502(self, world: World, arguments: dict) -> None:
        for caller in (
            world.caller(world.server("behind-nonsense")),
            world.at(world.url(world.server("behind-nonsense")), world.key()),
        ):
            if "mcp-session-id" in caller.headers:
                response = caller.call("status", **arguments)
            else:
                response = caller.modern("tools/call", {"name": "status", "arguments": arguments})
            assert error_of(response) == (502, -32603)
            assert response.json()["id"] == 1

    def test_a_script_that_is_not_there_is_502(self, world: World) -> None:
        caller = world.at(world.url(world.server("behind-missing", world.target("nowhere"))), world.key())
        response = caller.initialize()
        assert error_of(response) == (502, -32603)
        assert "code" in response.json()["error"]["message"]

    def test_a_server_nobody_listens_for_is_502(self, world: World) -> None:
        dispatch = Dispatch(url=f"http://127.0.0.1:{free_port()}", audience=AUDIENCE)
        caller = world.at(world.url(world.server("behind-refused", dispatch=dispatch)), world.key())
        assert error_of(caller.initialize()) == (502, -32603)

    def test_an_assertion_for_another_audience_is_not_believed(self, world: World) -> None:
        dispatch = Dispatch(url=world.standin.url, audience="somebody-else")
        caller = world.at(world.url(world.server("behind-audience", dispatch=dispatch)), world.key())
        assert error_of(caller.initialize()) == (502, -32603)
        assert world.standin.seen == []


@pytest.mark.acceptance("S4.30")
def test_an_answer_over_the_bound_is_502(world: World) -> None:
    caller = world.caller(world.server("behind-big", limits=Limits(response_bytes=10_000)))
    assert error_of(caller.call("big", size=20_000)) == (502, -32603)
    assert caller.call("big", size=5_000).status_code == 200


def test_a_large_answer_passes_whole(world: World) -> None:
    caller = world.caller(world.server("behind-large"))
    response = caller.call("big", size=3_000_000)
    assert len(response.json()["result"]["content"][0]["text"]) == 3_000_000


def test_a_server_that_hangs_is_given_up_and_its_neighbours_answer_meanwhile(world: World) -> None:
    caller = world.caller(world.server("behind-hang", limits=Limits(answer_timeout_s=1.0)))
    neighbour = world.caller(world.server("behind-neighbour"))
    with caller.stream(body=call_of("hang")) as response:
        assert neighbour.call("echo").status_code == 200
        response.read()
    assert error_of(response) == (504, -32603)
    wait_for(lambda: world.standin.seen[0].get("disconnected"), 5, what="the server to be let go")


class TestLies:
    """Bytes as a broken or hostile server might send them."""

    def caller(self, world: World, slug: str, **limits: float) -> Caller:
        route = world.server(
            slug,
            Target(script="broken", release="r", weight=10_000),
            dispatch=world.standin.raw_dispatch,
            limits=Limits(**limits),  # type: ignore[arg-type]
        )
        return world.at(world.url(route), world.key())

    @pytest.mark.parametrize(
        "told",
        [
            b"",
            b"nonsense\r\n\r\n",
            HEAD + b"content-length: 1000\r\n\r\n" + RESULT,
            HEAD + b"content-length: 10\r\ncontent-length: 49\r\n\r\n" + RESULT,
            HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n" + RESULT,
            HEAD + b"transfer-encoding: chunked\r\n\r\n10\r\n" + RESULT[:16],
            HEAD + b"x: " + b"y" * 100_000 + b"\r\n\r\n" + RESULT,
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: -1\r\n\r\n" + RESULT,
        ],
    )  # fmt: skip
    def test_broken_http_is_an_error_and_never_an_answer(self, world: World, told: bytes) -> None:
        world.standin.answer_raw(told)
        caller = self.caller(world, "lies-http", answer_timeout_s=3)
        response = caller.modern("tools/call", {"name": "x"})
        assert response.status_code in {502, 504}
        assert error_of(response)[1] == -32603

    def test_white_space_around_a_headers_value_is_no_part_of_it(self, world: World) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type:  application/json \t\r\n"
        world.standin.answer_raw(
            head + b"content-length: " + str(len(RESULT)).encode() + b"\r\n\r\n" + RESULT
        )
        assert self.caller(world, "lies-blank").modern("tools/call", {"name": "x"}).content == RESULT

    def test_an_answer_that_drips_is_given_up(self, world: World) -> None:
        world.standin.answer_raw(HEAD + b"content-length: 1000\r\n\r\n{", stays_open=True)
        caller = self.caller(world, "lies-drip", answer_timeout_s=1)
        assert error_of(caller.modern("tools/call", {"name": "x"})) == (504, -32603)

    @pytest.mark.acceptance("S0.35")
    def test_a_call_that_may_have_run_is_not_sent_twice(self, world: World) -> None:
        world.standin.answer_raw(b"")
        caller = self.caller(world, "lies-once")
        assert error_of(caller.modern("tools/call", {"name": "x"})) == (502, -32603)
        assert len(world.standin.raw_seen) == 1

    @pytest.mark.acceptance("S0.35")
    def test_what_only_reads_is_sent_twice(self, world: World) -> None:
        world.standin.answer_raw(b"")
        caller = self.caller(world, "lies-twice")
        assert error_of(caller.modern("tools/list")) == (502, -32603)
        assert len(world.standin.raw_seen) == 2

    def test_a_server_cannot_smuggle_a_second_answer(self, world: World) -> None:
        second = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 3\r\n\r\n666"
        length = str(len(RESULT)).encode()
        world.standin.answer_raw(
            HEAD + b"content-length: " + length + b"\r\n\r\n" + RESULT + second, stays_open=True
        )
        caller = self.caller(world, "lies-second", answer_timeout_s=2)
        for _ in range(3):
            response = caller.modern("tools/call", {"name": "x"})
            assert "666" not in response.text
            assert response.content == RESULT or response.status_code in {502, 504}

    def test_an_event_that_never_ends_is_cut(self, world: World) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
        world.standin.answer_raw(head + b"data: " + b"x" * 200_000, stays_open=True)
        caller = self.caller(world, "lies-event", event_bytes=50_000)
        body, headers = modern_request("tools/call", {"name": "x"})
        response = caller.send(body=body, **headers)
        assert json.loads(response.text.split("data: ")[1])["error"]["code"] == -32603
        assert len(response.content) < 1000

    @pytest.mark.acceptance("S4.19")
    @pytest.mark.parametrize("event", [b"data: x\n\n", b'data: {"jsonrpc":"2.0","method":"a"}\n\n'])
    def test_a_flood_of_events_leaves_the_gateway_to_others(self, world: World, event: bytes) -> None:
        flood = event * (2_000_000 // len(event))
        world.standin.answer_raw(EVENTS_HEAD + flood)
        caller = self.caller(world, "lies-flood")
        gateway = psutil.Process(world.gateway.pid)
        body, headers = modern_request("tools/call", {"name": "x"})
        used, began = gateway.cpu_times(), time.monotonic()
        answer = caller.send(body=body, **headers)
        took_s = time.monotonic() - began
        assert json.loads(answer.text.rstrip().rpartition("data: ")[2])["error"]["code"] == -32603
        now = gateway.cpu_times()
        assert (now.user - used.user) / took_s < 0.5

    @pytest.mark.acceptance("S4.19")
    def test_what_comes_before_the_answer_to_initialize_is_bounded(self, world: World) -> None:
        event = b'data: {"jsonrpc":"2.0","method":"a"}\n\n'
        world.standin.answer_raw(EVENTS_HEAD + event * 2000, stays_open=True)
        caller = self.caller(world, "lies-initialize", event_bytes=100_000)
        assert error_of(caller.initialize()) == (502, -32603)
