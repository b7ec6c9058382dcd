"""What the gateway lets through its door, before any server hears of it: addresses, hosts, Origins, methods, headers, sizes."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from hosting.dataplane.contract import Limits
from tests.dataplane.harness import World, call_of, error_of, request


@pytest.mark.acceptance("S4.2")
def test_a_server_answers_at_its_path_with_and_without_its_environment(world: World) -> None:
    route = world.server("door-paths")
    key = world.key()
    for path in ("/acme/door-paths/mcp", "/acme/door-paths~production/mcp"):
        assert world.at(world.gateway.url + path, key).initialize().status_code == 200
    staging = world.server("door-paths", environment="staging")
    assert world.at(world.url(staging), key).initialize().status_code == 200
    assert route.environment != staging.environment


def test_a_server_answers_on_hosts_of_its_own(world: World) -> None:
    world.server("door-hosts")
    world.server("door-hosts", environment="staging")
    key = world.key()
    for host in (
        "door-hosts--acme.mcp.test",
        "door-hosts--production--acme.mcp.test",
        "DOOR-hosts--staging--acme.mcp.test:8080",
    ):
        assert world.at(f"{world.gateway.url}/mcp", key, host=host).initialize().status_code == 200, host
        other = world.at(f"{world.gateway.url}/acme/door-hosts/mcp", key, host=host)
        assert error_of(other.initialize()) == (404, -32000), host


@pytest.mark.acceptance("S2.40")
@pytest.mark.parametrize(
    "path",
    ["/", "/mcp", "/acme/nobody/mcp", "/acme/door-unknown/mcp/", "/acme//door-unknown/mcp", "/acme/door-unknown", "/acme/door%2Dunknown/mcp",
     "/x/../acme/door-unknown/mcp", "/acme/door-unknown~nowhere/mcp", "/readyz", "/metrics", "/healthz"],
)  # fmt: skip
def test_an_unknown_address_is_404(world: World, path: str) -> None:
    if "door-unknown" not in world.routes:
        world.server("door-unknown")
    raw = send_raw(world, f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 0\r\n\r\n".encode())
    assert raw.startswith(b"HTTP/1.1 404")
    assert b'"code":-32000' in raw


@pytest.mark.parametrize(
    "host", ["evil.example", "mcp.test.evil.example", "a.b.mcp.test", "nobody:x", "", ".mcp.test"]
)
def test_a_host_that_is_not_ours_is_421(world: World, host: str) -> None:
    raw = send_raw(world, f"GET /acme/x/mcp HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
    assert raw.startswith(b"HTTP/1.1 421")


def test_an_unknown_server_on_our_domain_is_404(world: World) -> None:
    caller = world.at(f"{world.gateway.url}/mcp", host="nobody--acme.mcp.test")
    assert error_of(caller.initialize()) == (404, -32000)


def test_a_route_without_targets_says_that_nothing_is_deployed(world: World) -> None:
    route = world.server("door-empty", world.target(weight=0))
    response = world.at(world.url(route), world.key()).initialize()
    assert error_of(response) == (503, -32603)
    assert int(response.headers["retry-after"]) > 0


def test_a_route_that_is_gone_is_404(world: World) -> None:
    route = world.server("door-gone")
    caller = world.caller(route)
    gone = type(route)(
        **{
            name: getattr(route, name)
            for name in route.__struct_fields__
            if name not in {"version", "is_gone"}
        },
        version=world.publisher.next_version("route"),
        is_gone=True,
    )
    world.publisher.publish(gone)
    world.settle()
    assert error_of(caller.call("echo")) == (404, -32000)


class TestOrigin:
    @pytest.mark.acceptance("S2.38")
    @pytest.mark.parametrize(
        "origin",
        ["https://evil.example", "null", "http://127.0.0.1.evil.example", "https://claude.ai.evil.example"],
    )
    def test_a_strange_origin_is_403_and_the_server_hears_nothing(self, world: World, origin: str) -> None:
        caller = world.caller(world.server("door-origin"))
        assert error_of(caller.send(body=call_of("echo"), origin=origin)) == (403, -32000)
        assert world.standin.seen == []

    @pytest.mark.acceptance("S2.36")
    @pytest.mark.parametrize(
        "origin", ["https://claude.ai", "http://localhost:6274", "https://listed.example"]
    )
    def test_a_known_origin_is_let_in_and_never_sent_on(self, world: World, origin: str) -> None:
        caller = world.caller(world.server("door-origins", allowed_origins=("https://listed.example",)))
        response = caller.send(body=call_of("echo", text="hi"), origin=origin)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == origin
        assert "mcp-session-id" in response.headers["access-control-expose-headers"].lower()
        assert "origin" not in world.standin.seen[-1]["headers"]

    def test_the_hosts_own_origin_is_let_in(self, world: World) -> None:
        world.server("door-self")
        caller = world.at(f"{world.gateway.url}/mcp", world.key(), host="door-self--acme.mcp.test")
        caller.headers["origin"] = "http://door-self--acme.mcp.test"
        assert caller.initialize().status_code == 200

    @pytest.mark.acceptance("S2.37")
    def test_a_preflight_is_answered_without_a_key(self, world: World) -> None:
        caller = world.at(world.url(world.server("door-preflight")))
        response = caller.send(
            "OPTIONS", origin="https://claude.ai", access_control_request_headers="mcp-param-region, x-evil"
        )
        assert response.status_code == 204
        allowed = response.headers["access-control-allow-headers"].lower()
        assert "mcp-protocol-version" in allowed
        assert "mcp-param-region" in allowed
        assert "x-evil" not in allowed

    def test_a_browser_can_read_a_refusal(self, world: World) -> None:
        caller = world.at(world.url(world.server("door-readable")))
        response = caller.send(body=request("ping"), origin="https://claude.ai")
        assert response.status_code == 401
        assert response.headers["access-control-allow-origin"] == "https://claude.ai"


class TestRequest:
    @pytest.mark.parametrize("method", ["PUT", "PATCH", "HEAD", "TRACE"])
    def test_a_method_of_no_revision_is_405(self, world: World, method: str) -> None:
        response = world.caller(world.server("door-methods")).send(method)
        assert response.status_code == 405
        assert "POST" in response.headers["allow"]

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"content_type": "text/plain"}, 415),
            ({"content_type": None}, 415),
            ({"accept": "application/json"}, 406),
            ({"accept": "text/event-stream"}, 406),
            ({"accept": "*/*"}, 200),
            ({"accept": "application/*, text/*;q=0.5"}, 200),
            ({"accept": "text/event-stream, application/json; charset=utf-8"}, 200),
            ({"content_type": "application/json; charset=utf-8"}, 200),
        ],
    )
    def test_content_type_and_accept_are_judged_as_http_means_them(
        self, world: World, headers: dict[str, Any], status: int
    ) -> None:
        caller = world.caller(world.server("door-accept"))
        assert caller.send(body=call_of("echo"), **headers).status_code == status

    @pytest.mark.acceptance("S4.30")
    def test_a_request_over_the_bound_is_413_however_its_length_is_told(self, world: World) -> None:
        caller = world.caller(world.server("door-large", limits=Limits(request_bytes=2000)))
        body = call_of("echo", text="x" * 3000)
        assert error_of(caller.send(body=body)) == (413, -32600)
        chunked = caller.http.post(
            caller.url, content=iter([b'{"jsonrpc":"2.0",' * 100, b"x" * 3000]), headers=caller.headers
        )
        assert error_of(chunked) == (413, -32600)
        assert caller.call("echo", text="x" * 1500).status_code == 200
        assert [entry["method"] for entry in world.standin.seen] == ["POST"]

    @pytest.mark.parametrize(
        "name",
        [
            "authorization",
            "mcp-session-id",
            "mcp-protocol-version",
            "last-event-id",
            "content-type",
            "mcp-param-x",
        ],
    )
    def test_a_header_that_must_stand_once_is_refused_twice(self, world: World, name: str) -> None:
        caller = world.caller(world.server("door-twice"))
        caller.headers.setdefault(name, "x")
        headers = [*caller.headers.items(), (name.title(), caller.headers[name])]
        response = caller.http.post(caller.url, json=call_of("echo"), headers=headers)
        assert error_of(response) == (400, -32600)
        assert world.standin.seen == []

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            (b"", -32700),
            (b"{", -32700),
            (b"\xff\xfe{}", -32700),
            (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":NaN}}', -32700),
            (
                b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":'
                + b"[" * 100_000
                + b"]" * 100_000
                + b"}}",
                -32700,
            ),
            (b'{"jsonrpc":"2.0","id":1,"method":"ping"} {}', -32700),
            (b"[]", -32600),
            (b'"ping"', -32600),
            (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600),
            (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600),
            (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600),
            (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600),
            (b'{"jsonrpc":"2.0","id":1,"method":7}', -32600),
            (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', -32600),
            (b'{"jsonrpc":"2.0","id":1,"result":{},"error":{}}', -32600),
            (b'{"jsonrpc":"2.0","id":1}', -32600),
            (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}', -32600),
            (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}', -32600),
            (
                b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"x":1,"x":2}}}',
                -32600,
            ),
        ],
    )
    def test_a_body_two_readers_could_read_differently_is_400(
        self, world: World, body: bytes, code: int
    ) -> None:
        caller = world.caller(world.server("door-bodies"))
        assert error_of(caller.send(body=body)) == (400, code)
        assert world.standin.seen == []

    def test_a_repeated_key_deep_inside_arguments_is_the_tools_business(self, world: World) -> None:
        caller = world.caller(world.server("door-deep"))
        body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"hi","x":{"y":1,"y":2}}}}'
        assert caller.send(body=body).status_code == 200
        assert world.standin.seen[-1]["body"].encode() == body  # not a byte of it changed


def send_raw(world: World, data: bytes, *, until_closed: bool = False) -> bytes:
    """Bytes as they are, to the gateway; what it said first, or all it said."""
    with socket.create_connection(("127.0.0.1", world.gateway.port), timeout=10) as connection:
        connection.sendall(data)
        answer = connection.recv(65536)
        while until_closed and (more := connection.recv(65536)):
            answer += more
        return answer
