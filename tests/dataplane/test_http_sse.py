"""MCP 2024-11-05 over HTTP+SSE: one stream for everything, one address to post to, in front of today's servers."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest
from mcp.client.session import ClientSession
from mcp.client.sse import sse_client

from hosting.dataplane.contract import Credential, Limits, Revocation, Route, SessionReport, digest_of_key
from tests.clients import ClientName, call_tool, list_resources, list_tools, talk, text_of, tool_names
from tests.dataplane.harness import (
    DOMAIN,
    TENANT,
    GatewayProcess,
    Publisher,
    RedisProcess,
    StandInProcess,
    World,
    call_of,
    error_of,
    next_event,
    request,
)
from tests.waiting import wait_for

INITIALIZE = {
    "protocolVersion": "2024-11-05",
    "capabilities": {},
    "clientInfo": {"name": "old", "version": "1"},
}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}


@pytest.fixture(scope="module")
def knobs() -> dict[str, str]:
    return {"keepalive_s": "0.5", "stalled_client_s": "3"}


class OldClient:
    """An HTTP+SSE client of few words."""

    def __init__(
        self, http: httpx.Client, base: str, key: str, lines: Iterator[str], *, host: str = ""
    ) -> None:
        self.http = http
        self.base = base
        self.lines = lines
        self.headers = {"authorization": f"Bearer {key}", **({"host": host} if host else {})}
        first = next_event(lines)
        assert first["event"] == "endpoint"
        self.endpoint = first["data"]

    def post(self, body: Any, *, base: str = "", **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json", **self.headers, **headers}
        return self.http.post((base or self.base) + self.endpoint, content=content, headers=sent)

    def heard(self) -> dict[str, Any]:
        event = next_event(self.lines)
        assert event["event"] == "message"
        message: dict[str, Any] = json.loads(event["data"])
        return message

    def ask(self, body: dict[str, Any], *, base: str = "") -> dict[str, Any]:
        assert self.post(body, base=base).status_code == 202
        return self.heard()

    def initialize(self) -> dict[str, Any]:
        answer = self.ask(request("initialize", INITIALIZE))
        assert self.post(INITIALIZED).status_code == 202
        return answer


@contextlib.contextmanager
def connected(
    world: World, route: Route, key: str = "", *, path: str = "/sse", base: str = "", host: str = ""
) -> Iterator[OldClient]:
    key = key or world.key(tenant=route.tenant)
    base = base or world.gateway.url
    place = path if host else f"/{route.tenant_slug}/{route.server_slug}{path}"
    headers = {
        "authorization": f"Bearer {key}",
        "accept": "text/event-stream",
        **({"host": host} if host else {}),
    }
    with world.http.stream("GET", base + place, headers=headers) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"] == "text/event-stream"
        yield OldClient(world.http, base, key, response.iter_lines(), host=host)


class TestConversation:
    @pytest.mark.acceptance("S3.1", "S3.12")
    def test_everything_comes_on_the_one_stream(self, world: World) -> None:
        route = world.server("old", world.target("scripted-stateful"))
        with connected(world, route) as client:
            assert client.endpoint.startswith("/acme/old/sse/s1.")
            answer = client.initialize()
            assert answer["result"]["protocolVersion"] == "2024-11-05"
            assert client.ask(call_of("echo", text="hi\nho"))["result"]["content"][0]["text"] == "hi\nho"
            world.standin.go("get", 2)  # what the server says by itself, on its own stream
            assert [client.heard()["params"]["data"] for _ in range(2)] == [1, 2]
            assert client.post(call_of("stream", count=3)).status_code == 202
            heard = [client.heard() for _ in range(4)]
            assert [told.get("method", "answer") for told in heard] == ["notifications/progress"] * 3 + [
                "answer"
            ]
        seen = world.standin.seen
        assert {entry["headers"].get("mcp-session-id") for entry in seen[1:]} == {
            seen[1]["headers"]["mcp-session-id"]
        }
        assert client.endpoint.rpartition("/")[2] not in world.gateway.log

    def test_several_calls_are_answered_as_they_are_done(self, world: World) -> None:
        with connected(world, world.server("old-many", world.target("scripted-stateful"))) as client:
            client.initialize()
            client.post(request("tools/call", {"name": "wait", "arguments": {"permit": "old"}}, request_id=1))
            client.post(request("tools/call", {"name": "echo", "arguments": {}}, request_id=2))
            assert client.heard()["id"] == 2
            world.standin.go("old")
            assert client.heard()["id"] == 1

    def test_what_was_notified_first_arrives_first(self, world: World) -> None:
        with connected(world, world.server("old-order", world.target("scripted-stateful"))) as client:
            client.ask(request("initialize", INITIALIZE))
            for number in range(20):
                client.post({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"at": number}})
                client.ask(request("ping", request_id=number))
        bodies = [json.loads(entry["body"]) for entry in world.standin.seen if entry["body"]]
        order = [told["params"].get("at", told.get("id")) for told in bodies[1:]]
        assert order == [number for number in range(20) for _ in range(2)]

    def test_a_large_answer_is_one_event(self, world: World) -> None:
        with connected(world, world.server("old-large")) as client:
            client.initialize()
            answer = client.ask(call_of("big", size=3_000_000))
            assert len(answer["result"]["content"][0]["text"]) == 3_000_000
            assert client.ask(request("ping"))["result"] == {}

    def test_answers_to_what_the_server_asks_go_up(self, world: World) -> None:
        with connected(world, world.server("old-answers", world.target("scripted-stateful"))) as client:
            client.initialize()
            answer = {"jsonrpc": "2.0", "id": "from-server", "result": {"roots": []}}
            assert client.post(answer).status_code == 202
            wait_for(
                lambda: any("from-server" in entry.get("body", "") for entry in world.standin.seen),
                10,
                what="the answer to arrive",
            )

    def test_a_servers_own_host_has_it_too(self, world: World) -> None:
        route = world.server("old-host")
        with connected(world, route, host=f"old-host--acme.{DOMAIN}") as client:
            assert client.endpoint.startswith("/sse/s1.")
            client.initialize()
            assert client.ask(request("ping"))["result"] == {}

    def test_an_errors_id_is_the_requests(self, world: World) -> None:
        with connected(world, world.server("old-errors")) as client:
            client.initialize()
            told = client.ask(
                request("tools/call", {"name": "status", "arguments": {"status": 500}}, request_id="x")
            )
            assert (told["id"], told["error"]["code"]) == ("x", -32603)
            told = client.ask(request("nonsense", request_id=7))
            assert (told["id"], told["error"]["code"]) == (7, -32601)
            told = client.ask(
                request("ping", {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}})
            )
            assert told["error"]["code"] == -32022
            assert "2024-11-05" in told["error"]["data"]["supported"]

    def test_before_initialize_an_error_says_so(self, world: World) -> None:
        with connected(world, world.server("old-early")) as client:
            assert client.ask(call_of("echo"))["error"]["code"] == -32600
        assert world.standin.seen == []

    def test_a_stream_that_is_silent_gets_comments(self, world: World) -> None:
        with connected(world, world.server("old-silent")) as client:
            assert [next(client.lines) for _ in range(2)] == [": keep-alive", ""]


class TestTheEnd:
    def test_the_streams_end_ends_the_session_here_and_at_the_server(self, world: World) -> None:
        route = world.server("old-end", world.target("scripted-stateful"))
        ended = world.gateway.metric("smcp_gateway_sessions_ended_total")
        with connected(world, route) as client:
            client.initialize()
        wait_for(lambda: [entry["method"] for entry in world.standin.seen][-1] == "DELETE", 10, what="DELETE")
        assert world.gateway.metric("smcp_gateway_sessions_ended_total") == ended + 1
        assert error_of(client.post(request("ping"))) == (404, -32001)

    @pytest.mark.acceptance("S3.12")
    def test_a_session_named_in_the_path_goes_on_and_stays(self, world: World) -> None:
        route = world.server("old-adopted", world.target("scripted-stateful"))
        caller = world.caller(route)
        session = caller.headers["mcp-session-id"]
        key = caller.headers["authorization"].removeprefix("Bearer ")
        with connected(world, route, key, path=f"/sse/{session}") as client:
            assert client.ask(request("ping"))["result"] == {}
            world.standin.go("get")
            assert client.heard()["params"]["data"] == 1
        assert caller.send(body=request("ping")).status_code == 200
        for path, other in ((f"/sse/{session}", world.key()), ("/sse/s1.k1.forged", key)):
            headers = {"authorization": f"Bearer {other}"}
            answer = world.http.get(f"{world.gateway.url}/acme/old-adopted{path}", headers=headers)
            assert error_of(answer) == (404, -32001)

    @pytest.mark.acceptance("S4.25")
    def test_a_revoked_key_ends_it(self, world: World) -> None:
        presented = world.key(id="q" * 26)
        with connected(world, world.server("old-revoked"), presented) as client:
            client.initialize()
            gone = Credential(
                tenant=TENANT,
                version=world.publisher.next_version("credential"),
                is_gone=True,
                id="q" * 26,
                digest=digest_of_key(presented),
            )
            world.publisher.publish(gone)
            assert list(client.lines)[-2:] == ["retry: 1000", ""]

    @pytest.mark.acceptance("S3.11")
    def test_a_terminated_session_ends_its_stream(self, world: World) -> None:
        route = world.server("old-terminated", world.target("scripted-stateful"))
        with connected(world, route) as client:
            client.initialize()

            def handle() -> str:
                told = [report for report in world.publisher.reports() if isinstance(report, SessionReport)]
                return next((r.session for r in told if r.environment == route.environment), "")

            revocation = Revocation(
                tenant=TENANT, version=int(time.time()), session=wait_for(handle), until=time.time() + 1000
            )
            world.publisher.publish(revocation)
            assert list(client.lines)[-2:] == ["retry: 1000", ""]

    def test_a_server_that_no_longer_knows_the_session_ends_it(self, world: World) -> None:
        route = world.server("old-forgotten", world.target("scripted-stateful"), heals=False)
        with connected(world, route) as client:
            client.initialize()
            wait_for(lambda: len(world.standin.seen) >= 3)
            session = next(filter(None, (e["headers"].get("mcp-session-id") for e in world.standin.seen)))
            world.standin.end_session(route, session)
            assert client.ask(request("ping"))["error"]["code"] == -32001
            assert list(client.lines)[-2:] == ["retry: 1000", ""]

    def test_a_server_that_lost_the_session_is_healed_behind_it(self, world: World) -> None:
        route = world.server("old-healed", world.target("scripted-stateful"))
        with connected(world, route) as client:
            client.initialize()
            wait_for(lambda: len(world.standin.seen) >= 3)
            session = next(filter(None, (e["headers"].get("mcp-session-id") for e in world.standin.seen)))
            world.standin.end_session(route, session)
            assert client.ask(request("ping"))["result"] == {}


class TestRefusals:
    def test_only_who_opened_the_stream_may_post_to_it(self, world: World) -> None:
        route = world.server("old-strangers")
        with connected(world, route) as client:
            for key, expected in (
                (world.key(), (404, -32001)),
                ("smcp_" + "x" * 43, (401, -32000)),
            ):
                answer = client.post(request("ping"), authorization=f"Bearer {key}")
                assert error_of(answer) == expected
            mine = client.headers["authorization"]
            own = client.endpoint
            for endpoint in (own[:-4] + "AAAA", own + "A", "/acme/old-strangers/sse/s1.k1.x"):
                client.endpoint = endpoint
                assert error_of(client.post(request("ping"), authorization=mine)) == (404, -32001)
            world.server("old-elsewhere")
            client.endpoint = own.replace("old-strangers", "old-elsewhere")
            assert error_of(client.post(request("ping"))) == (404, -32001)
        assert world.standin.seen == []

    def test_what_is_no_message_is_refused_where_it_is_posted(self, world: World) -> None:
        with connected(world, world.server("old-nonsense", limits=Limits(request_bytes=10_000))) as client:
            for body, expected in (
                (b"{", (400, -32700)),
                (b"[]", (400, -32600)),
                ([request("ping"), request("ping", request_id=2)], (400, -32600)),
                ({"jsonrpc": "1.0", "method": "x"}, (400, -32600)),
                (request("ping", {"x": "y" * 10_000}), (413, -32600)),
            ):
                assert error_of(client.post(body)) == expected
            assert error_of(client.post(request("ping"), **{"content-type": "text/plain"})) == (415, -32600)

    @pytest.mark.parametrize("method", ["POST", "DELETE", "PUT"])
    def test_the_streams_own_address_is_for_get(self, world: World, method: str) -> None:
        world.server("old-methods")
        answer = world.at(f"{world.gateway.url}/acme/old-methods/sse", world.key()).send(method)
        assert error_of(answer) == (405, -32000)

    def test_a_page_of_another_origin_cannot_open_or_post(self, world: World) -> None:
        route = world.server("old-origin", access=("public",))
        url = f"{world.gateway.url}/acme/old-origin/sse"
        assert world.http.get(url, headers={"origin": "https://evil.example"}).status_code == 403
        with connected(world, route) as client:
            assert client.post(request("ping"), origin="https://evil.example").status_code == 403

    @pytest.mark.acceptance("S4.30")
    def test_too_many_at_once_are_told_so_each(self, world: World) -> None:
        with connected(world, world.server("old-flood", limits=Limits(concurrency=200))) as client:
            client.initialize()
            for number in range(70):
                call = request(
                    "tools/call", {"name": "wait", "arguments": {"permit": "flood"}}, request_id=number
                )
                assert client.post(call).status_code == 202
            refused = [client.heard() for _ in range(6)]
            assert {told["error"]["code"] for told in refused} == {-32000}
            world.standin.go("flood", 64)
            answered = {client.heard()["id"] for _ in range(64)}
            assert answered | {told["id"] for told in refused} == set(range(70))

    def test_what_waits_for_a_server_is_of_the_tenants_memory(self, world: World) -> None:
        """Whatever is posted is accepted at once, and waits here for the notification before it to be taken."""
        route = world.server("old-heavy", world.target("scripted-stateful"))
        with connected(world, route) as client:
            client.initialize()
            world.standin.answer_raw(b"", stays_open=True)
            version = world.publisher.next_version("route")
            deaf = msgspec.structs.replace(route, dispatch=world.standin.raw_dispatch, version=version)
            world.publisher.publish(deaf)
            world.settle()
            before = psutil.Process(world.gateway.pid).memory_info().rss
            assert client.post({"jsonrpc": "2.0", "method": "notifications/progress"}).status_code == 202
            call = request("tools/call", {"name": "echo", "x": "y" * 3_900_000})
            statuses = [client.post(call).status_code for _ in range(60)]
            assert set(statuses) == {202, 429}
            assert psutil.Process(world.gateway.pid).memory_info().rss - before < 150 * 1024 * 1024

    def test_a_client_that_does_not_read_costs_little_and_is_given_up(self, world: World) -> None:
        world.server("old-stalled", world.target("scripted-stateful"))
        key = world.key()
        before = psutil.Process(world.gateway.pid).memory_info().rss
        with socket.socket() as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
            stalled.connect(("127.0.0.1", world.gateway.port))
            stalled.sendall(
                f"GET /acme/old-stalled/sse HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n\r\n".encode()
            )
            head = b""
            while b"endpoint" not in head or not head.endswith(b"\r\n"):
                head += stalled.recv(100)
            endpoint = next(line[6:] for line in head.decode().split("\n") if line.startswith("data: "))
            client = world.at(world.gateway.url + endpoint.strip(), key)
            assert client.send(body=request("initialize", INITIALIZE)).status_code == 202
            while b"serverInfo" not in head:
                head += stalled.recv(100)
            assert client.send(body=call_of("stream", count=2000, filler=50_000)).status_code == 202
            wait_for(
                lambda: any(entry["method"] == "DELETE" for entry in world.standin.seen), 20, what="it to end"
            )
            assert psutil.Process(world.gateway.pid).memory_info().rss - before < 48 * 1024 * 1024


@pytest.fixture
def second(
    tmp_path: Path, world: World, own_redis: RedisProcess, standin: StandInProcess
) -> Iterator[GatewayProcess]:
    """Another node of the same gateway."""
    node = GatewayProcess(tmp_path, redis_url=own_redis.url, dispatch_ring=standin.dispatch_ring)
    node.environ.update(
        {name: world.gateway.environ[name] for name in ("SMCP_DATAPLANE_KEYS", "SMCP_PROBE_KEY")}
    )
    node.start()
    yield node
    node.stop()


class TestNodes:
    @pytest.mark.acceptance("S3.4")
    def test_a_message_may_reach_any_node(self, world: World, second: GatewayProcess) -> None:
        route = world.server("old-nodes", world.target("scripted-stateful"))
        key = world.key()
        wait_for(
            lambda: second.readyz()["cursor"] == world.gateway.readyz()["cursor"], what="both nodes to agree"
        )
        with connected(world, route, key) as client:
            answer = client.ask(request("initialize", INITIALIZE), base=second.url)
            assert answer["result"]["protocolVersion"] == "2024-11-05"
            assert client.post(INITIALIZED, base=second.url).status_code == 202
            for number in range(20):
                told = client.ask(
                    request("ping", request_id=number), base=(second.url, client.base)[number % 2]
                )
                assert told == {"jsonrpc": "2.0", "id": number, "result": {}}
            with connected(world, route, key, base=second.url) as other:
                assert other.ask(request("initialize", INITIALIZE), base=client.base)["id"] == 1
                assert client.ask(request("ping", request_id="mine"))["id"] == "mine"

    def test_a_node_that_is_gone_is_told_as_404(self, world: World, second: GatewayProcess) -> None:
        route = world.server("old-dead")
        key = world.key()
        wait_for(
            lambda: second.readyz()["cursor"] == world.gateway.readyz()["cursor"], what="both nodes to agree"
        )
        with (
            contextlib.suppress(httpx.TransportError),
            connected(world, route, key, base=second.url) as client,
        ):
            assert client.ask(request("initialize", INITIALIZE))["id"] == 1
            assert second.process is not None
            second.process.kill()
            wait_for(
                lambda: client.post(request("ping"), base=world.gateway.url).status_code == 404,
                15,
                what="the node to be known as dead",
            )
            list(client.lines)


@pytest.fixture
def mortal(tmp_path: Path, own_redis: RedisProcess, standin: StandInProcess) -> Iterator[World]:
    publisher = Publisher(own_redis.url)
    publisher.new_epoch()
    gateway = GatewayProcess(
        tmp_path, redis_url=own_redis.url, dispatch_ring=standin.dispatch_ring, drain_s="5"
    )
    gateway.start()
    with httpx.Client(timeout=20) as http:
        yield World(gateway, standin, publisher, http)
    gateway.stop()
    publisher.close()


def test_a_drain_ends_idle_streams_at_once_and_lets_calls_finish(mortal: World) -> None:
    route = mortal.server("old-drain", mortal.target("scripted-stateful"))
    with connected(mortal, route) as idle, connected(mortal, route) as busy:
        idle.initialize()
        busy.initialize()
        busy.post(call_of("wait", permit="drain"))
        wait_for(lambda: any("drain" in entry.get("body", "") for entry in mortal.standin.seen))
        mortal.gateway.terminate()
        assert list(idle.lines)[-2:] == ["retry: 1000", ""]
        mortal.standin.go("drain")
        assert "result" in busy.heard()
        assert list(busy.lines)[-2:] == ["retry: 1000", ""]
    assert mortal.gateway.wait(10) == 0
    assert [entry["method"] for entry in mortal.standin.seen].count("DELETE") == 2
    assert "Traceback" not in mortal.gateway.log


@pytest.mark.acceptance("S3.1", "S0.3")
async def test_the_official_python_client_lists_calls_and_is_told_of_progress(world: World) -> None:
    route = world.server("old-python", world.target("official"))
    url = world.url(route).removesuffix("/mcp").replace("~production", "") + "/sse"
    heard: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        heard.append(progress)

    headers = {"Authorization": f"Bearer {world.key()}"}
    async with sse_client(url, headers=headers) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        assert [tool.name for tool in (await session.list_tools()).tools] == ["add", "count"]
        result = await session.call_tool("add", {"a": 2, "b": 40})
        assert result.content[0].text == "42"  # type: ignore[union-attr]
        await session.call_tool("count", {"to": 4}, progress_callback=on_progress)
    assert heard == [1, 2, 3, 4]


@pytest.mark.acceptance("S3.1")
@pytest.mark.parametrize("client", ["sdk-sse", "mcp1-sse"])
async def test_clients_of_the_time_list_and_call(world: World, client: ClientName) -> None:
    route = world.server("old-clients", world.target("official"))
    url = world.url(route).removesuffix("/mcp") + "/sse"
    steps = [list_tools(), call_tool("add", a=2, b=40), call_tool("count", to=3), list_resources()]
    told = (await talk(client, url, world.key(), steps)).answers
    assert tool_names(told[0]) == ["add", "count"]
    assert text_of(told[1]) == "42"
    assert text_of(told[2]) == "counted to 3"
