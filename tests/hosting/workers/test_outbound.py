"""The outbound Worker in workerd: a tenant's Worker behind it, servers on loopback as the world outside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from .workerd import WORKERS, Service, bind_json, bind_service, running

# Answers what a fetch of its own was answered: the address and options come with the request.
TENANT_WORKER = """
export default {
  async fetch(request) {
    const [address, options] = await request.json();
    const answer = await fetch(address, options);
    return Response.json({ status: answer.status, text: await answer.text(), redirected: answer.redirected });
  },
};
"""

# One Worker per policy under test, chosen by the first part of the path.
ROUTER = """
export default {
  fetch(request, env) {
    return env[new URL(request.url).pathname.slice(1)].fetch(request);
  },
};
"""


@pytest.fixture
async def world() -> AsyncIterator[list[TestServer]]:
    """Three servers: [0] and [1] to be listed, [2] never. Each tells its number; [0]/to redirects where `?at=` says."""

    def server(number: int) -> TestServer:
        async def tell(request: web.Request) -> web.Response:
            return web.Response(text=f"{number} {request.method} {await request.text()}".strip())

        async def redirect(request: web.Request) -> web.Response:
            raise web.HTTPFound(request.query["at"])

        app = web.Application()
        app.router.add_get("/to", redirect)
        app.router.add_route("*", "/", tell)
        return TestServer(app, host="127.0.0.1")

    servers = [server(number) for number in range(3)]
    for one in servers:
        await one.start_server()
    yield servers
    for one in servers:
        await one.close()


@pytest.fixture
def url(world: list[TestServer], tmp_path: Path) -> Iterator[str]:
    guard = (WORKERS / "outbound/worker.js").read_text()
    listed = [f"127.0.0.1:{world[0].port}", f"LOCALHOST:{world[1].port}"]
    policies: dict[str, list[str]] = {
        "listed": [bind_json("policy", {"tenant": "t", "allow": listed})],
        "empty": [bind_json("policy", {"tenant": "t", "allow": []})],
        "none": [],
        "broken": [bind_json("policy", {"tenant": "t", "allow": "127.0.0.1"})],
        "stars": [bind_json("policy", {"tenant": "t", "allow": ["*", "*:*", "127.0.0.1", None]})],
    }
    services = {
        "router": Service(
            modules={"router.js": ROUTER}, bindings=[bind_service(name, name) for name in policies]
        )
    }
    for name, bindings in policies.items():
        services[name] = Service(modules={"tenant.js": TENANT_WORKER}, outbound=f"guard-{name}")
        services[f"guard-{name}"] = Service(
            modules={"worker.js": guard}, bindings=bindings, outbound="network"
        )
    with running(services, tmp_path) as at:
        yield at


async def fetch(url: str, policy: str, address: str, **options: Any) -> tuple[int, str]:
    """What the tenant's Worker under that policy got for its fetch."""
    async with aiohttp.ClientSession() as session:
        answer = await session.post(f"{url}/{policy}", json=[address, options])
        told = await answer.json()
        return told["status"], told["text"]


def refused(answer: tuple[int, str], target: str) -> bool:
    return answer[0] == 403 and "egress-refused" in answer[1] and target in answer[1]


async def test_a_listed_target_is_reached_with_method_and_body(url: str, world: list[TestServer]) -> None:
    address = f"http://127.0.0.1:{world[0].port}/"
    assert await fetch(url, "listed", address, method="PUT", body="text") == (200, "0 PUT text")


async def test_case_and_a_trailing_dot_do_not_change_a_name(url: str, world: list[TestServer]) -> None:
    assert await fetch(url, "listed", f"http://LocalHost:{world[1].port}/") == (200, "1 GET")
    unlisted = f"localhost:{world[2].port}"
    assert refused(await fetch(url, "listed", f"http://{unlisted.replace(':', '.:')}/"), unlisted)


async def test_another_port_of_a_listed_host_is_refused(url: str, world: list[TestServer]) -> None:
    target = f"127.0.0.1:{world[2].port}"
    assert refused(await fetch(url, "listed", f"http://{target}/"), target)
    assert refused(await fetch(url, "listed", "http://127.0.0.1/"), "127.0.0.1:80")
    assert refused(await fetch(url, "listed", "https://127.0.0.1/"), "127.0.0.1:443")


async def test_another_name_of_a_listed_host_is_refused(url: str, world: list[TestServer]) -> None:
    assert refused(await fetch(url, "listed", f"http://localhost:{world[0].port}/"), "localhost")
    assert refused(await fetch(url, "listed", f"http://user@127.0.0.1.example:{world[0].port}/"), "example")


async def test_other_spellings_of_an_address_are_the_same_address(url: str, world: list[TestServer]) -> None:
    assert await fetch(url, "listed", f"http://2130706433:{world[0].port}/") == (200, "0 GET")
    assert refused(await fetch(url, "listed", f"http://0x7f.1:{world[2].port}/"), "127.0.0.1")


async def test_a_redirect_to_a_listed_target_is_followed(url: str, world: list[TestServer]) -> None:
    to = f"http://localhost:{world[1].port}/"
    assert await fetch(url, "listed", f"http://127.0.0.1:{world[0].port}/to?at={to}") == (200, "1 GET")


async def test_a_redirect_does_not_lead_past_the_list(url: str, world: list[TestServer]) -> None:
    target = f"127.0.0.1:{world[2].port}"
    answer = await fetch(url, "listed", f"http://127.0.0.1:{world[0].port}/to?at=http://{target}/")
    assert refused(answer, target)


@pytest.mark.parametrize("policy", ["empty", "none", "broken", "stars"])
async def test_without_a_proper_list_everything_is_refused(
    url: str, world: list[TestServer], policy: str
) -> None:
    target = f"127.0.0.1:{world[0].port}"
    assert refused(await fetch(url, policy, f"http://{target}/"), target)


@pytest.mark.parametrize(("outbound", "outcome"), [("network", "open"), ("guard", "refused")])
async def test_a_socket_does_not_pass_the_outbound_worker(
    world: list[TestServer], tmp_path: Path, outbound: str, outcome: str
) -> None:
    code = """
    import { connect } from "cloudflare:sockets";
    export default {
      async fetch(request) {
        const socket = connect(await request.text());
        const opened = await socket.opened.then(() => "open", () => "refused");
        await socket.close().catch(() => {});
        return new Response(opened);
      },
    };
    """
    guard = (WORKERS / "outbound/worker.js").read_text()
    policy = bind_json("policy", {"tenant": "t", "allow": [f"127.0.0.1:{world[0].port}"]})
    services = {
        "tenant": Service(modules={"tenant.js": code}, outbound=outbound),
        "guard": Service(modules={"worker.js": guard}, bindings=[policy], outbound="network"),
    }
    with running(services, tmp_path) as url:
        async with httpx.AsyncClient() as client:
            assert (await client.post(url, content=f"127.0.0.1:{world[0].port}")).text == outcome
