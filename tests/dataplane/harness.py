"""The gateway and what stands around it, each a process of its own, and the control plane's side of the contract."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import redis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hosting.dataplane.contract import (
    CHANGES_KEPT,
    PUBLISH_LUA,
    AnyFact,
    AnyReport,
    Assertion,
    Credential,
    Dispatch,
    Keys,
    Limits,
    Route,
    Target,
    b64url,
    decode_report,
    digest_of_key,
    encode,
    sign_assertion,
    unb64url,
)
from smcp.stack.processes import Child, spawn
from smcp.stack.redis import Redis
from tests.parts import ROOT, free_port, free_ports
from tests.waiting import wait_for

INSTALLATION = "gwtest"
AUDIENCE = "standin"
TENANT, OTHER_TENANT = "t" * 26, "u" * 26
DOMAIN = "mcp.test"


def new_keyring(kid: str = "k1") -> tuple[str, bytes]:
    key = secrets.token_bytes(32)
    return f"{kid}:{b64url(key)}", key


@dataclass
class RedisProcess:
    """A Redis of the test's own, to be killed and restarted; its data is on disk."""

    directory: Path
    port: int
    child: Child | None = None
    appendfsync: str = "always"

    @property
    def redis(self) -> Redis:
        return Redis(
            directory=self.directory,
            port=self.port,
            password="test",
            settings={"appendfsync": self.appendfsync},
        )

    @property
    def url(self) -> str:
        return self.redis.url()

    def start(self) -> None:
        self.child = spawn(self.redis.process())
        wait_for(self.redis.is_ready, what="Redis to answer")

    def kill(self) -> None:
        assert self.child is not None
        self.child.kill_group()
        self.child.finish()

    def stop(self) -> None:
        if self.child is not None and self.child.exit_code() is None:
            self.child.stop()


class Publisher:
    """The control plane's side: publishes facts, reads reports."""

    def __init__(self, url: str, installation: str = INSTALLATION) -> None:
        self.keys = Keys(installation)
        self.client = redis.Redis.from_url(url)
        self._versions: dict[str, int] = {}

    def new_epoch(self) -> str:
        epoch = secrets.token_hex(8)
        self.client.set(self.keys.epoch, epoch)
        return epoch

    def publish(self, *facts: AnyFact, kept: int = CHANGES_KEPT) -> int:
        args: list[Any] = [kept]
        for fact in facts:
            args += [fact.key, fact.version, int(fact.is_gone), encode(fact)]
        return int(self.client.eval(PUBLISH_LUA, 2, self.keys.facts, self.keys.changes, *args))

    def last_change(self) -> str:
        last: Any = self.client.xrevrange(self.keys.changes, count=1)
        return str(last[0][0].decode())

    def next_version(self, name: str = "") -> int:
        self._versions[name] = self._versions.get(name, 0) + 1
        return self._versions[name]

    def reports(self) -> list[AnyReport]:
        told: Any = self.client.xrange(self.keys.reports)
        return [decode_report(fields[b"report"]) for _, fields in told]

    def close(self) -> None:
        self.client.close()


class Spawned:
    """A Python process of ours with its output in a file."""

    def __init__(self, name: str, arguments: list[str], environ: dict[str, str], log: Path) -> None:
        self.name = name
        self.arguments = arguments
        self.environ = environ
        self.log_path = log
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def spawn(self) -> None:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.arguments],
                env={**os.environ, **self.environ},
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )

    def wait_http(self, url: str, status: int = 200) -> None:
        def answers() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"{self.name} ended:\n{self.log}"
            try:
                return httpx.get(url, timeout=2).status_code == status
            except httpx.TransportError:
                return False

        wait_for(answers, 60, what=f"{self.name} to answer")

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def terminate(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = 20) -> int:
        assert self.process is not None
        return self.process.wait(timeout_s)

    def stop(self) -> int | None:
        if self.process is None or self.process.poll() is not None:
            return None if self.process is None else self.process.returncode
        self.terminate()
        try:
            return self.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait(5)


