"""The gateway as a client, towards the conformance suite: `python -m tests.conformance.adapter <URL of the suite's server>`.

Publishes a Route to that URL at the gateway that ADAPTER_GATEWAY names, by the Redis in ADAPTER_REDIS, and lets a well-behaved client
(tests/node/scenario.js) talk to it there: what the suite's server sees, the gateway has sent.
"""

from __future__ import annotations

import os
import subprocess
import sys
from urllib.parse import urlsplit

import httpx

from hosting.dataplane.contract import Dispatch, Era, Route, Target
from tests.dataplane.harness import TENANT, Publisher
from tests.toolchain import NODE, NODE_PACKAGES, environment
from tests.waiting import wait_for


def publish(url: str) -> str:
    """The endpoint at which the suite's server is served now."""
    at = urlsplit(url)
    slug = f"upstream-{at.port}"
    era: Era = "modern" if os.environ["MCP_CONFORMANCE_PROTOCOL_VERSION"] == "2026-07-28" else "legacy"
    publisher = Publisher(os.environ["ADAPTER_REDIS"])
    route = Route(
        tenant=TENANT,
        version=1,
        environment=f"env-{slug}",
        tenant_slug="acme",
        server_slug=slug,
        environment_slug="production",
        targets=(Target(script="none", release="rel", weight=10_000, path=at.path or "/", eras=(era,)),),
        dispatch=Dispatch(url=f"{at.scheme}://{at.netloc}", audience="nobody"),
        access=("public",),
    )
    publisher.publish(route)
    publisher.close()
    endpoint = f"{os.environ['ADAPTER_GATEWAY']}/acme/{slug}/mcp"
    wait_for(lambda: httpx.get(endpoint).status_code != 404, what=f"{endpoint} to be served")
    return endpoint


def main() -> int:
    client = (str(NODE), str(NODE_PACKAGES / "scenario.js"), publish(sys.argv[-1]))
    return subprocess.run(client, env=environment(), timeout=60).returncode


if __name__ == "__main__":
    sys.exit(main())
