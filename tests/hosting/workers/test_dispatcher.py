"""The dispatcher Worker in workerd, with a dispatch namespace in front of two tenants' Workers."""

from __future__ import annotations

import asyncio
import base64
import gzip
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import unquote

import aiohttp
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hosting.dataplane.contract import ASSERTION_HEADER, Assertion, b64url, sign_assertion
from tests.waiting import wait_for

from .workerd import WORKERS, Service, bind_json, bind_service, bind_text, running

AUDIENCE = "account-under-test"
TENANT = "01jd0000000000000000000000"
ERROR = "smcp-dispatch-error"
MESSAGE = "smcp-dispatch-message"

# Stands for Cloudflare's dispatch namespace: scripts by name, the documented error for one that does not exist, and the
# options of the dispatch shown to the script so that a test can see them.
NAMESPACE = """
import dispatcher from "./worker.js";
export default {
  fetch(request, env, ctx) {
    const DISPATCHER = {
      get(name, args, options) {
        const script = env[`SCRIPT_${name}`];
        if (request.url.endsWith("/throw-nonsense")) throw { get message() { throw new Error("no"); } };
        if (!script) throw new Error("Worker not found.");
        return { fetch: (inner) => {
          inner.headers.set("x-options", JSON.stringify(options));
          return script.fetch(inner);
        } };
      },
    };
    return dispatcher.fetch(request, { ...env, DISPATCHER }, ctx);
  },
};
"""

TENANT_WORKER = """
export default {
  async fetch(request, env) {
    const { pathname } = new URL(request.url);
    if (request.headers.get("upgrade") === "websocket") {
      const [client, server] = Object.values(new WebSocketPair());
      server.accept();
      server.addEventListener("message", (event) => server.send(`${env.NAME}: ${event.data}`));
      return new Response(null, { status: 101, webSocket: client, headers: { "smcp-forged": "1" } });
    }
    if (pathname === "/throw") {
      const told = request.headers.get("x-message-json");
      throw new Error(told ? JSON.parse(told) : request.headers.get("x-message") ?? "a secret of the tenant");
    }
    if (pathname === "/stream") {
      let release;
      const gate = new Promise((resolve) => (release = resolve));
      const { readable, writable } = new TransformStream();
      const writer = writable.getWriter();
      const encoder = new TextEncoder();
      (async () => {
        await writer.write(encoder.encode("data: first\\n\\n"));
        const reader = request.body.getReader();
        for (;;) {
          const { done, value } = await reader.read();
          if (done) break;
          await writer.write(value);
        }
        await writer.close();
      })();
      return new Response(readable, { headers: { "content-type": "text/event-stream" } });
    }
    if (pathname === "/gzip") {
      const bytes = Uint8Array.from(atob(request.headers.get("x-body")), (c) => c.charCodeAt(0));
      return new Response(bytes, { encodeBody: "manual", headers: { "content-encoding": "gzip" } });
    }
    if (pathname === "/redirect") return Response.redirect("https://elsewhere.example/", 302);
    if (pathname === "/empty") return new Response(null, { status: 204 });
    const headers = new Headers({ "smcp-dispatch-error": "not-found", "smcp-dispatch-message": "forged", "smcp-session": "forged", "x-mine": "kept" });
    headers.append("set-cookie", "a=1");
    headers.append("set-cookie", "b=2");
    const told = { name: env.NAME, method: request.method, url: request.url, headers: Object.fromEntries(request.headers) };
    told.body = await request.text();
    return Response.json(told, { status: pathname === "/418" ? 418 : 200, headers });
  },
};
"""