class StandInProcess(Spawned):
    """`tests.dataplane.standin`."""

    def __init__(self, directory: Path) -> None:
        self.port, self.raw_port = free_ports(2)
        self.dispatch_ring, seed = new_keyring("d1")
        public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
        super().__init__(
            "stand-in",
            ["-m", "tests.dataplane.standin", "--port", str(self.port), "--raw-port", str(self.raw_port)],
            {"SMCP_STANDIN_KEYS": f"d1:{b64url(public)}", "SMCP_STANDIN_AUD": AUDIENCE},
            directory / "standin.log",
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.spawn()
        self.wait_http(f"{self.url}/_control/seen")

    @property
    def dispatch(self) -> Dispatch:
        return Dispatch(url=self.url, host="dispatcher.test", audience=AUDIENCE)

    @property
    def raw_dispatch(self) -> Dispatch:
        return Dispatch(url=f"http://127.0.0.1:{self.raw_port}", audience=AUDIENCE)

    def _control(self, door: str, asked: dict[str, Any] | None = None) -> Any:
        return httpx.post(f"{self.url}/_control/{door}", json=asked or {}).json()

    @property
    def seen(self) -> list[dict[str, Any]]:
        return list(self._control("seen"))

    @property
    def raw_seen(self) -> list[str]:
        return list(self._control("raw_seen"))

    def forget(self) -> None:
        self._control("forget")

    def go(self, name: str, times: int = 1) -> None:
        self._control("go", {"name": name, "times": times})

    def broadcast(self, script: str, message: dict[str, Any]) -> int:
        """On all streams of a legacy-only server; how many there were."""
        return int(self._control("broadcast", {"script": script, "message": message})["streams"])

    def forget_sessions(self, script: str) -> int:
        """As if a legacy-only server had restarted."""
        return int(self._control("forget_sessions", {"script": script})["sessions"])

    def end_session(self, route: Route, session: str) -> int:
        """As if the server had forgotten it: a DELETE that does not come from the gateway."""
        now = int(time.time())
        assertion = Assertion(
            aud=AUDIENCE, ten=route.tenant, wrk=route.targets[0].script, iat=now, exp=now + 60
        )
        kid, _, encoded = self.dispatch_ring.partition(":")
        signed = sign_assertion(
            assertion, kid=kid, key=Ed25519PrivateKey.from_private_bytes(unb64url(encoded))
        )
        return httpx.delete(
            f"{self.url}/mcp", headers={"smcp-assertion": signed, "mcp-session-id": session}
        ).status_code

    @property
    def raw_open(self) -> int:
        """Connections to the raw port."""
        return int(self._control("raw_open"))

    def answer_raw(
        self,
        answer: bytes,
        *,
        stays_open: bool = False,
        reads_nothing: bool = False,
        more: bytes = b"",
        every_s: float = 0.0,
    ) -> None:
        """`more` follows for ever, every so many seconds."""
        told = {"answer": answer.decode("latin-1"), "stays_open": stays_open, "reads_nothing": reads_nothing}
        self._control("raw", {**told, "more": more.decode("latin-1"), "every_s": every_s})


class SiteProcess(Spawned):
    """`tests.dataplane.site`, which believes the same assertions as the stand-in."""

    def __init__(self, directory: Path, standin: StandInProcess) -> None:
        self.port = free_port()
        super().__init__(
            "site",
            ["-m", "tests.dataplane.site", "--port", str(self.port)],
            standin.environ,
            directory / "site.log",
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def dispatch(self) -> Dispatch:
        return Dispatch(url=self.url, host="dispatcher.test", audience=AUDIENCE)

    def start(self) -> None:
        self.spawn()
        self.wait_http(f"{self.url}/_control/seen")

    @property
    def seen(self) -> list[dict[str, Any]]:
        return list(httpx.get(f"{self.url}/_control/seen").json())

    def forget(self) -> None:
        httpx.get(f"{self.url}/_control/forget")


class GatewayProcess(Spawned):
    """`python -m hosting.dataplane`."""

    def __init__(self, directory: Path, *, redis_url: str, dispatch_ring: str, **knobs: str) -> None:
        self.port, self.admin_port = free_ports(2)
        self.state_dir = directory / "gateway"
        self.probe_key = secrets.token_bytes(32)
        self.sealing_ring, _ = new_keyring("s1")
        environ = {
            "SMCP_INSTALLATION": INSTALLATION,
            "SMCP_DATAPLANE_REDIS_URL": redis_url,
            "SMCP_DATAPLANE_KEYS": self.sealing_ring,
            "SMCP_DISPATCH_KEYS": dispatch_ring,
            "SMCP_PROBE_KEY": b64url(self.probe_key),
            "SMCP_GATEWAY_DOMAIN": DOMAIN,
            "SMCP_GATEWAY_URL": f"http://127.0.0.1:{self.port}",
            "SMCP_GATEWAY_PORT": str(self.port),
            "SMCP_GATEWAY_ADMIN_PORT": str(self.admin_port),
            "SMCP_GATEWAY_STATE_DIR": str(self.state_dir),
            "SMCP_GATEWAY_DRAIN_S": "10",
            "SMCP_GATEWAY_REPORT_WINDOW_S": "0.5",
            "PYTHONWARNINGS": "error",
            **{f"SMCP_GATEWAY_{name.upper()}": value for name, value in knobs.items()},
        }
        super().__init__(
            "gateway", ["-m", "hosting.dataplane"], environ, directory / f"gateway-{self.port}.log"
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    def sibling(self, directory: Path, *, redis_url: str, **knobs: str) -> GatewayProcess:
        """Another node, not started: same keys, same installation."""
        dispatch_ring = self.environ["SMCP_DISPATCH_KEYS"]
        node = GatewayProcess(directory, redis_url=redis_url, dispatch_ring=dispatch_ring, **knobs)
        node.environ["SMCP_DATAPLANE_KEYS"] = node.sealing_ring = self.sealing_ring
        return node

    def start(self) -> None:
        self.spawn()
        self.wait_http(f"{self.admin_url}/readyz")
        self.wait_http(f"{self.url}/", status=404)

    def readyz(self) -> dict[str, Any]:
        return dict(httpx.get(f"{self.admin_url}/readyz").json())

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels."""
        total = 0.0
        for line in httpx.get(f"{self.admin_url}/metrics").text.splitlines():
            sample, _, value = line.rpartition(" ")
            if sample.partition("{")[0] == name and all(f'{k}="{v}"' in sample for k, v in labels.items()):
                total += float(value)
        return total


@dataclass
class World:
    """Everything a gateway test needs: publish a Server, get its URL and a key."""

    gateway: GatewayProcess
    standin: StandInProcess
    publisher: Publisher
    http: httpx.Client
    routes: dict[str, Route] = field(default_factory=dict)

    def target(
        self, script: str = "scripted", *, weight: int = 10_000, release: str = "", **more: Any
    ) -> Target:
        """One that serves legacy clients in their own era, unless told that it issues no sessions (then the gateway bridges)."""
        told = {"issues_sessions": True, **more}
        return Target(script=script, release=release or f"rel-{script}", weight=weight, **told)

    def server(
        self,
        slug: str,
        *targets: Target,
        tenant: str = TENANT,
        environment: str = "production",
        dispatch: Dispatch | None = None,
        limits: Limits | None = None,
        **more: Any,
    ) -> Route:
        """A Route, published and known to the gateway."""
        route = Route(
            tenant=tenant,
            version=self.publisher.next_version("route"),
            environment=f"env-{tenant[0]}-{slug}-{environment}",
            tenant_slug="acme" if tenant == TENANT else "umbrella",
            server_slug=slug,
            environment_slug=environment,
            targets=targets or (self.target(),),
            dispatch=dispatch or self.standin.dispatch,
            limits=limits or Limits(),
            **more,
        )
        self.publisher.publish(route)
        self.routes[slug] = route
        self.settle()
        self.standin.forget()
        return route

    def key(self, *, tenant: str = TENANT, scopes: tuple[str, ...] = ("mcp:call",), **more: Any) -> str:
        """An API key that the gateway knows."""
        presented = f"smcp_{secrets.token_urlsafe(32)}"
        credential = Credential(
            tenant=tenant,
            version=self.publisher.next_version("credential"),
            digest=digest_of_key(presented),
            scopes=scopes,
            **{"id": secrets.token_hex(13), **more},
        )
        self.publisher.publish(credential)
        self.settle()
        return presented

    def at(self, url: str, key: str | None = None, *, host: str = "") -> Caller:
        """A client at any address, with no session."""
        return Caller(self.http, url, key, host=host)

    def caller(self, route: Route, key: str | None = None, *, session: bool = True) -> Caller:
        """With a fresh key of the Route's tenant unless one is given, and with a session open."""
        caller = self.at(self.url(route), key or self.key(tenant=route.tenant))
        if session:
            assert caller.initialize().status_code == 200
            self.standin.forget()
        return caller

    def at_node(self, caller: Caller, node: GatewayProcess) -> Caller:
        """The same client, come to another node."""
        same = self.at(caller.url.replace(self.gateway.url, node.url))
        same.headers = caller.headers
        return same

    def settle(self, *others: GatewayProcess) -> None:
        """Until the gateway, and others, have followed to the end of the stream."""
        marker = self.publisher.last_change()
        for node in (self.gateway, *others):
            wait_for(
                lambda node=node: _order(node.readyz()["cursor"]) >= _order(marker),  # type: ignore[misc]
                what="the gateway to follow",
            )

    def url(self, route: Route) -> str:
        return f"{self.gateway.url}/{route.tenant_slug}/{route.server_slug}~{route.environment_slug}/mcp"


class Caller:
    """A client of few words, for saying exactly what a real one would not."""

    def __init__(self, http: httpx.Client, url: str, key: str | None = None, *, host: str = "") -> None:
        self.http = http
        self.url = url
        self.headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        if key is not None:
            self.headers["authorization"] = f"Bearer {key}"
        if host:
            self.headers["host"] = host

    def send(self, method: str = "POST", body: Any = None, **headers: Any) -> httpx.Response:
        content, sent = self._prepare(body, headers)
        return self.http.request(method, self.url, content=content, headers=sent)

    def stream(self, method: str = "POST", body: Any = None, **headers: Any) -> Any:
        content, sent = self._prepare(body, headers)
        return self.http.stream(method, self.url, content=content, headers=sent)

    def _prepare(self, body: Any, headers: dict[str, str | None]) -> tuple[bytes | None, dict[str, str]]:
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return content, {
            name: value for name, value in {**self.headers, **named}.items() if value is not None
        }

    def initialize(self, revision: str = "2025-11-25", **params: Any) -> httpx.Response:
        """Opens a session and goes on under it."""
        given = {
            "protocolVersion": revision,
            "capabilities": {},
            "clientInfo": {"name": "few words", "version": "1"},
        }
        self.headers.pop("mcp-session-id", None)
        response = self.send(body=request("initialize", {**given, **params}))
        if "mcp-session-id" in response.headers:
            self.headers["mcp-session-id"] = response.headers["mcp-session-id"]
        return response

    def call(self, tool: str, **arguments: Any) -> httpx.Response:
        return self.send(body=call_of(tool, **arguments))

    def modern(
        self, method: str, params: dict[str, Any] | None = None, **headers: str | None
    ) -> httpx.Response:
        body, sent = modern_request(method, params)
        return self.send(body=body, **{**sent, **headers})


def _order(change: str) -> tuple[int, int]:
    at, _, number = change.partition("-")
    return int(at), int(number)


def request(method: str, params: dict[str, Any] | None = None, *, request_id: Any = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params or {}}


def call_of(tool: str, **arguments: Any) -> dict[str, Any]:
    return request("tools/call", {"name": tool, "arguments": arguments})


MODERN = "2026-07-28"


def modern_request(
    method: str, params: dict[str, Any] | None = None, *, request_id: Any = 1, revision: str = MODERN
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The body and the headers that go with it."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": revision,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    given = dict(params or {})
    headers: dict[str, Any] = {"mcp_protocol_version": revision, "mcp_method": method}
    name = given.get("uri") if method == "resources/read" else given.get("name")
    if method in {"tools/call", "prompts/get", "resources/read"} and name is not None:
        headers["mcp_name"] = str(name)
    return request(method, {**given, "_meta": meta}, request_id=request_id), headers


def error_of(response: httpx.Response) -> tuple[int, int]:
    """HTTP status and JSON-RPC code of a refusal."""
    told = response.json()
    assert told["jsonrpc"] == "2.0"
    return response.status_code, told["error"]["code"]


def events_of(text: str) -> list[dict[str, Any]]:
    """The messages of a whole SSE body."""
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ") and line[6:]]


def next_event(lines: Iterator[str]) -> dict[str, str]:
    """The fields of the next event that has data; comments, and events that only mark a place, are passed over."""
    fields: dict[str, str] = {}
    for line in lines:
        if not line:
            if fields.get("data"):
                return fields
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
    return {}


class FarawayProcess(Spawned):
    """`tests.dataplane.faraway`: servers that run elsewhere, at 127.0.0.1, and a trap at 127.0.0.2."""

    def __init__(self, directory: Path, certificate: Path) -> None:
        self.port, self.tls_port = free_ports(2)
        self.certificate = certificate
        ports = ["--port", str(self.port), "--tls-port", str(self.tls_port)]
        super().__init__(
            "faraway",
            ["-m", "tests.dataplane.faraway", *ports, "--cert", str(certificate)],
            {},
            directory / "faraway.log",
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.spawn()
        self.wait_http(f"{self.url}/_control/seen")

    def _control(self, door: str, asked: dict[str, Any] | None = None) -> Any:
        return httpx.post(f"{self.url}/_control/{door}", json=asked or {}).json()

    @property
    def seen(self) -> list[dict[str, Any]]:
        return list(self._control("seen"))

    @property
    def trapped(self) -> list[str]:
        """Where somebody connected who should not have."""
        return list(self._control("trapped"))

    @property
    def streams_ended(self) -> int:
        """Of the server over HTTP+SSE at `/old`."""
        return int(self._control("old_ended"))

    def forget(self) -> None:
        self._control("forget")

    def go(self, name: str, times: int = 1) -> None:
        self._control("go", {"name": name, "times": times})
