"""One account of the real edge with our dispatcher in front of its dispatch namespace, as the platform sets an account up."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hosting.cloudflare.client import HttpCloudflare
from hosting.cloudflare.port import Module, ScriptUpload
from hosting.dataplane.contract import ASSERTION_HEADER, Assertion, b64url, sign_assertion
from tests.parts import PlatformEdge

from .workerd import COMPATIBILITY_DATE, WORKERS

AUDIENCE = "account-under-test"
HOP_BY_HOP = frozenset({"host", "connection", "content-length", "transfer-encoding"})
JAVASCRIPT = "application/javascript+module"


@dataclass(frozen=True)
class Account:
    """What a test does with the account: upload, and reach a script through the dispatcher."""

    cloudflare: HttpCloudflare
    key: Ed25519PrivateKey
    url: str
    host: str

    def put(self, code: bytes | str, *, bindings: Sequence[Mapping[str, Any]] = (), **more: Any) -> str:
        """Uploads a Worker of one module into the namespace and returns the name it was given."""
        name = f"script-{secrets.token_hex(6)}"
        self.cloudflare.put_script(name, upload_of(code, bindings=bindings, **more))
        return name

    def headers(self, script: str, *, cpu_ms: int = 0) -> dict[str, str]:
        """What a request needs to pass the dispatcher to that script."""
        now = int(time.time())
        assertion = Assertion(aud=AUDIENCE, ten="tenant", wrk=script, iat=now, exp=now + 60, cpu_ms=cpu_ms)
        return {"host": self.host, ASSERTION_HEADER: sign_assertion(assertion, kid="k1", key=self.key)}

    @asynccontextmanager
    async def front(self, script: str) -> AsyncIterator[str]:
        """The URL of a plain forwarder to that script, for clients that can set neither Host nor the assertion."""

        async def forward(request: web.Request) -> web.StreamResponse:
            headers = {
                name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP
            }
            headers.update(self.headers(script))
            async with session.request(
                request.method, f"{self.url}{request.path_qs}", data=request.content, headers=headers
            ) as answer:
                kept = {
                    name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP
                }
                response = web.StreamResponse(status=answer.status, headers=kept)
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
                return response

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", forward)
        async with aiohttp.ClientSession(auto_decompress=False) as session, TestServer(app) as server:
            yield str(server.make_url("")).rstrip("/")


def upload_of(code: bytes | str, *, bindings: Sequence[Mapping[str, Any]] = (), **more: Any) -> ScriptUpload:
    content = code.encode() if isinstance(code, str) else code
    return ScriptUpload(
        main_module="worker.js",
        modules=[Module(name="worker.js", content_type=JAVASCRIPT, content=content)],
        compatibility_date=COMPATIBILITY_DATE,
        bindings=bindings,
        **more,
    )


def read_worker(name: str) -> bytes:
    """The code of one of the platform's own Workers."""
    return Path(WORKERS / name / "worker.js").read_bytes()


@contextmanager
def open_account(edge: PlatformEdge, name: str) -> Iterator[Account]:
    """A dispatch namespace and a dispatcher of that name, and a key the dispatcher believes."""
    key = Ed25519PrivateKey.generate()
    dispatcher = f"{name}-dispatcher"
    with HttpCloudflare(
        base_url=edge.api_url, account_id=edge.account_id, token=edge.token, dispatch_namespace=name
    ) as cloudflare:
        cloudflare.ensure_dispatch_namespace()
        bindings: list[Mapping[str, Any]] = [
            {"type": "dispatch_namespace", "name": "DISPATCHER", "namespace": name},
            {
                "type": "json",
                "name": "PLATFORM_KEYS",
                "json": {"k1": b64url(key.public_key().public_bytes_raw())},
            },
            {"type": "plain_text", "name": "AUD", "text": AUDIENCE},
        ]
        cloudflare.put_account_script(dispatcher, upload_of(read_worker("dispatcher"), bindings=bindings))
        cloudflare.expose_account_script(dispatcher)
        yield Account(cloudflare, key, edge.workers_url, edge.worker_host(dispatcher))


@pytest.fixture(scope="session")
def account(edge: PlatformEdge) -> Iterator[Account]:
    with open_account(edge, "workers-under-test") as opened:
        yield opened