class Platform:
    """The signing side: two keys the dispatcher knows."""

    def __init__(self) -> None:
        self.keys = {kid: Ed25519PrivateKey.generate() for kid in ("k1", "k2")}

    def public_keys(self) -> dict[str, str]:
        return {
            kid: b64url(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
            for kid, key in self.keys.items()
        }

    def assertion(self, *, kid: str = "k1", key: Ed25519PrivateKey | None = None, **claims: Any) -> str:
        now = int(time.time())
        fields = {"aud": AUDIENCE, "ten": TENANT, "wrk": "one", "iat": now, "exp": now + 60, **claims}
        return sign_assertion(Assertion(**fields), kid=kid, key=key or self.keys[kid])


@pytest.fixture(scope="module")
def platform() -> Platform:
    return Platform()


@pytest.fixture(scope="module")
def url(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    code = (WORKERS / "dispatcher/worker.js").read_text()
    dispatcher = Service(
        modules={"namespace.js": NAMESPACE, "worker.js": code},
        bindings=[
            bind_json("PLATFORM_KEYS", platform.public_keys()),
            bind_text("AUD", AUDIENCE),
            bind_service("SCRIPT_one", "one"),
            bind_service("SCRIPT_two", "two"),
        ],
    )
    tenants = {
        name: Service(modules={"tenant.js": TENANT_WORKER}, bindings=[bind_text("NAME", name)])
        for name in ("one", "two")
    }
    with running({"dispatcher": dispatcher, **tenants}, tmp_path_factory.mktemp("dispatcher")) as at:
        yield at


@pytest.fixture
def ask(url: str, platform: Platform) -> Iterator[Callable[..., httpx.Response]]:
    with httpx.Client(base_url=url) as client:

        def request(
            path: str = "/",
            assertion: str | None = "",
            method: str = "GET",
            headers: dict[str, str] | None = None,
            **rest: Any,
        ) -> httpx.Response:
            sent = dict(headers or {})
            if assertion is not None:
                sent[ASSERTION_HEADER] = assertion or platform.assertion()
            return client.request(method, path, headers=sent, **rest)

        yield request


Ask = Callable[..., httpx.Response]


def refused(answer: httpx.Response) -> bool:
    return answer.status_code == 401 and answer.headers[ERROR] == "unauthorized" and "one" not in answer.text


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
def test_without_an_assertion_nothing_passes(ask: Ask, method: str) -> None:
    assert refused(ask("/mcp", assertion=None, method=method))


def test_a_valid_assertion_reaches_exactly_the_script_it_names(ask: Ask, platform: Platform) -> None:
    for script in ("one", "two"):
        answer = ask("/a/path?q=1", platform.assertion(wrk=script), method="POST", content=b"body")
        assert answer.status_code == 200
        told = answer.json()
        assert told["name"] == script
        assert (told["method"], told["body"]) == ("POST", "body")
        assert told["url"].endswith("/a/path?q=1")


def test_every_key_of_the_ring_signs(ask: Ask, platform: Platform) -> None:
    assert ask("/", platform.assertion(kid="k2")).json()["name"] == "one"


@pytest.mark.parametrize("part", [1, 2, 3])
def test_a_tampered_assertion_is_refused(ask: Ask, platform: Platform, part: int) -> None:
    parts = platform.assertion().split(".")
    if part == 1:
        parts[1] = "k2"
    elif part == 2:
        parts[2] = platform.assertion(wrk="two").split(".")[2]
    else:
        parts[3] = ("B" if parts[3][0] == "A" else "A") + parts[3][1:]
    assert refused(ask("/", ".".join(parts)))


@pytest.mark.parametrize(
    "claims",
    [
        pytest.param({"iat": -120, "exp": -61}, id="expired"),
        pytest.param({"iat": 30, "exp": 60}, id="future"),
        pytest.param({"iat": 0, "exp": 61}, id="too-long-a-life"),
        pytest.param({"iat": -3600, "exp": 30}, id="far-too-long-a-life"),
        pytest.param({"iat": 0, "exp": 0}, id="no-life"),
        pytest.param({"iat": 10, "exp": 0}, id="backwards"),
    ],
)
def test_an_assertion_outside_its_time_is_refused(
    ask: Ask, platform: Platform, claims: dict[str, Any]
) -> None:
    now = int(time.time())
    assert refused(ask("/", platform.assertion(**{name: now + offset for name, offset in claims.items()})))


def test_clocks_may_differ_a_little(ask: Ask, platform: Platform) -> None:
    now = int(time.time())
    assert ask("/", platform.assertion(iat=now + 3, exp=now + 60)).status_code == 200
    assert ask("/", platform.assertion(iat=now - 50, exp=now - 1)).status_code == 200


def test_an_assertion_that_was_accepted_is_refused_once_it_expires(ask: Ask, platform: Platform) -> None:
    now = int(time.time())
    assertion = platform.assertion(iat=now - 30, exp=now - 3)
    assert ask("/", assertion).status_code == 200
    wait_for(lambda: refused(ask("/", assertion)), what="the assertion to expire")


def test_an_assertion_for_another_audience_is_refused(ask: Ask, platform: Platform) -> None:
    assert refused(ask("/", platform.assertion(aud="another-account")))


@pytest.mark.parametrize("kid", ["k3", "constructor", "__proto__", "toString", ""])
def test_a_key_outside_the_ring_is_refused(ask: Ask, platform: Platform, kid: str) -> None:
    assert refused(ask("/", platform.assertion(kid=kid, key=Ed25519PrivateKey.generate())))


def test_a_stranger_signing_with_our_kid_is_refused(ask: Ask, platform: Platform) -> None:
    assert refused(ask("/", platform.assertion(key=Ed25519PrivateKey.generate())))


@pytest.mark.parametrize(
    "payload",
    [
        "null",
        "[]",
        "not json",
        '{"aud":"account-under-test"}',
        '{"aud":"account-under-test","ten":"t","wrk":7,"iat":%(now)d,"exp":%(exp)d}',
        '{"aud":"account-under-test","ten":"t","wrk":"","iat":%(now)d,"exp":%(exp)d}',
        '{"aud":"account-under-test","ten":"t","wrk":"one","iat":"%(now)d","exp":"%(exp)d"}',
        '{"aud":"account-under-test","ten":"t","wrk":"one","iat":%(now)d,"exp":%(exp)d,"cpu_ms":"all"}',
        '{"aud":"account-under-test","ten":"t","wrk":"one","iat":%(now)d,"exp":%(exp)d,"egress":"*"}',
    ],
)
def test_a_signed_payload_of_the_wrong_shape_is_refused(ask: Ask, platform: Platform, payload: str) -> None:
    now = int(time.time())
    body = payload % {"now": now, "exp": now + 30} if "%(" in payload else payload
    signed = f"v1.k1.{b64url(body.encode())}"
    assert refused(ask("/", f"{signed}.{b64url(platform.keys['k1'].sign(signed.encode()))}"))


@pytest.mark.parametrize(
    "header", ["v1", "v1...", "....", "v2.k1.e30.AAAA", "v1.k1.e30.!!!!", "v1.k1.e30.AAAA.AAAA", "x" * 20_000]
)
def test_a_malformed_assertion_is_refused(ask: Ask, header: str) -> None:
    assert refused(ask("/", header))


def test_more_assertions_than_are_remembered_all_pass(ask: Ask, platform: Platform) -> None:
    now = int(time.time())
    many = [platform.assertion(ten=f"tenant{n}", exp=now + 60) for n in range(1100)]
    assert {ask("/empty", assertion).status_code for assertion in [*many, many[0]]} == {204}


def test_an_unknown_script_is_told_apart_from_a_tenants_404(ask: Ask, platform: Platform) -> None:
    answer = ask("/", platform.assertion(wrk="nobody"))
    assert (answer.status_code, answer.headers[ERROR]) == (404, "not-found")


def test_a_throwing_worker_is_502_and_its_message_stands_in_a_header_only(ask: Ask) -> None:
    answer = ask("/throw")
    assert (answer.status_code, answer.headers[ERROR]) == (502, "exception")
    assert unquote(answer.headers[MESSAGE]) == "a secret of the tenant"
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("one\\r\\nsmcp-dispatch-error: limits\\u0000\\u0085end", "one smcp-dispatch-error: limits end"),
        ("\\u202emalicious\\u2028line", "malicious line"),
        ("Z\\u00fcrich \\ud83d\\ude00 100%", "Z\u00fcrich \U0001f600 100%"),
        ("lone \\ud83d surrogate", "lone surrogate"),
        ("x" * 299 + "\\ud83d\\ude00", "x" * 299),
        ("y" * 3000, "y" * 300),
        ("", ""),
    ],
)
def test_what_was_thrown_is_one_bounded_line_that_no_header_can_be_made_of(
    ask: Ask, message: str, said: str
) -> None:
    answer = ask("/throw", headers={"x-message-json": f'"{message}"'})
    assert answer.headers[ERROR] == "exception"
    assert answer.headers[MESSAGE].isascii()
    assert " ".join(unquote(answer.headers[MESSAGE], errors="strict").split()) == said


