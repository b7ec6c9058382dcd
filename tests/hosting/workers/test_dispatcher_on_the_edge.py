"""The dispatcher Worker where it really runs: on the edge, in front of a dispatch namespace."""

from __future__ import annotations

from urllib.parse import unquote

import aiohttp
import httpx
import pytest

from .conftest import Account

HELLO = "export default { fetch: (request) => new Response(new URL(request.url).pathname) };"


def test_without_an_assertion_the_namespace_is_closed(account: Account) -> None:
    answer = httpx.get(account.url, headers={"host": account.host})
    assert (answer.status_code, answer.headers["smcp-dispatch-error"]) == (401, "unauthorized")


def test_an_assertion_opens_the_script_it_names(account: Account) -> None:
    script = account.put(HELLO)
    answer = httpx.get(f"{account.url}/a/b", headers=account.headers(script))
    assert (answer.status_code, answer.text) == (200, "/a/b")
    assert "smcp-dispatch-error" not in answer.headers


def test_a_script_that_does_not_exist_or_is_gone_is_not_found(account: Account) -> None:
    answer = httpx.get(account.url, headers=account.headers("never-uploaded"))
    assert (answer.status_code, answer.headers["smcp-dispatch-error"]) == (404, "not-found")

    script = account.put(HELLO)
    assert httpx.get(account.url, headers=account.headers(script)).status_code == 200
    account.cloudflare.delete_script(script)
    answer = httpx.get(account.url, headers=account.headers(script))
    assert (answer.status_code, answer.headers["smcp-dispatch-error"]) == (404, "not-found")


def test_a_worker_that_throws_is_told_as_an_exception_with_its_message(account: Account) -> None:
    script = account.put('export default { fetch() { throw new Error("secret of the tenant"); } };')
    answer = httpx.get(account.url, headers=account.headers(script))
    assert (answer.status_code, answer.headers["smcp-dispatch-error"]) == (502, "exception")
    assert unquote(answer.headers["smcp-dispatch-message"]) == "secret of the tenant"
    assert "secret" not in answer.text


@pytest.mark.acceptance("S0.6", "S4.14")
def test_a_worker_beyond_the_cpu_limit_of_the_dispatch_is_ended_and_told_as_limits(account: Account) -> None:
    script = account.put("""
        export default {
          fetch(request) {
            while (request.url.endsWith("/loop"));
            return new Response("alive");
          },
        };
    """)
    headers = account.headers(script, cpu_ms=500)
    answer = httpx.get(f"{account.url}/loop", headers=headers, timeout=60)
    assert (answer.status_code, answer.headers["smcp-dispatch-error"]) == (503, "limits")
    assert httpx.get(account.url, headers=headers, timeout=60).text == "alive"


async def test_websockets_reach_the_script(account: Account) -> None:
    script = account.put("""
        export default {
          fetch() {
            const [client, server] = Object.values(new WebSocketPair());
            server.accept();
            server.addEventListener("message", (event) => server.send(event.data.toUpperCase()));
            return new Response(null, { status: 101, webSocket: client });
          },
        };
    """)
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(account.url, headers=account.headers(script)) as socket,
    ):
        await socket.send_str("hello")
        assert await socket.receive_str(timeout=10) == "HELLO"
