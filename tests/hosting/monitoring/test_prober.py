"""What a probe sends and how it reads answers, against a gateway that answers as it is told."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from hosting.dataplane.contract import is_probe_token
from hosting.monitoring.prober import LEGACY, MODERN, Address, Outcome, probe_all

KEY = b"k" * 32
ENVIRONMENT = "01jd0000000000000000000000"


class Gateway:
    """Keeps what it was asked, answers with what `answer` returns."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answer: Any = None
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.text()
        message = json.loads(body) if body else {}
        asked = {"verb": request.method, "headers": request.headers, **message}
        self.asked.append(asked)
        answered: web.StreamResponse = await self.answer(request, asked)
        return answered

    async def probe(self, era: str) -> Outcome:
        address = Address(tenant="t", environment=ENVIRONMENT, url=self.url, era=era)
        return (await probe_all([address], key=KEY))[0]


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    app = web.Application()
    app.router.add_route("*", "/t/s/mcp", gateway.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    gateway.url = f"http://{host}:{port}/t/s/mcp"
    yield gateway
    await runner.cleanup()


def result(value: dict[str, Any], **headers: str) -> web.Response:
    return web.json_response({"jsonrpc": "2.0", "id": 1, "result": value}, headers=headers)


async def healthy(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
    if asked.get("method") == "server/discover":
        return result({"supportedVersions": [MODERN], "capabilities": {}})
    if asked.get("method") == "initialize":
        return result({"protocolVersion": LEGACY, "capabilities": {}}, **{"mcp-session-id": "s1.k.abc"})
    return result({}) if asked["verb"] == "POST" else web.Response(status=200)


async def test_a_modern_server_is_asked_once(gateway: Gateway):
    gateway.answer = healthy
    outcome = await gateway.probe("modern")
    assert outcome.is_ok is True
    assert [asked["method"] for asked in gateway.asked] == ["server/discover"]


@pytest.mark.acceptance("P3")
async def test_a_legacy_probe_leaves_no_session_behind(gateway: Gateway):
    gateway.answer = healthy
    assert (await gateway.probe("legacy")).is_ok is True
    assert [(a["verb"], a.get("method")) for a in gateway.asked] == [
        ("POST", "initialize"),
        ("POST", "ping"),
        ("DELETE", None),
    ]
    assert {a["headers"].get("mcp-session-id") for a in gateway.asked[1:]} == {"s1.k.abc"}


async def test_the_session_is_ended_even_when_the_server_fails_after_opening_it(gateway: Gateway):
    async def fails_on_ping(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=502) if asked.get("method") == "ping" else await healthy(request, asked)

    gateway.answer = fails_on_ping
    outcome = await gateway.probe("legacy")
    assert (outcome.is_ok, outcome.failure) == (False, "upstream_error")
    assert gateway.asked[-1]["verb"] == "DELETE"


async def test_the_token_is_for_this_environment_only(gateway: Gateway):
    gateway.answer = healthy
    await gateway.probe("modern")
    token = gateway.asked[0]["headers"]["authorization"].removeprefix("Bearer ")
    assert is_probe_token(token, key=KEY, environment=ENVIRONMENT, now=time.time())
    assert not is_probe_token(token, key=KEY, environment="01jd0000000000000000000001", now=time.time())
    assert not is_probe_token(token, key=KEY, environment=ENVIRONMENT, now=time.time() + 61)
    assert not is_probe_token(token, key=b"x" * 32, environment=ENVIRONMENT, now=time.time())


@pytest.mark.parametrize(
    ("status", "is_ok", "failure"),
    [
        (401, None, "gateway_401"),
        (403, None, "gateway_403"),
        (404, None, "gateway_404"),
        (429, None, "gateway_429"),
        (503, None, "gateway_503"),
        (500, False, "upstream_error"),
        (502, False, "upstream_error"),
        (504, False, "timeout"),
    ],
)
async def test_what_the_gateway_says_of_itself_is_no_verdict_on_the_server(
    gateway: Gateway, status, is_ok, failure
):
    async def refuse(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=status)

    gateway.answer = refuse
    outcome = await gateway.probe("modern")
    assert (outcome.is_ok, outcome.failure) == (is_ok, failure)


@pytest.mark.parametrize(
    "body", ["", "{", "[]", "null", '{"error":{"code":-32603}}', '{"result":{}}', "x" * 300_000]
)
async def test_an_answer_that_is_none_counts_against_the_server(gateway: Gateway, body):
    async def babble(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        return web.Response(text=body, content_type="application/json")

    gateway.answer = babble
    outcome = await gateway.probe("modern")
    assert (outcome.is_ok, outcome.failure) == (False, "bad_answer")


async def test_an_answer_on_a_stream_is_found_behind_notifications(gateway: Gateway):
    async def stream(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        found = {"jsonrpc": "2.0", "id": 1, "result": {"supportedVersions": [MODERN]}}
        await answer.write(b': keep-alive\n\ndata: {"jsonrpc":"2.0","method":"notifications/message"}\n\n')
        await answer.write(f"event: message\ndata: {json.dumps(found)}\n\n".encode())
        return answer

    gateway.answer = stream
    assert (await gateway.probe("modern")).is_ok is True


async def test_a_dropped_connection_is_told_from_a_gateway_that_is_not_there(
    gateway: Gateway, free_port: int
):
    async def drop(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    gateway.answer = drop
    assert (await gateway.probe("modern")).failure == "unreachable"
    gateway.url = f"http://127.0.0.1:{free_port}/t/s/mcp"
    nobody = await gateway.probe("modern")
    assert (nobody.is_ok, nobody.failure) == (None, "gateway_unreachable")


async def test_a_slow_server_holds_up_no_other_probe(gateway: Gateway):
    release = asyncio.Event()

    async def slow_for_one(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        if len(gateway.asked) == 1:
            await release.wait()
        elif len(gateway.asked) == 20:
            release.set()
        return await healthy(request, asked)

    gateway.answer = slow_for_one
    address = Address(tenant="t", environment=ENVIRONMENT, url=gateway.url, era="modern")
    outcomes = await probe_all([address] * 20, key=KEY)
    assert [o.is_ok for o in outcomes] == [True] * 20