def test_what_cannot_be_made_text_is_thrown_all_the_same(ask: Ask) -> None:
    answer = ask("/throw-nonsense")
    assert (answer.status_code, answer.headers[ERROR], answer.headers[MESSAGE]) == (502, "exception", "")


@pytest.mark.parametrize(
    "message",
    ["Worker exceeded CPU time limit.", "Worker exceeded memory limit.", "Worker exceeded resource limits."],
)
def test_a_worker_at_its_limits_is_503(ask: Ask, message: str) -> None:
    answer = ask("/throw", headers={"x-message": message})
    assert (answer.status_code, answer.headers[ERROR]) == (503, "limits")


def test_platform_headers_reach_neither_the_tenant_nor_the_caller(ask: Ask) -> None:
    answer = ask(
        "/418",
        headers={
            "SMCP-Anything": "1",
            "smcp-identity": "forged",
            "x-other": "kept",
            "Cloudflare-Workers-Version-Overrides": 'one="x"',
            "Cloudflare-Workers-Version-Key": "y",
        },
    )
    assert answer.status_code == 418
    seen = answer.json()["headers"]
    assert not [name for name in seen if name.startswith(("smcp-", "cloudflare-workers-version"))]
    assert seen["x-other"] == "kept"
    assert not [name for name in answer.headers if name.startswith("smcp-")]
    assert answer.headers["x-mine"] == "kept"
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]


