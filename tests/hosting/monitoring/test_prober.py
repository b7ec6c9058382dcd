"""What a probe sends and how it reads answers, against a gateway that answers as it is told."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from hosting.dataplane.contract import is_probe_token
from hosting.mcp import LEGACY, MODERN
from hosting.monitoring.prober import ENDING_TIMEOUT_S, PROBE_TIMEOUT_S, Address, Outcome, Prober

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
        return (await self.probe_all([self.address(era=era)]))[0]

    def address(self, environment: str = ENVIRONMENT, era: str = "modern") -> Address:
        return Address(
            tenant="t", environment=environment, url=self.url, era=era, claimed_until=datetime.now(UTC)
        )

    async def probe_all(
        self, addresses: Sequence[Address], *, timeout_s: float = PROBE_TIMEOUT_S
    ) -> list[Outcome]:
        """Outcomes in the order of their arrival. In a thread: the gateway answers on this loop."""

        def probe() -> list[Outcome]:
            outcomes = []
            with Prober(key=KEY, timeout_s=timeout_s) as prober:
                prober.start(addresses)
                while prober.in_flight:
                    outcomes += prober.take(within_s=1)
            return outcomes

        return await asyncio.to_thread(probe)


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    app = web.Application()
    app.router.add_route("*", "/t/s/mcp", gateway.handle)
    runner = web.AppRunner(app, handler_cancellation=True)  # what a probe gave up on is over here too
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
    "body",
    ["", "{", "[]", "null", "[" * 100_000, '{"error":{"code":-32603}}', '{"result":{}}', "x" * 300_000],
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


async def test_an_outcome_is_handed_out_when_it_arrives_with_the_time_it_has(gateway: Gateway):
    hanging = asyncio.Event()

    async def hang_for_the_first(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        if len(gateway.asked) == 1:
            await hanging.wait()
        elif len(gateway.asked) == 20:
            hanging.set()
        return await healthy(request, asked)

    gateway.answer = hang_for_the_first
    outcomes = await gateway.probe_all([gateway.address(f"e{n}") for n in range(20)])
    assert [o.is_ok for o in outcomes] == [True] * 20
    assert [o.at for o in outcomes] == sorted(o.at for o in outcomes)


@pytest.mark.parametrize("hangs_at", ["initialize", "ping", "DELETE"])
async def test_however_a_server_hangs_its_probe_is_over_in_time(gateway: Gateway, hangs_at: str):
    async def hang(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        if hangs_at in {asked["verb"], asked.get("method")}:
            await asyncio.Event().wait()
        return await healthy(request, asked)

    gateway.answer = hang
    began = time.monotonic()
    (outcome,) = await gateway.probe_all([gateway.address(era="legacy")], timeout_s=0.5)
    assert time.monotonic() - began < ENDING_TIMEOUT_S + 5
    expected = (True, "") if hangs_at == "DELETE" else (False, "timeout")
    assert (outcome.is_ok, outcome.failure) == expected
    assert outcome.latency_ms < ENDING_TIMEOUT_S * 1000
    assert gateway.asked[-1]["verb"] == ("POST" if hangs_at == "initialize" else "DELETE")


async def test_leaving_ends_what_is_in_flight_and_its_session(gateway: Gateway):
    is_asked = threading.Event()

    async def hang_at_ping(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        if asked.get("method") == "ping":
            is_asked.set()
            await asyncio.Event().wait()
        return await healthy(request, asked)

    gateway.answer = hang_at_ping
    prober = Prober(key=KEY)

    def begin_and_leave() -> bool:
        with prober:
            prober.start([gateway.address(era="legacy")])
            return is_asked.wait(10)

    assert await asyncio.to_thread(begin_and_leave)
    assert gateway.asked[-1]["verb"] == "DELETE"
    assert [address.environment for address in prober.in_flight] == [ENVIRONMENT]
    assert prober.take(within_s=0) == []
