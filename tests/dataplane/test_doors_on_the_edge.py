"""WebSockets and other paths all the way: gateway, dispatcher Worker, a real Worker with a Durable Object that hibernates."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import httpx
import pytest

from hosting.dataplane.contract import Dispatch, Route, b64url
from tests.dataplane.harness import DOMAIN, GatewayProcess, Publisher, RedisProcess, StandInProcess, World
from tests.hosting.workers.conftest import AUDIENCE, Account, account

__all__ = ["account"]

WORKER = """
import { DurableObject } from "cloudflare:workers";

export class Room extends DurableObject {
  async fetch(request) {
    const [client, server] = Object.values(new WebSocketPair());
    this.ctx.acceptWebSocket(server, ["member"]);
    server.serializeAttachment({ asked: request.headers.get("sec-websocket-protocol") ?? "" });
    return new Response(null, { status: 101, webSocket: client, headers: { "sec-websocket-protocol": "chat.v1" } });
  }

  async webSocketMessage(socket, message) {
    if (message === "leave") return socket.close(4001, "as you wish");
    if (message === "how many") return socket.send(String(this.ctx.getWebSockets("member").length));
    for (const each of this.ctx.getWebSockets("member")) each.send(message);
  }

  async webSocketClose(socket, code, reason) {
    const seen = (await this.ctx.storage.get("closed")) ?? [];
    await this.ctx.storage.put("closed", [...seen, [code, reason]]);
    try { socket.close(code, reason); } catch {}
  }

  async closed() {
    return (await this.ctx.storage.get("closed")) ?? [];
  }
}

export default {
  async fetch(request, env) {
    const room = env.ROOM.get(env.ROOM.idFromName("one"));
    const { pathname } = new URL(request.url);
    if (pathname === "/ws") return room.fetch(request);
    if (pathname === "/closed") return Response.json(await room.closed());
    if (pathname === "/upper") return new Response((await request.text()).toUpperCase(), { headers: { "set-cookie": "a=b" } });
    if (pathname === "/away") return Response.redirect(new URL("/upper", request.url), 302);
    return new Response("nothing here", { status: 404 });
  },
};
"""


@pytest.fixture(scope="module")
def on_edge(
    tmp_path_factory: pytest.TempPathFactory,
    own_redis: RedisProcess,
    standin: StandInProcess,
    account: Account,
) -> Iterator[World]:
    """A gateway whose assertions the account's real dispatcher believes."""
    publisher = Publisher(own_redis.url)
    publisher.new_epoch()
    ring = f"k1:{b64url(account.key.private_bytes_raw())}"
    directory: Path = tmp_path_factory.mktemp("edge-gateway")
    gateway = GatewayProcess(directory, redis_url=own_redis.url, dispatch_ring=ring, keepalive_s="1")
    gateway.start()
    with httpx.Client(timeout=30) as http:
        yield World(gateway, standin, publisher, http)
    gateway.stop()
    publisher.close()


@pytest.fixture(scope="module")
def route(on_edge: World, account: Account) -> Route:
    script = account.put(
        WORKER,
        bindings=[{"type": "durable_object_namespace", "name": "ROOM", "class_name": "Room"}],
        migrations={"new_tag": "v1", "new_sqlite_classes": ["Room"]},
    )
    dispatch = Dispatch(url=account.url, host=account.host, audience=AUDIENCE)
    return on_edge.server("room", on_edge.target(script), dispatch=dispatch, other_paths=True)


@pytest.mark.acceptance("S1.1", "S1.9")
async def test_sockets_of_a_hibernating_durable_object(on_edge: World, route: Route) -> None:
    headers = {"authorization": f"Bearer {on_edge.key()}"}
    url = f"{on_edge.gateway.url}/acme/room/ws"
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.ws_connect(url, protocols=("chat.v1", "chat.v2")) as one,
        session.ws_connect(url, protocols=("chat.v1",)) as two,
    ):
        assert one.protocol == "chat.v1"
        await one.send_str("hello, both")
        assert [await socket.receive_str(timeout=20) for socket in (one, two)] == ["hello, both"] * 2
        await two.send_bytes(b"\x00\xff" * 50_000)
        assert [await socket.receive_bytes(timeout=20) for socket in (one, two)] == [b"\x00\xff" * 50_000] * 2
        quiet = asyncio.create_task(two.receive_str())
        await asyncio.sleep(4)  # the object may sleep; pings of ours are answered for it
        await one.send_str("how many")
        assert await one.receive_str(timeout=20) == "2"
        assert not quiet.done()
        await one.send_str("leave")
        message = await one.receive(timeout=20)
        assert (message.type, one.close_code) == (aiohttp.WSMsgType.CLOSE, 4001)
        assert message.extra == "as you wish"
        quiet.cancel()
        await asyncio.gather(quiet, return_exceptions=True)
        await two.close(code=4002, message=b"good night")
    own = {"host": f"room--acme.{DOMAIN}", **headers}
    for _ in range(100):
        closed = on_edge.http.get(f"{on_edge.gateway.url}/closed", headers=own).json()
        if [4002, "good night"] in closed:
            break
        await asyncio.sleep(0.1)
    assert [4002, "good night"] in closed


def test_other_paths_of_a_real_worker(on_edge: World, route: Route) -> None:
    own = {"host": f"room--acme.{DOMAIN}", "authorization": f"Bearer {on_edge.key()}"}
    url = on_edge.gateway.url
    answer = on_edge.http.post(f"{url}/upper", headers=own, content=b"hello")
    assert (answer.status_code, answer.text) == (200, "HELLO")
    assert "set-cookie" not in answer.headers
    redirect = on_edge.http.get(f"{url}/away", headers=own)
    assert (redirect.status_code, redirect.headers["location"]) == (302, "/upper")
    assert on_edge.http.get(f"{url}/none", headers=own).status_code == 404
    assert on_edge.http.get(f"{url}/mcp/", headers=own).status_code == 404