def test_limits_and_egress_of_the_assertion_go_with_the_dispatch(ask: Ask, platform: Platform) -> None:
    def options(**claims: Any) -> str:
        return str(ask("/", platform.assertion(**claims)).json()["headers"]["x-options"])

    assert options() == "{}"
    assert options(cpu_ms=50) == '{"limits":{"cpuMs":50}}'
    assert options(egress=("api.example.com:443",)) == (
        f'{{"outbound":{{"policy":{{"tenant":"{TENANT}","allow":["api.example.com:443"]}}}}}}'
    )


def test_redirects_empty_and_compressed_answers_pass_as_they_are(ask: Ask) -> None:
    redirect = ask("/redirect")
    assert (redirect.status_code, redirect.headers["location"]) == (302, "https://elsewhere.example/")
    empty = ask("/empty")
    assert (empty.status_code, empty.content) == (204, b"")
    body = gzip.compress(b"compressed by the tenant")
    zipped = ask("/gzip", headers={"x-body": base64.b64encode(body).decode()})
    assert zipped.headers["content-encoding"] == "gzip"
    assert zipped.content == b"compressed by the tenant"


async def test_bodies_stream_both_ways_while_both_are_open(url: str, platform: Platform) -> None:
    received: asyncio.Queue[bytes] = asyncio.Queue()

    async def body() -> AsyncIterator[bytes]:
        yield b"one "
        while item := await received.get():
            yield item

    headers = {ASSERTION_HEADER: platform.assertion()}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/stream", data=body(), headers=headers) as answer,
    ):
        # Each piece comes back before the next one is sent: nothing on the way waits for the end.
        assert await answer.content.readuntil(b"\n\n") == b"data: first\n\n"
        assert await answer.content.readexactly(4) == b"one "
        await received.put(b"two ")
        assert await answer.content.readexactly(4) == b"two "
        await received.put(b"")
        assert await answer.content.read() == b""


async def test_websockets_pass(url: str, platform: Platform) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}/ws", headers={ASSERTION_HEADER: platform.assertion(wrk="two")}) as socket,
    ):
        await socket.send_str("hello")
        assert await socket.receive_str(timeout=5) == "two: hello"


async def test_a_websocket_without_an_assertion_is_refused(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await session.ws_connect(f"{url}/ws")
    assert refusal.value.status == 401
