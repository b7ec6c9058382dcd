"""WebSockets to a server's `/ws`: who is let in, what passes, at whose pace, and how either side learns of the end."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import struct
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import psutil
import pytest
from yarl import URL

from hosting.dataplane.contract import Credential, Limits, Route, Suspension, digest_of_key
from tests.dataplane.harness import DOMAIN, TENANT, SiteProcess, World
from tests.waiting import wait_for

MB = 1024 * 1024


@pytest.fixture(scope="module")
def knobs() -> dict[str, str]:
    return {
        "keepalive_s": "1",
        "stalled_client_s": "3",
        "report_window_s": "0.3",
        "max_tenant_held_bytes": str(16 * MB),
    }


def open_to_all(world: World, site: SiteProcess, slug: str, **more: Any) -> Route:
    """A server with `/ws`, and nothing seen of it yet."""
    route = world.server(slug, dispatch=site.dispatch, **{"other_paths": True, **more})
    site.forget()
    return route


def ws_url(world: World, route: Route, query: str = "") -> str:
    return world.url(route).removesuffix("/mcp") + "/ws" + (f"?{query}" if query else "")


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@contextlib.asynccontextmanager
async def connected(
    world: World, route: Route, query: str = "", **more: Any
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    headers = {**bearer(world.key(tenant=route.tenant)), **more.pop("headers", {})}
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(
            ws_url(world, route, query), headers=headers, max_msg_size=0, autoclose=False, **more
        ) as ws,
    ):
        yield ws


async def end_of(ws: aiohttp.ClientWebSocketResponse) -> tuple[int | None, str]:
    """What the gateway says when it closes; messages before are passed over."""
    async with asyncio.timeout(20):
        while (message := await ws.receive()).type not in {
            aiohttp.WSMsgType.CLOSE,
            aiohttp.WSMsgType.CLOSED,
            aiohttp.WSMsgType.ERROR,
        }:
            pass
    if message.type is aiohttp.WSMsgType.CLOSE:
        return message.data, message.extra or ""
    return None, ""


async def refusal(world: World, url: str, **headers: str) -> tuple[int, aiohttp.WSServerHandshakeError]:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(url, headers=headers)
    return refused.value.status, refused.value


def rss_mb(world: World) -> float:
    return psutil.Process(world.gateway.pid).memory_info().rss / MB


class TestMessages:
    @pytest.mark.acceptance("S1.1")
    async def test_text_bytes_and_emptiness_pass_both_ways(self, world: World, site: SiteProcess) -> None:
        async with connected(world, open_to_all(world, site, "ws-echo")) as ws:
            for text in ("hello", "", "ü\N{GRINNING FACE}" * 1000, "x" * 500_000):
                await ws.send_str(text)
                assert await ws.receive_str(timeout=10) == text
            for data in (b"", b"\x00\xff" * 10, os.urandom(3 * MB)):
                await ws.send_bytes(data)
                assert await ws.receive_bytes(timeout=10) == data

    async def test_both_spellings_and_both_hosts_lead_there(self, world: World, site: SiteProcess) -> None:
        route = open_to_all(world, site, "ws-hosts")
        key = world.key()
        own = {"host": f"ws-hosts--acme.{DOMAIN}"}
        for path, headers in (
            ("/acme/ws-hosts/ws", {}),
            ("/acme/ws-hosts~production/ws?room=7&x=%2F", {}),
            ("/ws", own),
        ):
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(
                    URL(world.gateway.url + path, encoded=True), headers={**bearer(key), **headers}
                ) as ws,
            ):
                await ws.send_str("here")
                assert await ws.receive_str(timeout=10) == "here"
        assert [entry["path"] for entry in site.seen] == ["/ws", "/ws?room=7&x=%2F", "/ws"]
        assert {entry["script"] for entry in site.seen} == {route.targets[0].script}

    async def test_the_server_chooses_the_sub_protocol(self, world: World, site: SiteProcess) -> None:
        route = open_to_all(world, site, "ws-protocols")
        for offered, chosen in ((("chat.v1", "chat.v2"), "chat.v1"), (("other", "chat.v2"), "chat.v2")):
            async with connected(world, route, protocols=offered) as ws:
                assert ws.protocol == chosen
        async with connected(world, route, protocols=("unknown",)) as ws:
            assert ws.protocol is None

    async def test_the_server_gets_no_credential_cookie_or_forwarded_header(
        self, world: World, site: SiteProcess
    ) -> None:
        route = open_to_all(world, site, "ws-headers")
        given = {
            "cookie": "a=b", "x-forwarded-for": "1.2.3.4", "forwarded": "for=1.2.3.4", "x-custom": "1",
            "smcp-assertion": "forged", "user-agent": "tests", "sec-websocket-extensions": "permessage-deflate",
        }  # fmt: skip
        async with connected(world, route, headers=given) as ws:
            await ws.send_str("x")
            await ws.receive_str(timeout=10)
        (entry,) = site.seen
        names = {name.lower() for name in entry["headers"]}
        assert not names & {"cookie", "authorization", "x-forwarded-for", "forwarded", "x-custom", "origin"}
        assert "sec-websocket-extensions" not in names
        assert entry["headers"]["User-Agent" if "User-Agent" in entry["headers"] else "user-agent"] == "tests"

    async def test_a_clients_ping_is_answered_and_the_server_is_pinged(
        self, world: World, site: SiteProcess
    ) -> None:
        async with connected(world, open_to_all(world, site, "ws-ping"), autoping=False) as ws:
            await ws.ping(b"are you there")
            while (message := await ws.receive(timeout=10)).type is aiohttp.WSMsgType.PING:
                await ws.pong(message.data)
            assert (message.type, message.data) == (aiohttp.WSMsgType.PONG, b"are you there")
            await asyncio.to_thread(
                wait_for, lambda: site.seen[0].get("pings", 0) >= 3, 10, what="the server to be pinged"
            )


class TestRefusals:
    async def test_where_other_paths_are_not_allowed_there_is_no_websocket(
        self, world: World, site: SiteProcess
    ) -> None:
        route = open_to_all(world, site, "ws-closed", other_paths=False)
        for url in (ws_url(world, route), world.gateway.url + "/acme/nobody/ws"):
            status, _ = await refusal(world, url, **bearer(world.key()))
            assert status == 404
        assert site.seen == []

    @pytest.mark.acceptance("S1.18", "S0.26")
    async def test_without_a_valid_key_nothing_reaches_the_server(
        self, world: World, site: SiteProcess
    ) -> None:
        route = open_to_all(world, site, "ws-keys")
        url, key = ws_url(world, route), world.key()
        for headers, expected in (
            ({}, 401),
            (bearer("smcp_" + "x" * 43), 401),
            (bearer(world.key(scopes=("tenant:read",))), 403),
            (bearer(world.key(tenant="u" * 26)), 401),
        ):
            assert (await refusal(world, url, **headers))[0] == expected
        assert (await refusal(world, f"{url}?token={key}"))[0] == 401
        assert (await refusal(world, f"{url}?token={key}", **bearer(key)))[0] == 400
        assert site.seen == []

    async def test_a_public_server_is_open_to_anybody(self, world: World, site: SiteProcess) -> None:
        route = open_to_all(world, site, "ws-public", access=("public",))
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(ws_url(world, route)) as ws,
        ):
            await ws.send_str("x")
            assert await ws.receive_str(timeout=10) == "x"

    @pytest.mark.acceptance("S4.19")
    @pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example"])
    async def test_a_page_of_another_origin_cannot_use_somebodys_browser(
        self, world: World, site: SiteProcess, origin: str
    ) -> None:
        route = open_to_all(world, site, "ws-origin", access=("public",))
        assert (await refusal(world, ws_url(world, route), origin=origin))[0] == 403
        assert site.seen == []

    async def test_a_listed_origin_may_connect(self, world: World, site: SiteProcess) -> None:
        route = open_to_all(world, site, "ws-listed", allowed_origins=("https://app.example",))
        async with connected(world, route, headers={"origin": "https://app.example"}) as ws:
            await ws.send_str("x")
            assert await ws.receive_str(timeout=10) == "x"
        assert "Origin" not in site.seen[0]["headers"]

    @pytest.mark.parametrize(
        ("status", "told"),
        [(401, 502), (403, 502), (404, 404), (426, 426), (429, 429), (500, 502), (302, 502), (200, 502)],
    )
    async def test_a_server_that_refuses_is_told_without_its_words(
        self, world: World, site: SiteProcess, status: int, told: int
    ) -> None:
        route = open_to_all(world, site, "ws-refused")
        headers = json.dumps({"location": f"{site.url}/stolen", "www-authenticate": "Bearer"})
        got, error = await refusal(
            world,
            ws_url(world, route, f"mode=refuse&status={status}&headers={headers}"),
            **bearer(world.key()),
        )
        assert got == told
        assert not {"location", "www-authenticate"} & {name.lower() for name in error.headers or {}}
        assert len(site.seen) == 1  # no redirect was followed, with our assertion among the headers

    async def test_a_plain_request_to_ws_is_told_to_upgrade_and_an_upgrade_elsewhere_is_refused(
        self, world: World, site: SiteProcess
    ) -> None:
        route = open_to_all(world, site, "ws-misplaced")
        key = world.key()
        answer = world.http.get(ws_url(world, route), headers=bearer(key))
        assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")
        assert answer.headers["content-type"] == "application/problem+json"
        assert (await refusal(world, world.url(route), **bearer(key)))[0] == 400
        own = {"host": f"ws-misplaced--acme.{DOMAIN}", **bearer(key)}
        assert (await refusal(world, world.gateway.url + "/other", **own))[0] == 400
        assert site.seen == []

    async def test_a_handshake_with_a_body_or_half_of_its_headers_is_refused(
        self, world: World, site: SiteProcess
    ) -> None:
        open_to_all(world, site, "ws-smuggled")
        key = world.key()
        full = {
            "connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13",
            "sec-websocket-key": base64.b64encode(os.urandom(16)).decode(),
        }  # fmt: skip
        smuggled = "GET /acme/ws-smuggled/mcp HTTP/1.1\r\nhost: x\r\n\r\n"
        for change in (
            {"content-length": str(len(smuggled))},
            {"transfer-encoding": "chunked"},
            {"sec-websocket-key": None},
            {"sec-websocket-version": "8"},
            {"upgrade": "h2c"},
            {"connection": "keep-alive"},
            {"sec-websocket-protocol": "a b"},
            {"sec-websocket-protocol": ",".join(f"p{n}" for n in range(30))},
        ):
            headers = {name: value for name, value in {**full, **change}.items() if value is not None}
            told = raw(world, "/acme/ws-smuggled/ws", {**headers, **bearer(key)}, smuggled.encode())
            assert told.split(b" ", 2)[1] in {b"400", b"426"}, told
        assert site.seen == []

    async def test_an_environment_has_places_for_so_many(self, world: World, site: SiteProcess) -> None:
        route = open_to_all(world, site, "ws-places", limits=Limits(concurrency=3))
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(connected(world, route))
            status, _ = await refusal(world, ws_url(world, route), **bearer(world.key()))
            assert status == 429
        await asyncio.to_thread(wait_for, lambda: len(ended(site)) == 3, 10, what="the sockets to close")
        async with connected(world, route) as ws:
            await ws.send_str("x")
            assert await ws.receive_str(timeout=10) == "x"


def ended(site: SiteProcess) -> list[list[Any]]:
    return [entry["closed"] for entry in site.seen if "closed" in entry]


def raw(world: World, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    """The head of the answer to one handshake, byte for byte as given."""
    with socket.create_connection(("127.0.0.1", world.gateway.port), 10) as connection:
        lines = "".join(f"{name}: {value}\r\n" for name, value in {"host": "127.0.0.1", **headers}.items())
        connection.sendall(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
        return connection.recv(65536)


class TestTheEnd:
    @pytest.mark.parametrize(
        ("code", "reason", "told"),
        [
            (1000, "bye", (1000, "bye")),
            (1001, "", (1001, "")),
            (1008, "rule", (1008, "rule")),
            (1011, "ü" * 61, (1011, "ü" * 61)),
            (3000, "", (3000, "")),
            (4999, "mine", (4999, "mine")),
            (1005, "", (1000, "")),
            (1006, "", (1014, "the server's connection broke")),
        ],
    )
    async def test_a_server_that_closes_is_heard(
        self, world: World, site: SiteProcess, code: int, reason: str, told: tuple[int, str]
    ) -> None:
        route = open_to_all(world, site, "ws-server-closes")
        async with connected(world, route, f"mode=close&code={code}&reason={reason}") as ws:
            assert await end_of(ws) == told

    @pytest.mark.parametrize(("code", "told"), [(1000, 1000), (1001, 1001), (3333, 3333), (4000, 4000)])
    async def test_a_client_that_closes_is_heard(
        self, world: World, site: SiteProcess, code: int, told: int
    ) -> None:
        async with connected(world, open_to_all(world, site, "ws-client-closes")) as ws:
            await ws.close(code=code, message=b"done")
            assert ws.close_code == code
        await asyncio.to_thread(wait_for, lambda: ended(site), 10, what="the server to hear of it")
        assert ended(site)[0] == [told, "done"]

    async def test_a_client_that_closes_without_a_code_is_heard(
        self, world: World, site: SiteProcess
    ) -> None:
        with handshaken(world, open_to_all(world, site, "ws-no-code")) as connection:
            connection.sendall(b"\x88\x80\x00\x00\x00\x00")
            assert connection.recv(100)[:2] == b"\x88\x02"
        await asyncio.to_thread(wait_for, lambda: ended(site), 10, what="the server to hear of it")
        assert ended(site)[0][0] == 1000

    async def test_a_client_that_vanishes_ends_the_servers_side(
        self, world: World, site: SiteProcess
    ) -> None:
        async with connected(world, open_to_all(world, site, "ws-vanishes")) as ws:
            transport = ws._response.connection.transport  # type: ignore[union-attr]
            assert transport is not None
            transport.abort()
            await asyncio.to_thread(wait_for, lambda: ended(site), 10, what="the server to hear of it")
        assert ended(site)[0][0] == 1001

    @pytest.mark.acceptance("S4.25")
    async def test_a_revoked_key_ends_it_within_a_second(self, world: World, site: SiteProcess) -> None:
        route = open_to_all(world, site, "ws-revoked")
        presented = world.key(id="k" * 26)
        async with connected(world, route, headers=bearer(presented)) as ws:
            await ws.send_str("x")
            await ws.receive_str(timeout=10)
            began = time.monotonic()
            world.publisher.publish(
                Credential(
                    tenant=TENANT,
                    version=world.publisher.next_version("credential"),
                    is_gone=True,
                    id="k" * 26,
                    digest=digest_of_key(presented),
                )
            )
            assert await end_of(ws) == (1008, "access to this server has ended")
            assert time.monotonic() - began < 3

    async def test_an_expiring_key_ends_it(self, world: World, site: SiteProcess) -> None:
        route = open_to_all(world, site, "ws-expiring")
        presented = world.key(expires_at=time.time() + 2)
        async with connected(world, route, headers=bearer(presented)) as ws:
            assert (await end_of(ws))[0] == 1008

    async def test_a_suspension_ends_it_and_so_does_the_policys_end(
        self, world: World, site: SiteProcess
    ) -> None:
        route = open_to_all(world, site, "ws-suspended")
        async with connected(world, route) as ws:
            suspension = Suspension(tenant=TENANT, version=1, server_slug="ws-suspended", reason="unpaid")
            world.publisher.publish(suspension)
            assert (await end_of(ws))[0] == 1008
        route = open_to_all(world, site, "ws-policy")
        async with connected(world, route) as ws:
            open_to_all(world, site, "ws-policy", other_paths=False)
            assert (await end_of(ws))[0] == 1008

    async def test_one_that_is_silent_but_alive_stays_and_one_that_is_not_is_closed(
        self, world: World, site: SiteProcess
    ) -> None:
        route = open_to_all(world, site, "ws-silent", limits=Limits(stream_idle_s=1.0))
        async with connected(world, route) as ws:
            hearing = asyncio.create_task(ws.receive_str())  # answers pings meanwhile
            with handshaken(world, route) as mute:
                assert await asyncio.to_thread(closing_code, mute, 30) == 1001
            await asyncio.sleep(2)
            assert not hearing.done()
            await ws.send_str("still here")
            assert await asyncio.wait_for(hearing, 10) == "still here"

    async def test_a_server_that_answers_no_ping_is_given_up(self, world: World, site: SiteProcess) -> None:
        route = open_to_all(world, site, "ws-mute")
        async with connected(world, route, "mode=mute") as ws:
            assert await end_of(ws) == (1014, "the server does not answer")


class TestBounds:
    @pytest.mark.acceptance("S4.30")
    async def test_a_message_over_the_bound_closes_it_whichever_side_sent_it(
        self, world: World, site: SiteProcess
    ) -> None:
        route = open_to_all(world, site, "ws-large", limits=Limits(event_bytes=100_000))
        async with connected(world, route) as ws:
            await ws.send_bytes(b"x" * 100_000)
            assert len(await ws.receive_bytes(timeout=10)) == 100_000
            await ws.send_str("ü" * 50_001)
            assert (await end_of(ws))[0] == 1009
        async with connected(world, route, "mode=bomb&size=100001") as ws:
            assert (await end_of(ws))[0] == 1009

    @pytest.mark.acceptance("S0.5")
    async def test_a_client_that_does_not_read_slows_the_server_down_and_is_given_up(
        self, world: World, site: SiteProcess
    ) -> None:
        route = open_to_all(world, site, "ws-slow")
        before = rss_mb(world)
        with handshaken(world, route, "mode=flood"):
            await asyncio.to_thread(
                wait_for, lambda: ended(site), 20, what="the gateway to give the client up"
            )
            (entry,) = site.seen
            assert entry["sent"] < 64 * MB
            assert rss_mb(world) - before < 32

    async def test_a_server_that_does_not_read_slows_the_client_down(
        self, world: World, site: SiteProcess
    ) -> None:
        route = open_to_all(world, site, "ws-deaf", limits=Limits(stream_idle_s=2.0))
        before = rss_mb(world)
        sent = 0
        with handshaken(world, route, "mode=deaf") as connection:
            connection.settimeout(1.0)
            frame = binary_frame(b"y" * 65536)
            with contextlib.suppress(OSError):
                while sent < 256 * MB:
                    sent += connection.send(frame)
            assert sent < 64 * MB
            assert rss_mb(world) - before < 32

    async def test_a_slow_reader_gets_everything_in_order(self, world: World, site: SiteProcess) -> None:
        async with connected(world, open_to_all(world, site, "ws-order")) as ws:

            async def send() -> None:
                for number in range(500):
                    await ws.send_bytes(struct.pack(">I", number) + b"z" * 10_000)

            sending = asyncio.create_task(send())
            for number in range(500):
                if number % 100 == 0:
                    await asyncio.sleep(0.2)
                assert (await ws.receive_bytes(timeout=10))[:4] == struct.pack(">I", number)
            await sending

    @pytest.mark.acceptance("S4.19")
    async def test_a_flood_of_messages_leaves_the_gateway_to_others(
        self, world: World, site: SiteProcess
    ) -> None:
        route = open_to_all(world, site, "ws-flood")
        neighbour = world.caller(world.server("ws-neighbour"))
        with handshaken(world, route) as connection:
            connection.settimeout(0.05)
            frames, took = binary_frame(b"f") * 5000, []
            for _ in range(20):
                with contextlib.suppress(TimeoutError):
                    connection.send(frames)
                began = time.monotonic()
                assert (await asyncio.to_thread(neighbour.call, "echo")).status_code == 200
                took.append(time.monotonic() - began)
        assert sorted(took)[len(took) // 2] < 0.5

    async def test_frames_that_break_the_protocol_end_it(self, world: World, site: SiteProcess) -> None:
        route = open_to_all(world, site, "ws-broken")
        for frame, code in (
            (b"\x81\x05hello", 1002),  # not masked
            (b"\xc1\x80\x00\x00\x00\x00", 1002),  # a reserved bit: compression nobody agreed on
            (b"\x83\x80\x00\x00\x00\x00", 1002),  # a reserved opcode
            (b"\x80\x80\x00\x00\x00\x00", 1002),  # the rest of nothing
            (b"\x01\x80\x00\x00\x00\x00\x81\x80\x00\x00\x00\x00", 1002),  # a message inside another
            (b"\x09\x80\x00\x00\x00\x00", 1002),  # a ping in pieces
            (b"\x89\xfe\x00\x7e\x00\x00\x00\x00" + b"p" * 126, 1002),  # a ping that is too long
            (b"\x81\x82\x00\x00\x00\x00\xff\xff", 1007),  # text that is no UTF-8
            (b"\x82\xff" + struct.pack(">Q", 1 << 62) + b"\x00\x00\x00\x00", 1009),  # a frame nobody can hold
            (b"\x88\x82\x00\x00\x00\x00" + struct.pack(">H", 1006), 1002),  # a code nobody may send
            (b"\x88\x81\x00\x00\x00\x00x", 1002),  # half of a code
        ):
            site.forget()
            with handshaken(world, route) as connection:
                connection.sendall(frame)
                assert closing_code(connection) == code
            await asyncio.to_thread(wait_for, lambda: ended(site), 10, what="the server's side to end")

    @pytest.mark.acceptance("S4.19", "S4.30")
    async def test_messages_that_never_end_hold_no_more_than_their_tenant_may(
        self, world: World, site: SiteProcess
    ) -> None:
        route = open_to_all(world, site, "ws-bombs")
        before, codes = rss_mb(world), []
        with contextlib.ExitStack() as stack:
            bombs = [stack.enter_context(handshaken(world, route)) for _ in range(12)]
            for bomb in bombs:
                bomb.settimeout(0.5)
                with contextlib.suppress(OSError):
                    bomb.sendall(binary_frame(b"b" * 4_000_000)[:-1])
            for bomb in bombs:
                with contextlib.suppress(TimeoutError):
                    codes.append(closing_code(bomb, 0.5))
            assert codes.count(1013) >= 6
            assert rss_mb(world) - before < 64
        await asyncio.to_thread(
            wait_for,
            lambda: world.gateway.metric("smcp_gateway_held_bytes") == 0,
            10,
            what="all to be given back",
        )

    async def test_fragments_and_pings_between_them_become_one_message(
        self, world: World, site: SiteProcess
    ) -> None:
        route = open_to_all(world, site, "ws-fragments")
        mask = b"\x00\x00\x00\x00"
        with handshaken(world, route) as connection:
            connection.settimeout(10)
            pieces = (
                b"\x01\x82" + mask + b"he",
                b"\x89\x80" + mask,
                b"\x00\x82" + mask + b"ll",
                b"\x80\x81" + mask + b"o",
            )
            for piece in pieces:
                connection.sendall(piece)
            answer = b""
            while not answer.endswith(b"\x81\x05hello"):
                answer += connection.recv(4096)
                assert b"\x88" not in answer
            assert answer.replace(b"\x89\x00", b"") == b"\x8a\x00\x81\x05hello"  # without our own pings


@contextlib.contextmanager
def handshaken(world: World, route: Route, query: str = "") -> Any:
    """A raw connection on which a WebSocket stands, with a small receive buffer."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
        connection.connect(("127.0.0.1", world.gateway.port))
        path = ws_url(world, route, query).removeprefix(world.gateway.url)
        key = base64.b64encode(os.urandom(16)).decode()
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
            f"sec-websocket-version: 13\r\nsec-websocket-key: {key}\r\nauthorization: Bearer {world.key()}\r\n\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        assert head.startswith(b"HTTP/1.1 101"), head
        yield connection


