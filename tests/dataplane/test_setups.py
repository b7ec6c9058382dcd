"""Two gateways that share a Redis, behind a real nginx with the configuration that we hand out: what goes where, and what a node's end
costs. The other set-ups of docs/operations.md: test_setups_without_redis.py.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from hosting.dataplane.contract import Route
from tests.dataplane.balancing import Pair, kill, paired, talk_http_sse
from tests.dataplane.harness import (
    DOMAIN,
    Caller,
    GatewayProcess,
    Publisher,
    RedisProcess,
    SiteProcess,
    StandInProcess,
    call_of,
    modern_request,
)
from tests.dataplane.resuming import calling, progress_in, resuming
from tests.waiting import wait_for

pytestmark = pytest.mark.nginx

LOST = "the gateway was lost before it answered: whether the request was carried out is unknown"


@pytest.fixture(scope="module")
def pair(directory: Path, own_redis: RedisProcess, standin: StandInProcess) -> Iterator[Pair]:
    """Shared: any node, one Redis."""
    publisher = Publisher(own_redis.url)
    publisher.new_epoch()
    first = GatewayProcess(
        directory / "a", redis_url=own_redis.url, dispatch_ring=standin.dispatch_ring, keepalive_s="1"
    )
    yield from paired(directory, publisher, standin, first, redis_url=own_redis.url)
    publisher.close()


@pytest.fixture
def key(pair: Pair) -> str:
    presented = pair.world.key()
    pair.settle()
    return presented


def published(pair: Pair, slug: str, script: str = "scripted", **more: Any) -> Route:
    route = pair.world.server(slug, pair.world.target(script), **more)
    pair.settle()
    return route


@dataclass
class Load:
    """Clients that call `echo` one after the other, each under a session of its own, until they are told to stop."""

    pair: Pair
    route: Route
    key: str
    answered: Counter[str] = field(default_factory=Counter)  # by node
    texts: list[str] = field(default_factory=list)  # answered with 200
    failures: list[httpx.Response] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)
    callers: list[Caller] = field(default_factory=list)

    @contextmanager
    def running(self, clients: int = 6) -> Iterator[None]:
        stop = threading.Event()

        def work(name: int) -> None:
            with httpx.Client(timeout=20) as http:
                caller = Caller(http, self.pair.url(self.route), self.key)
                assert caller.initialize().status_code == 200
                self.callers.append(caller)
                number = 0
                while not stop.is_set():
                    number += 1
                    self._call(caller, f"{self.route.server_slug}-{name}-{number}.")

        threads = [threading.Thread(target=work, args=(name,)) for name in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _call(self, caller: Caller, text: str) -> None:
        try:
            response = caller.call("echo", text=text)
        except httpx.HTTPError as exc:
            self.surprises.append(repr(exc))
            return
        if response.status_code == 200:
            assert response.json()["result"]["content"][0]["text"] == text
            self.answered[self.pair.name_of(response)] += 1
            self.texts.append(text)
        else:
            self.failures.append(response)

    def wait_answered(self, name: str, more: int = 20) -> None:
        """Until this node has answered so many more."""
        before = self.answered[name]
        wait_for(lambda: self.answered[name] >= before + more, 30, what=f"{name} to be asked")

    def executed(self) -> Counter[str]:
        """How often the server was asked each."""
        pattern = re.compile(rf"{self.route.server_slug}-\d+-\d+\.")
        seen = (entry.get("body", "") for entry in self.pair.world.standin.seen)
        return Counter(found[0] for body in seen if (found := pattern.search(body)))


class TestShared:
    @pytest.mark.acceptance("S3.4", "S3.25")
    def test_requests_go_to_one_node_after_the_other(self, pair: Pair, key: str) -> None:
        caller = pair.caller(published(pair, "round-robin", "scripted-stateful"), key)
        answered = Counter(pair.name_of(caller.call("echo")) for _ in range(20))
        assert min(answered["node-a"], answered["node-b"]) >= 8
        modern = Caller(pair.world.http, caller.url, key)
        asked = [modern.modern("tools/call", {"name": "echo", "arguments": {}}) for _ in range(6)]
        assert {response.status_code for response in asked} == {200}
        assert {pair.name_of(response) for response in asked} == {"node-a", "node-b"}

    @pytest.mark.acceptance("S3.26", "S3.28")
    def test_a_sessions_streams_go_to_one_node(self, pair: Pair, key: str) -> None:
        route = published(pair, "sticky", "scripted-stateful")
        nodes: list[str] = []
        for _ in range(12):
            caller = pair.caller(route, key)
            alias = pair.world.at(caller.url + f"/v1/stream/{caller.headers['mcp-session-id']}", key)
            alias.headers["accept"] = "text/event-stream"
            found = set()
            for client in (caller, caller, alias):
                with client.stream("GET") as response:
                    assert response.status_code == 200, response.read()
                    found.add(pair.name_of(response))
            assert len(found) == 1
            nodes += found
        assert set(nodes) == {"node-a", "node-b"}  # but not all of them to the same

    @pytest.mark.acceptance("S3.26", "S3.28")
    def test_streams_without_a_session_stay_with_their_caller(
        self, pair: Pair, key: str, site: SiteProcess
    ) -> None:
        route = published(pair, "sticky-caller")
        open_route = published(pair, "sticky-socket", dispatch=site.dispatch, other_paths=True)
        body, headers = modern_request("subscriptions/listen", {"notifications": {}}, request_id="sub")
        sse = pair.world.at(pair.url(route).removesuffix("/mcp") + "/sse", key)
        sse.headers["accept"] = "text/event-stream"
        modern = pair.world.at(pair.url(route), key)
        found = [shake_hands(pair, pair.url(open_route).removesuffix("/mcp") + "/ws", key) for _ in range(3)]
        for _ in range(3):
            with sse.stream("GET") as response:
                assert response.status_code == 200
                found.append(pair.name_of(response))
            with modern.stream(body=body, **headers) as response:
                assert response.headers["content-type"] == "text/event-stream"
                found.append(pair.name_of(response))
        assert len(set(found)) == 1

    def test_an_http_sse_client_is_at_home_behind_nginx(self, pair: Pair, key: str) -> None:
        talk_http_sse(pair, published(pair, "old-behind", "scripted-stateful"), key)

    def test_hosts_errors_and_bounds_pass_as_they_are(self, pair: Pair, key: str) -> None:
        published(pair, "hosted")
        own = pair.world.at(f"{pair.nginx.url}/mcp", key, host=f"hosted--acme.{DOMAIN}")
        assert own.initialize().status_code == 200
        assert own.call("echo").status_code == 200
        assert own.send(body=call_of("echo"), origin="https://evil.example").status_code == 403
        assert (
            pair.world.at(f"{pair.nginx.url}/mcp", key, host="other.example").initialize().status_code == 421
        )
        big = own.send(body=b'"' + b"x" * (17 * 1024 * 1024) + b'"')
        assert (big.status_code, big.json()["error"]["code"]) == (413, -32600)

    @pytest.mark.acceptance("S3.7", "S3.27")
    def test_a_killed_node_costs_no_session_and_nothing_is_done_twice(self, pair: Pair, key: str) -> None:
        load = Load(pair, published(pair, "killed", "scripted-stateful"), key)
        node = pair.node("node-b")
        with load.running():
            load.wait_answered("node-b")
            load.wait_answered("node-a")
            kill(node)
            load.wait_answered("node-a", 60)  # all the clients' requests are placed there
            node.start()
            load.wait_answered("node-b")  # which is used again
        assert load.surprises == []
        for failure in load.failures:
            assert failure.status_code == 502
            assert failure.json()["error"] == {"code": -32603, "message": LOST}
            assert failure.headers["retry-after"] == "1"
        assert len(load.failures) <= 2 * len(load.callers)  # what was under way, and came while it fell
        for caller in load.callers:
            caller.http = pair.world.http  # the same client goes on
            assert caller.call("echo").status_code == 200
        executed = load.executed()
        assert {text: times for text, times in executed.items() if times > 1} == {}
        assert set(load.texts) <= set(executed)

    @pytest.mark.acceptance("S3.7")
    def test_a_node_that_is_told_to_end_costs_no_request(self, pair: Pair, key: str) -> None:
        load = Load(pair, published(pair, "ended", "scripted-stateful"), key)
        with load.running():
            for name in ("node-b", "node-a"):
                node = pair.node(name)
                load.wait_answered(name)
                node.terminate()
                assert node.wait(20) == 0
                load.wait_answered("node-a" if name == "node-b" else "node-b", 40)
                node.start()
                load.wait_answered(name)
        assert [failure.text for failure in load.failures] == []
        assert load.surprises == []
        assert max(load.executed().values()) == 1

    @pytest.mark.acceptance("S3.7", "S4.4")
    def test_a_stream_is_resumed_elsewhere_when_its_node_is_killed(self, pair: Pair, key: str) -> None:
        caller = pair.caller(published(pair, "resumed", "scripted-stateful"), key)
        with calling(caller, "durable", run="setups-resumed", count=4) as heard:
            node = pair.node(pair.name_of(heard.response))
            pair.world.standin.go("setups-resumed", 2)
            assert progress_in([next(heard), next(heard)]) == [0, 1]
            kill(node)
            with pytest.raises(httpx.HTTPError):
                list(heard)
        pair.world.standin.go("setups-resumed", 3)
        with resuming(caller, heard.last_id) as rest:
            assert pair.node(pair.name_of(rest.response)) is not node
            messages = list(rest)
        node.start()
        assert progress_in(messages) == [2, 3]
        assert messages[-1]["result"]["content"][0]["text"] == "setups-resumed is done"

    @pytest.mark.acceptance("S3.7", "S3.27")
    def test_a_listener_is_sent_elsewhere_and_comes_back_to_its_node(self, pair: Pair, key: str) -> None:
        caller = pair.caller(published(pair, "listener", "scripted-stateful"), key)
        with caller.stream("GET") as response:
            name = pair.name_of(response)
            pair.node(name).terminate()
            assert response.read().decode().strip().endswith("retry: 1000")

        def is_elsewhere() -> bool:
            """While connections of nginx's to that node are open, it is sent away from there again."""
            with caller.stream("GET") as response:
                if pair.name_of(response) != name:
                    return True
                assert response.read().decode().strip().endswith("retry: 1000")
                return False

        wait_for(is_elsewhere, 5, what="the client to listen elsewhere")
        assert pair.node(name).wait(20) == 0
        pair.node(name).start()

        def is_back() -> bool:
            with caller.stream("GET") as response:
                return pair.name_of(response) == name

        wait_for(is_back, 20, what="the session's node to be used again")

    def test_with_no_node_left_the_client_is_told_so(self, pair: Pair, key: str) -> None:
        caller = pair.caller(published(pair, "none-left"), key)
        for node in pair.nodes:
            kill(node)
        refused = caller.call("echo")
        for node in pair.nodes:
            node.start()
        assert refused.status_code == 502
        assert refused.json()["error"]["message"] == LOST
        wait_for(lambda: caller.call("echo").status_code == 200, 20, what="the nodes to be used again")

    @pytest.mark.acceptance("S3.31")
    def test_what_nginx_writes_holds_no_secret_and_no_session(self, pair: Pair, key: str) -> None:
        route = published(pair, "logged", "scripted-stateful")
        caller = pair.caller(route, key)
        session = caller.headers["mcp-session-id"]
        assert caller.call("echo").status_code == 200
        for path in (f"/mcp?token={key}", f"/mcp/v1/stream/{session}?a=query-1", f"/sse/{session}?a=query-1"):
            client = pair.world.at(pair.url(route).removesuffix("/mcp") + path, key)
            with client.stream("GET", accept="text/event-stream"):
                pass
        wait_for(lambda: "/sse/-" in pair.nginx.log, what="nginx to write")
        log = pair.nginx.log
        assert '"path":"/acme/logged~production/mcp/v1/stream/-"' in log
        for secret in (key, session, "query-1"):
            assert secret not in log
        lines = [json.loads(line) for line in (pair.nginx.directory / "smcp.log").read_text().splitlines()]
        assert {"node-a", "node-b"} <= {line["request"][:6] for line in lines}


def shake_hands(pair: Pair, url: str, key: str) -> str:
    """A WebSocket through nginx, opened and left: the node that accepted it."""
    path = url.removeprefix(pair.nginx.url)
    head = (
        f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\nconnection: upgrade\r\n"
        "upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", pair.nginx.port), timeout=10) as connection:
        connection.sendall(head.encode())
        told = connection.recv(4096).decode()
    assert told.startswith("HTTP/1.1 101 "), told
    found = re.search(r"x-request-id: (node-[ab])-", told)
    assert found, told
    return found[1]
