"""Servers on the edge behind one gateway, without the control plane: what conformance needs and nothing more.

Workers are bundled with the real `wrangler` and uploaded behind our dispatcher; the gateway is told of them as the control plane would.
Environments are public unless a test says otherwise, because the suite sends no credentials.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import httpx

from hosting.dataplane.contract import Credential, Dispatch, Era, Limits, Route, Target, b64url, digest_of_key
from tests.dataplane.harness import TENANT, GatewayProcess, Publisher, RedisProcess
from tests.hosting.workers.conftest import AUDIENCE, Account
from tests.parts import free_port
from tests.toolchain import NODE, NODE_PACKAGES, ensure_packages, environment, wrangler_bundle
from tests.waiting import wait_for

Eras = Literal["both", "legacy", "modern"]
ERAS: Final[Mapping[Eras, tuple[Era, ...]]] = {
    "both": ("legacy", "modern"),
    "legacy": ("legacy",),
    "modern": ("modern",),
}
# A conformance run is one caller that asks some hundred times in two seconds.
LIMITS: Final = Limits(requests_per_minute=100_000)


@dataclass
class Stage:
    """One gateway node, and an account of the edge."""

    gateway: GatewayProcess
    redis_url: str
    publisher: Publisher
    account: Account

    def upload(self, folder: str, **variables: str) -> str:
        """Bundles the Worker of tests/node/<folder> and uploads it with its bindings; returns the script's name."""
        config = json.loads((NODE_PACKAGES / folder / "wrangler.json").read_text())
        bindings: list[dict[str, str]] = [
            {"type": "durable_object_namespace", "name": one["name"], "class_name": one["class_name"]}
            for one in config.get("durable_objects", {}).get("bindings", [])
        ]
        bindings += [{"type": "plain_text", "name": name, "text": text} for name, text in variables.items()]
        return self.account.put(
            wrangler_bundle(folder),
            bindings=bindings,
            compatibility_flags=config.get("compatibility_flags", ()),
            migrations=_classes(config.get("migrations", [])),
        )

    def publish(
        self,
        slug: str,
        script: str,
        eras: Eras,
        *,
        has_sessions: bool = False,
        **more: Any,
    ) -> str:
        """An Environment with that script live; returns its endpoint. `more` is the Route's: `dispatch` for a server that is not
        on the edge, `access` where it is not public.
        """
        ours = Dispatch(url=self.account.url, host=self.account.host, audience=AUDIENCE)
        target = Target(
            script=script,
            release=f"rel-{slug}",
            weight=10_000,
            eras=ERAS[eras],
            issues_sessions=has_sessions,
        )
        route = Route(
            tenant=TENANT,
            version=1,
            environment=f"env-{slug}",
            tenant_slug="acme",
            server_slug=slug,
            environment_slug="production",
            targets=(target,),
            limits=LIMITS,
            **{"dispatch": ours, "access": ("public",), **more},
        )
        self.publisher.publish(route)
        url = f"{self.gateway.url}/acme/{slug}/mcp"
        wait_for(lambda: httpx.get(url).status_code != 404, what=f"{slug} to be served")
        return url

    def key(self) -> str:
        """An API key that may call the Environments."""
        presented = f"smcp_{secrets.token_urlsafe(32)}"
        credential = Credential(
            tenant=TENANT,
            version=1,
            id=secrets.token_hex(13),
            digest=digest_of_key(presented),
            scopes=("mcp:call",),
        )
        self.publisher.publish(credential)
        return presented


def _classes(migrations: list[dict[str, Any]]) -> dict[str, Any] | None:
    """A first upload's migrations, of which there is one at most, as the API has them."""
    for one in migrations:
        return {"new_tag": one["tag"], "new_sqlite_classes": one["new_sqlite_classes"]}
    return None


@contextmanager
def open_stage(account: Account, directory: Path) -> Iterator[Stage]:
    """Starts a Redis and a gateway; ends them."""
    redis = RedisProcess(directory / "redis", free_port())
    redis.start()
    publisher = Publisher(redis.url)
    publisher.new_epoch()
    ring = f"k1:{b64url(account.key.private_bytes_raw())}"
    gateway = GatewayProcess(directory, redis_url=redis.url, dispatch_ring=ring)
    try:
        gateway.start()
        yield Stage(gateway, redis.url, publisher, account)
    finally:
        gateway.stop()
        publisher.close()
        redis.stop()


@contextmanager
def node_server(program: str, *arguments: str, port: int, **variables: str) -> Iterator[str]:
    """A server in Node that listens on `port`, with nothing in front of it; its URL. `program` is relative to tests/node."""
    ensure_packages(NODE_PACKAGES)
    url = f"http://localhost:{port}/mcp"
    with subprocess.Popen(
        [str(NODE), str(NODE_PACKAGES / program), *arguments],
        env=environment(PORT=str(port), **variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            _await_port(url, process)
            yield url
        finally:
            process.terminate()


@contextmanager
def everything_process(eras: Eras) -> Iterator[str]:
    """The everything server in Node; its URL."""
    port = free_port()
    with node_server("everything/node.js", eras, port=port) as url:
        yield url


def _await_port(url: str, process: subprocess.Popen[bytes]) -> None:
    def answers() -> bool:
        assert process.poll() is None, f"{process.args!r} ended with {process.returncode}"
        try:
            return httpx.get(url, timeout=2).status_code > 0
        except httpx.TransportError:
            time.sleep(0.05)
            return False

    wait_for(answers, 30, what=f"{url} to answer")