def closing_code(connection: socket.socket, timeout_s: float = 10) -> int:
    """Of the close frame that comes; pings before it are passed over. 0 for an end without one."""
    connection.settimeout(timeout_s)
    answer = b""
    while b"\x88" not in answer.replace(b"\x89\x00", b"") or len(answer) < 4:
        piece = connection.recv(4096)
        if not piece:
            return 0
        answer += piece
    frame = answer.replace(b"\x89\x00", b"")
    return int.from_bytes(frame[2:4], "big")


def binary_frame(data: bytes) -> bytes:
    """Masked with zeros, as a client must."""
    length = (
        bytes((0x80 | len(data),))
        if len(data) < 126
        else b"\xfe" + struct.pack(">H", len(data))
        if len(data) < 65536
        else b"\xff" + struct.pack(">Q", len(data))
    )
    return b"\x82" + length + b"\x00\x00\x00\x00" + data


async def test_what_passed_is_reported_and_counted(world: World, site: SiteProcess) -> None:
    route = open_to_all(world, site, "ws-reports")
    open_before = world.gateway.metric("smcp_gateway_streams_open")
    async with connected(world, route) as ws:
        await ws.send_bytes(b"x" * 1000)
        await ws.receive_bytes(timeout=10)
        assert world.gateway.metric("smcp_gateway_streams_open") == open_before + 1

    def told() -> int:
        return sum(
            report.response_bytes
            for report in world.publisher.reports()
            if getattr(report, "environment", "") == route.environment and hasattr(report, "response_bytes")
        )

    await asyncio.to_thread(wait_for, lambda: told() == 1000, 10, what="the bytes to be reported")
    assert world.gateway.metric("smcp_gateway_streams_open") == open_before
