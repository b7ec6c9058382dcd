"""Servers that run elsewhere, behind the same endpoint as hosted ones: reached safely, with the tenant's headers and nobody else's."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from hosting.dataplane.contract import (
    Credential,
    Dispatch,
    Limits,
    Remote,
    Route,
    Target,
    parse_keyring,
)
from hosting.dataplane.remotes import public_ring, seal_headers
from tests.certificates import make_certificate
from tests.clients import ClientName, call_tool, list_tools, python_client, talk, text_of, tool_names
from tests.dataplane.harness import (
    OTHER_TENANT,
    TENANT,
    Caller,
    FarawayProcess,
    GatewayProcess,
    Publisher,
    RedisProcess,
    StandInProcess,
    World,
    call_of,
    error_of,
    events_of,
    next_event,
    request,
)
from tests.edge.nameserver import NameServer
from tests.parts import free_port
from tests.waiting import wait_for

CANARY = "canary-7d1f0c9e"
CONNECTIONS = 6


@pytest.fixture(scope="module")
def names() -> Iterator[NameServer]:
    """Kept for no time, so that a name can change its mind."""
    with NameServer({}, ttl_s=0) as server:
        yield server


@pytest.fixture(scope="module")
def faraway(directory: Path) -> Iterator[FarawayProcess]:
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    make_certificate(certificate, key, names=("good.example", "flip.example", "mixed.example"))
    both = directory / "both.pem"
    both.write_text(certificate.read_text() + key.read_text())
    process = FarawayProcess(directory, both)
    process.start()
    yield process
    process.stop()


def make_gateway(
    directory: Path,
    own_redis: RedisProcess,
    standin: StandInProcess,
    faraway: FarawayProcess,
    names: NameServer,
) -> GatewayProcess:
    gateway = GatewayProcess(
        directory,
        redis_url=own_redis.url,
        dispatch_ring=standin.dispatch_ring,
        remote_allow="127.0.0.1, allowed.example",
        remote_connections=str(CONNECTIONS),
        name_servers=names.address,
    )
    gateway.environ["SSL_CERT_FILE"] = str(faraway.certificate)
    return gateway


@pytest.fixture(scope="module")
def world(
    directory: Path,
    own_redis: RedisProcess,
    standin: StandInProcess,
    faraway: FarawayProcess,
    names: NameServer,
) -> Iterator[World]:
    publisher = Publisher(own_redis.url)
    publisher.new_epoch()
    gateway = make_gateway(directory, own_redis, standin, faraway, names)
    gateway.start()
    with httpx.Client(timeout=20) as http:
        yield World(gateway, standin, publisher, http)
    gateway.stop()
    publisher.close()


@pytest.fixture(scope="module")
def other_node(
    world: World,
    own_redis: RedisProcess,
    faraway: FarawayProcess,
    names: NameServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[GatewayProcess]:
    """A second gateway with the same keys."""
    directory = tmp_path_factory.mktemp("other-node")
    gateway = make_gateway(directory, own_redis, world.standin, faraway, names)
    gateway.environ["SMCP_DATAPLANE_KEYS"] = world.gateway.sealing_ring
    gateway.start()
    yield gateway
    gateway.stop()


def remote_route(
    world: World,
    slug: str,
    url: str,
    *,
    transport: Any = "streamable-http",
    headers: dict[str, str] | None = None,
    tenant: str = TENANT,
    sealed_for: str = "",
    **more: Any,
) -> Route:
    """A Route of nothing but a server elsewhere, as the control plane publishes it."""
    environment = f"env-{tenant[0]}-{slug}-production"
    sealed = ""
    if headers:
        sealed = seal_headers(
            tuple(headers.items()),
            ring=public_ring(parse_keyring(world.gateway.sealing_ring)),
            tenant=tenant,
            environment=sealed_for or environment,
            url=url,
        )
    target = Target(
        release=f"rem-{slug}",
        weight=10_000,
        eras=("legacy",) if transport == "sse" else ("legacy", "modern"),
        issues_sessions=True,
        remote=Remote(url=url, transport=transport, headers=sealed),
    )
    route = Route(
        tenant=tenant,
        version=world.publisher.next_version("route"),
        environment=environment,
        tenant_slug="acme" if tenant == TENANT else "umbrella",
        server_slug=slug,
        environment_slug="production",
        targets=(target,),
        **more,
    )
    world.publisher.publish(route)
    world.settle()
    return route


def refused(world: World, url: str, slug: str = "remote-refused") -> tuple[int, int, str]:
    """What a caller is told of a server at `url`."""
    route = remote_route(world, slug, url)
    answer = world.caller(route, session=False).initialize()
    return (*error_of(answer), answer.json()["error"]["message"])


def on_disk(world: World) -> bytes:
    """Whatever the gateway has written down."""
    return b"".join(file.read_bytes() for file in world.gateway.state_dir.rglob("*") if file.is_file())


class TestStreamableHttp:
    @pytest.mark.acceptance("S0.2", "S0.18")
    @pytest.mark.parametrize("client", ["python-legacy", "python-modern", "sdk-legacy", "client-modern"])
    async def test_a_real_client_calls_a_real_server_elsewhere(
        self, world: World, faraway: FarawayProcess, client: ClientName
    ) -> None:
        route = remote_route(world, "remote-http", f"{faraway.url}/mcp")
        steps = [list_tools(), call_tool("add", a=2, b=40), call_tool("count", to=3)]
        told = await talk(client, world.url(route), world.key(), steps)
        assert told.server in {"official", ""}
        assert tool_names(told.answers[0]) == ["add", "count"]
        assert text_of(told.answers[1]) == "42"
        assert text_of(told.answers[2]) == "counted to 3"

    def test_configured_headers_arrive_and_the_clients_own_do_not(
        self, world: World, faraway: FarawayProcess
    ) -> None:
        configured = {"Authorization": f"Bearer {CANARY}", "X-Api-Key": "k-1"}
        route = remote_route(world, "remote-headers", f"{faraway.url}/scripted", headers=configured)
        key = world.key()
        caller = world.caller(route, key)
        faraway.forget()
        more = {"cookie": "a=b", "x_forwarded_for": "10.0.0.1", "x_api_key": "mine", "forwarded": "for=x"}
        assert caller.send(body=call_of("echo", text="x"), **more).status_code == 200
        arrived = faraway.seen[-1]["headers"]
        assert arrived["authorization"] == f"Bearer {CANARY}"
        assert arrived["x-api-key"] == "k-1"
        assert arrived["host"] == f"127.0.0.1:{faraway.port}"
        assert key not in json.dumps(arrived)
        assert not {"cookie", "x-forwarded-for", "forwarded", "smcp-assertion"} & set(arrived)

    def test_cookies_are_not_kept(self, world: World, faraway: FarawayProcess) -> None:
        caller = world.caller(remote_route(world, "remote-cookies", f"{faraway.url}/scripted"))
        caller.call("echo", text="x", headers=[["set-cookie", "who=you; path=/"]])
        faraway.forget()
        answer = caller.call("echo", text="x", headers=[["set-cookie", "who=you; path=/"]])
        assert "cookie" not in faraway.seen[-1]["headers"]
        assert "set-cookie" not in answer.headers

    def test_what_only_the_dispatcher_may_say_is_not_believed(
        self, world: World, faraway: FarawayProcess
    ) -> None:
        caller = world.caller(remote_route(world, "remote-lies", f"{faraway.url}/scripted"))
        lie = [["smcp-dispatch-error", "limits"], ["retry-after", "9"]]
        answer = caller.call("status", status=429, error=[-32000, "slow down"], headers=lie)
        assert error_of(answer) == (429, -32603)
        assert answer.json()["error"]["data"] == {"status": 429}
        assert caller.call("status", status=500, headers=lie).status_code == 502

    def test_a_session_lost_elsewhere_is_healed(self, world: World, faraway: FarawayProcess) -> None:
        caller = world.caller(remote_route(world, "remote-heals", f"{faraway.url}/scripted"))
        faraway.forget()
        caller.call("echo", text="x")
        session = faraway.seen[-1]["headers"]["mcp-session-id"]
        httpx.delete(f"{faraway.url}/scripted", headers={"mcp-session-id": session})
        assert caller.call("echo", text="y").json()["result"]["content"][0]["text"] == "y"
        assert faraway.seen[-1]["headers"]["mcp-session-id"] != session

    @pytest.mark.acceptance("S0.35")
    def test_nobody_there_is_an_honest_error(self, world: World) -> None:
        told = refused(world, f"http://127.0.0.1:{free_port()}/mcp")
        assert told == (502, -32603, "the server cannot be reached")

    @pytest.mark.acceptance("S0.35")
    @pytest.mark.parametrize(("method", "times"), [("tools/list", 2), ("tools/call", 1)])
    def test_what_a_server_may_have_done_is_repeated_only_where_that_is_safe(
        self, world: World, method: str, times: int
    ) -> None:
        world.standin.answer_raw(b"")
        world.standin.forget()
        route = remote_route(world, "remote-drops", f"http://127.0.0.1:{world.standin.raw_port}/mcp")
        answer = world.at(world.url(route), world.key()).modern(method, {"name": "x"})
        assert error_of(answer) == (502, -32603)
        assert len(world.standin.raw_seen) == times

    def test_a_server_that_is_this_very_gateway_is_a_loop_with_an_end(self, world: World) -> None:
        where = f"{world.gateway.url}/acme/remote-loop~production/mcp"
        route = remote_route(world, "remote-loop", where, access=("public",))
        before = world.gateway.metric("smcp_gateway_requests_total", outcome="remote_loop")
        assert world.at(world.url(route)).initialize().status_code == 502
        assert world.gateway.metric("smcp_gateway_requests_total", outcome="remote_loop") == before + 1
        refused = world.at(world.url(route)).send(body=request("initialize"), smcp_hops="99999")
        assert error_of(refused) == (508, -32603)

    def test_a_changed_address_holds_within_a_second(self, world: World, faraway: FarawayProcess) -> None:
        route = remote_route(world, "remote-moves", f"http://127.0.0.1:{free_port()}/mcp")
        caller = world.caller(route, session=False)
        assert caller.initialize().status_code == 502
        began = time.monotonic()
        remote_route(world, "remote-moves", f"{faraway.url}/scripted")
        wait_for(lambda: caller.initialize().status_code == 200, 5, what="the new address to be used")
        assert time.monotonic() - began < 3


class TestReach:
    """Only public addresses, whatever a name says and however an address is written. The trap is at 127.0.0.2 and ::1."""

    @pytest.mark.parametrize(
        "host",
        [
            "127.0.0.2", "127.2", "2130706434", "0x7f000002", "0x7f.0.0.2", "017700000002", "0177.0.0.02", "[::1]",
            "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.2]", "[::ffff:7f00:2]", "[::127.0.0.2]", "[64:ff9b::7f00:2]",
            "[64:ff9b:1:7f00:0:200:808:808]", "[2002:7f00:2::]", "[2001:0:7f00:2::]", "[fe80::1]", "[fd00:ec2::254]", "[ff02::1]",
            "0.0.0.0", "[::]", "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "100.100.100.200",
            "192.0.0.192", "198.18.0.1", "168.63.129.16", "224.0.0.1", "240.0.0.1", "255.255.255.255",
        ],
    )  # fmt: skip
    def test_an_address_that_is_not_public_is_refused_in_every_spelling(
        self, world: World, faraway: FarawayProcess, host: str
    ) -> None:
        for scheme, port in (("http", faraway.port), ("https", faraway.tls_port)):
            told = refused(world, f"{scheme}://{host}:{port}/mcp")
            assert told == (502, -32603, "the server's address is not public")
        assert faraway.trapped == []

    @pytest.mark.parametrize(
        "addresses",
        [
            ["127.0.0.2"], ["10.1.2.3"], ["169.254.169.254"], ["100.64.0.1"], ["0.0.0.0"], ["224.0.0.1"], ["::1"],
            ["::ffff:127.0.0.2"], ["64:ff9b::7f00:2"], ["2002:7f00:2::1"], ["fe80::1"], ["fd00::1"], ["127.0.0.2", "10.0.0.1"],
        ],
    )  # fmt: skip
    def test_a_name_with_such_an_address_is_refused(
        self, world: World, faraway: FarawayProcess, names: NameServer, addresses: list[str]
    ) -> None:
        name = f"inside-{'-'.join(addresses).replace(':', '-')}.example"
        names.addresses[name] = addresses
        status, code, said = refused(world, f"https://{name}:{faraway.tls_port}/mcp")
        assert (status, code) == (502, -32603)
        # A machine without IPv6 does not even look for such addresses.
        unseen = {"the server cannot be reached"} if ":" in addresses[0] else set()
        assert said in {"the server's address is not public", *unseen}
        assert names.asked[name]
        assert faraway.trapped == []

    def test_of_several_addresses_only_those_that_may_be_are_used(
        self, world: World, faraway: FarawayProcess, names: NameServer
    ) -> None:
        names.addresses["mixed.example"] = ["127.0.0.2", "127.0.0.1", "10.0.0.1"]
        route = remote_route(world, "remote-mixed", f"https://mixed.example:{faraway.tls_port}/scripted")
        assert world.caller(route).call("echo", text="x").status_code == 200
        assert faraway.trapped == []

    def test_a_name_that_changes_its_mind_gains_nothing(
        self, world: World, faraway: FarawayProcess, names: NameServer
    ) -> None:
        names.addresses["flip.example"] = ["127.0.0.1"]
        route = remote_route(world, "remote-flip", f"https://flip.example:{faraway.tls_port}/scripted")
        caller = world.caller(route)
        names.addresses["flip.example"] = ["127.0.0.2"]
        faraway.forget()
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(caller.call, "wait", permit="flip")
            wait_for(lambda: faraway.seen, what="the one connection to be in use")
            told = caller.call("echo", text="over a new connection")
            faraway.go("flip")
            assert waiting.result().status_code == 200
        assert told.json()["error"]["message"] == "the server's address is not public"
        assert faraway.trapped == []

    def test_an_operator_lets_in_a_name_whatever_its_address(
        self, world: World, faraway: FarawayProcess, names: NameServer
    ) -> None:
        names.addresses["allowed.example"] = ["127.0.0.1"]
        route = remote_route(world, "remote-allowed", f"http://allowed.example:{faraway.port}/scripted")
        assert world.caller(route).call("echo", text="x").status_code == 200

    def test_without_tls_only_where_the_operator_allows(self, world: World, names: NameServer) -> None:
        names.addresses["plain.example"] = ["93.184.216.34"]
        assert refused(world, "http://plain.example/mcp")[2] == "the server's address is not public"
        assert not names.asked["plain.example"]

    @pytest.mark.parametrize("transport", ["streamable-http", "sse"])
    def test_a_redirect_is_not_followed(self, world: World, faraway: FarawayProcess, transport: str) -> None:
        route = remote_route(world, "remote-moved", f"{faraway.url}/moved", transport=transport)
        answer = world.caller(route, session=False).initialize()
        assert error_of(answer) == (502, -32603)
        assert answer.json()["error"]["data"] == {"status": 307}
        assert faraway.trapped == []


class TestTls:
    def test_a_certificate_that_is_trusted_and_for_the_name_is_accepted(
        self, world: World, faraway: FarawayProcess, names: NameServer
    ) -> None:
        names.addresses["good.example"] = ["127.0.0.1"]
        route = remote_route(world, "remote-tls", f"https://good.example:{faraway.tls_port}/scripted")
        assert world.caller(route).call("echo", text="x").status_code == 200

    def test_one_for_another_name_is_not(
        self, world: World, faraway: FarawayProcess, names: NameServer
    ) -> None:
        names.addresses["wrong.example"] = ["127.0.0.1"]
        faraway.forget()
        told = refused(world, f"https://wrong.example:{faraway.tls_port}/scripted")
        assert told == (502, -32603, "the server cannot be reached")
        assert faraway.seen == []


class TestBounds:
    @pytest.mark.acceptance("S0.17")
    def test_a_server_that_hangs_takes_its_tenants_connections_and_nobody_elses(
        self, world: World, faraway: FarawayProcess
    ) -> None:
        limits = Limits(connect_timeout_s=1.0)
        url = f"{faraway.url}/scripted"
        hanging = world.caller(remote_route(world, "remote-hangs", url, limits=limits))
        neighbour = world.caller(remote_route(world, "remote-neighbour", url, tenant=OTHER_TENANT))
        with ThreadPoolExecutor(3 * CONNECTIONS) as threads:
            waiting = [threads.submit(hanging.call, "wait", permit="hang") for _ in range(CONNECTIONS)]
            wait_for(
                lambda: sum("hang" in entry.get("body", "") for entry in faraway.seen) >= CONNECTIONS,
                what="every connection to be in use",
            )
            began = time.monotonic()
            queued = [threads.submit(hanging.call, "echo", text="x") for _ in range(2 * CONNECTIONS)]
            assert neighbour.call("echo", text="x").status_code == 200
            told = [each.result() for each in queued]
            assert time.monotonic() - began < 10
            assert {error_of(answer) for answer in told} == {(429, -32000)}
            assert {answer.headers["retry-after"] for answer in told} == {"1"}
            faraway.go("hang", CONNECTIONS)
            assert {each.result().status_code for each in waiting} == {200}
        assert hanging.call("echo", text="x").status_code == 200


class TestSecrets:
    def test_headers_sealed_for_another_environment_or_address_are_not_opened(
        self, world: World, faraway: FarawayProcess
    ) -> None:
        url = f"{faraway.url}/scripted"
        route = remote_route(world, "remote-stolen", url, headers={"X-Key": CANARY}, sealed_for="env-other")
        faraway.forget()
        answer = world.caller(route, session=False).initialize()
        assert error_of(answer) == (502, -32603)
        assert "headers" in answer.json()["error"]["message"]
        moved = remote_route(world, "remote-stolen-2", url, headers={"X-Key": CANARY})
        remote = moved.targets[0].remote
        assert remote is not None
        stolen = Remote(url=f"{faraway.url}/old", headers=remote.headers)
        target = Target(release="r", weight=10_000, remote=stolen)
        world.publisher.publish(
            Route(
                tenant=moved.tenant,
                version=world.publisher.next_version("route"),
                environment=moved.environment,
                tenant_slug="acme",
                server_slug="remote-stolen-2",
                environment_slug="production",
                targets=(target,),
            )
        )
        world.settle()
        assert error_of(world.caller(moved, session=False).initialize()) == (502, -32603)
        assert faraway.seen == []

    def test_a_secret_is_nowhere_but_in_the_request(self, world: World, faraway: FarawayProcess) -> None:
        headers = {"Authorization": f"Bearer {CANARY}"}
        for transport, path in (("streamable-http", "scripted"), ("sse", "old")):
            slug = f"remote-canary-{path}"
            route = remote_route(world, slug, f"{faraway.url}/{path}", transport=transport, headers=headers)
            caller = world.caller(route)
            answers = [
                caller.call("echo", text="x"),
                caller.call("status", status=500),
                caller.send("DELETE"),
            ]
            assert all(CANARY not in answer.text + str(answer.headers) for answer in answers)
        assert CANARY in json.dumps(faraway.seen)
        store = world.publisher.client
        for key in store.scan_iter():
            assert CANARY.encode() not in (store.dump(key) or b"")
        kept = wait_for(
            lambda: text if b"remote-canary-old" in (text := on_disk(world)) else None,
            20,
            what="the snapshot",
        )
        assert CANARY.encode() not in kept
        assert CANARY not in world.gateway.log
        assert CANARY not in httpx.get(f"{world.gateway.admin_url}/metrics").text


class TestHttpAndSse:
    def old(self, world: World, faraway: FarawayProcess, slug: str, **more: Any) -> Route:
        return remote_route(world, slug, f"{faraway.url}/old", transport="sse", **more)

    @pytest.mark.acceptance("S0.3", "S0.18")
    @pytest.mark.parametrize("client", ["python-legacy", "sdk-legacy", "client-legacy"])
    async def test_a_real_client_calls_a_real_server_over_http_and_sse(
        self, world: World, faraway: FarawayProcess, client: ClientName
    ) -> None:
        route = remote_route(world, "remote-sse", f"{faraway.url}/sse", transport="sse")
        steps = [list_tools(), call_tool("add", a=2, b=40), call_tool("count", to=3)]
        told = await talk(client, world.url(route), world.key(), steps)
        assert tool_names(told.answers[0]) == ["add", "count"]
        assert text_of(told.answers[1]) == "42"
        assert text_of(told.answers[2]) == "counted to 3"

    async def test_progress_reaches_the_client_on_its_requests_stream(
        self, world: World, faraway: FarawayProcess
    ) -> None:
        route = remote_route(world, "remote-sse-progress", f"{faraway.url}/sse", transport="sse")
        heard: list[float] = []

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            heard.append(progress)

        async with python_client("legacy", world.url(route), world.key()) as client:
            await client.call_tool("count", {"to": 4}, progress_callback=on_progress)
        assert heard == [1, 2, 3, 4]

    def test_answers_of_many_calls_at_once_find_their_callers(
        self, world: World, faraway: FarawayProcess
    ) -> None:
        caller = world.caller(self.old(world, faraway, "remote-sse-many"))

        def ask(number: int) -> bool:
            body = request(
                "tools/call", {"name": "echo", "arguments": {"text": f"t{number}"}}, request_id=number
            )
            told = caller.send(body=body).json()
            return bool(told["id"] == number and told["result"]["content"][0]["text"] == f"t{number}")

        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(ask, range(100)))

    def test_progress_and_then_the_answer_is_a_stream(self, world: World, faraway: FarawayProcess) -> None:
        caller = world.caller(self.old(world, faraway, "remote-sse-stream"))
        params = {"name": "progress", "arguments": {"count": 3}, "_meta": {"progressToken": "p"}}
        answer = caller.send(body=request("tools/call", params))
        told = events_of(answer.text)
        assert [message.get("params", {}).get("progress") for message in told] == [0, 1, 2, None]
        assert told[-1]["result"]["content"][0]["text"] == "done"

    def test_the_server_may_ask_and_is_answered(self, world: World, faraway: FarawayProcess) -> None:
        caller = world.caller(self.old(world, faraway, "remote-sse-asks"))
        with caller.stream(body=call_of("ask")) as stream:
            lines = stream.iter_lines()
            asked = json.loads(next_event(lines)["data"])
            assert asked["method"] == "roots/list"
            reply = {"jsonrpc": "2.0", "id": asked["id"], "result": {"roots": []}}
            assert caller.send(body=reply).status_code == 202
            told = json.loads(next_event(lines)["data"])
        assert told["result"]["content"][0]["text"] == '{"roots": []}'

    def test_what_the_server_says_by_itself_waits_for_a_listener_or_goes_to_it(
        self, world: World, faraway: FarawayProcess
    ) -> None:
        caller = world.caller(self.old(world, faraway, "remote-sse-listens"))
        caller.call("later", data="kept")
        time.sleep(0.5)
        with caller.stream("GET") as stream:
            lines = stream.iter_lines()
            assert json.loads(next_event(lines)["data"])["params"] == {"data": "kept"}
            caller.call("later", data="fresh")
            assert json.loads(next_event(lines)["data"])["params"] == {"data": "fresh"}

    def test_a_batch_is_taken_apart(self, world: World, faraway: FarawayProcess) -> None:
        caller = world.caller(self.old(world, faraway, "remote-sse-batch"), session=False)
        caller.initialize("2025-03-26")
        batch = [
            {**call_of("echo", text="one"), "id": 1},
            {"jsonrpc": "2.0", "method": "notifications/progress", "params": {}},
            {**call_of("echo", text="two"), "id": "1"},
        ]
        told = events_of(caller.send(body=batch).text)
        texts = {json.dumps(m["id"]): m["result"]["content"][0]["text"] for m in told}
        assert texts == {"1": "one", '"1"': "two"}

    @pytest.mark.parametrize(("kind", "status"), [("old-liar", 502), ("old-mute", 504), ("nothing", 502)])
    def test_a_server_that_names_no_place_of_its_own_to_post_to_is_not_posted_to(
        self, world: World, faraway: FarawayProcess, kind: str, status: int
    ) -> None:
        route = remote_route(
            world,
            f"remote-{kind}",
            f"{faraway.url}/{kind}",
            transport="sse",
            headers={"Authorization": CANARY},
            limits=Limits(answer_timeout_s=2),
        )
        ended = faraway.streams_ended
        faraway.forget()
        assert world.caller(route, session=False).initialize().status_code == status
        assert [entry["method"] for entry in faraway.seen] == ["GET"]
        if kind != "nothing":
            wait_for(lambda: faraway.streams_ended > ended, what="its stream to be closed")

    def test_a_stream_that_ends_is_opened_anew_and_the_call_that_waited_is_told(
        self, world: World, faraway: FarawayProcess
    ) -> None:
        caller = world.caller(self.old(world, faraway, "remote-sse-ends"))
        answer = caller.call("end")
        assert error_of(answer) == (502, -32603)
        faraway.forget()
        assert caller.call("echo", text="again").json()["result"]["content"][0]["text"] == "again"
        said = [json.loads(e["body"])["method"] for e in faraway.seen if e["method"] == "POST"]
        assert said == ["initialize", "notifications/initialized", "tools/call"]

    def test_each_node_has_a_stream_of_its_own_and_keeps_it(
        self, world: World, faraway: FarawayProcess, other_node: GatewayProcess
    ) -> None:
        caller = world.caller(self.old(world, faraway, "remote-sse-nodes"))
        there = world.at(caller.url.replace(world.gateway.url, other_node.url))
        there.headers = caller.headers
        for turn in range(3):
            for node in (caller, there):
                assert node.call("echo", text=str(turn)).json()["result"]["content"][0]["text"] == str(turn)
        faraway.forget()
        assert caller.call("end").status_code == 502
        for node in (there, caller, there, caller):
            assert node.call("echo", text="x").status_code == 200
        said = [json.loads(e["body"])["method"] for e in faraway.seen if e["method"] == "POST"]
        assert said.count("initialize") == 1

    def test_delete_closes_the_stream(self, world: World, faraway: FarawayProcess) -> None:
        caller = world.caller(self.old(world, faraway, "remote-sse-delete"))
        ended = faraway.streams_ended
        assert caller.send("DELETE").status_code == 204
        wait_for(lambda: faraway.streams_ended == ended + 1, what="the stream to be closed")
        assert error_of(caller.call("echo")) == (404, -32001)

    @pytest.mark.parametrize("what", ["session", "key", "route"])
    def test_a_stream_does_not_outlive_what_opened_it(
        self, world: World, faraway: FarawayProcess, what: str
    ) -> None:
        route = self.old(world, faraway, f"remote-sse-ends-with-{what}")
        key_id = "k" * 26
        caller = world.caller(route, world.key(id=key_id))
        assert caller.call("echo").status_code == 200
        ended = faraway.streams_ended
        if what == "key":
            version = world.publisher.next_version("credential")
            world.publisher.publish(
                Credential(tenant=TENANT, version=version, id=key_id, digest="", is_gone=True)
            )
        elif what == "route":
            version = world.publisher.next_version("route")
            world.publisher.publish(msgspec.structs.replace(route, version=version, is_gone=True))
        else:
            twin = world.at(caller.url, world.key())
            assert twin.send("DELETE", mcp_session_id=caller.headers["mcp-session-id"]).status_code == 404
            assert faraway.streams_ended == ended
            assert caller.send("DELETE").status_code == 204
        wait_for(lambda: faraway.streams_ended == ended + 1, what="the stream to be closed")

    def test_a_session_that_ends_on_one_node_ends_its_streams_on_all(
        self, world: World, faraway: FarawayProcess, other_node: GatewayProcess
    ) -> None:
        caller = world.caller(self.old(world, faraway, "remote-sse-ends-everywhere"))
        there = world.at(caller.url.replace(world.gateway.url, other_node.url))
        there.headers = caller.headers
        assert there.call("echo").status_code == 200
        ended = faraway.streams_ended
        assert caller.send("DELETE").status_code == 204
        wait_for(lambda: faraway.streams_ended == ended + 2, what="both streams to be closed")

    def test_other_headers_are_another_stream(self, world: World, faraway: FarawayProcess) -> None:
        slug = "remote-sse-token"
        caller = world.caller(self.old(world, faraway, slug, headers={"Authorization": "one"}))
        self.old(world, faraway, slug, headers={"Authorization": "one"})  # sealed anew, and the same
        faraway.forget()
        assert caller.call("echo").status_code == 200
        assert len(faraway.seen) == 1
        self.old(world, faraway, slug, headers={"Authorization": "two"})
        faraway.forget()
        assert caller.call("echo").status_code == 200
        assert {entry["headers"]["authorization"] for entry in faraway.seen} == {"two"}

    def test_streams_are_bounded_and_the_longest_idle_makes_room(
        self, world: World, faraway: FarawayProcess
    ) -> None:
        route = self.old(world, faraway, "remote-sse-bound", tenant=OTHER_TENANT)
        key = world.key(tenant=OTHER_TENANT)
        callers: list[Caller] = []
        ended = faraway.streams_ended
        for _ in range(CONNECTIONS):
            callers.append(world.at(world.url(route), key))
            assert callers[-1].initialize().status_code == 200
        wait_for(lambda: faraway.streams_ended >= ended + CONNECTIONS // 2, what="idle streams to be closed")
        assert [caller.call("echo").status_code for caller in callers] == [200] * CONNECTIONS

    def test_a_large_answer_arrives_whole(self, world: World, faraway: FarawayProcess) -> None:
        caller = world.caller(self.old(world, faraway, "remote-sse-big"))
        for size in (300_000, 3_000_000):
            told = caller.call("big", size=size).json()
            assert told["result"]["content"][0]["text"] == "x" * size

    def test_an_event_beyond_its_bound_ends_the_stream_with_an_error(
        self, world: World, faraway: FarawayProcess
    ) -> None:
        limits = Limits(event_bytes=100_000)
        caller = world.caller(self.old(world, faraway, "remote-sse-flood", limits=limits))
        assert caller.call("big", size=300_000).status_code == 502
        assert caller.call("echo").status_code == 200


def test_a_hosted_server_beside_it_needs_its_dispatcher_still(world: World) -> None:
    route = world.server("remote-beside", dispatch=Dispatch(url=world.standin.url, audience="standin"))
    assert world.caller(route).call("echo", text="x").status_code == 200
