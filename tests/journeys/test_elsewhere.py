"""A tenant puts SMCP in front of a server that runs elsewhere: through the REST door, and out of the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.certificates import make_certificate
from tests.clients import call_tool, list_tools, text_of, tool_names
from tests.dataplane.harness import FarawayProcess
from tests.journeys.platform import Platform, TenantDoors, converse
from tests.waiting import wait_for

CANARY = "canary-a2f80c"


@pytest.fixture(scope="module")
def faraway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarawayProcess]:
    directory: Path = tmp_path_factory.mktemp("faraway")
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    make_certificate(certificate, key)
    certificate.write_text(certificate.read_text() + key.read_text())
    process = FarawayProcess(directory, certificate)
    process.start()
    yield process
    process.stop()


def remote_of(tenant: TenantDoors) -> str:
    return f"/tenants/{tenant.slug}/servers/elsewhere/environments/production/remote"


def put(tenant: TenantDoors, remote: dict[str, Any]) -> None:
    answer = tenant.rest.ask("PUT", remote_of(tenant), json=remote)
    assert answer.status_code == 200, answer.text


def initialized(tenant: TenantDoors) -> int:
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "t", "version": "1"},
        },
    }
    headers = {
        "authorization": f"Bearer {tenant.mcp_key}",
        "accept": "application/json, text/event-stream",
    }
    return httpx.post(tenant.endpoint("elsewhere"), headers=headers, json=body, timeout=20).status_code


@pytest.mark.acceptance("S0.2", "S0.3", "S0.15")
def test_a_server_elsewhere_serves_changes_its_address_and_leaves(
    platform: Platform, tenant: TenantDoors, faraway: FarawayProcess
) -> None:
    rest = tenant.rest
    rest.post(f"/tenants/{tenant.slug}/servers", {"slug": "elsewhere", "kind": "remote"}, status=201)
    assert initialized(tenant) == 503
    secrets = remote_of(tenant).replace("/remote", "/secrets")
    assert rest.ask("PUT", f"{secrets}/TOKEN", json={"value": CANARY}).status_code == 200
    headers = [{"name": "Authorization", "prefix": "Bearer ", "secret": "TOKEN"}]
    put(tenant, {"url": f"{faraway.url}/mcp", "headers": headers})
    wait_for(lambda: initialized(tenant) == 200, 15, what="the server to be reached")

    found = wait_for(
        lambda: shown if (shown := rest.get(remote_of(tenant)))["checked_at"] else None,
        30,
        what="the server to be looked at",
    )
    assert (found["eras"], found["issues_sessions"]) == (["legacy", "modern"], True)
    steps = [list_tools(), call_tool("add", a=2, b=40)]
    for client in ("python-legacy", "python-modern"):
        told = converse(client, tenant.endpoint("elsewhere"), tenant.mcp_key, steps)
        assert tool_names(told.answers[0]) == ["add", "count"]
        assert text_of(told.answers[1]) == "42"
    assert {entry["headers"].get("authorization") for entry in faraway.seen} == {f"Bearer {CANARY}"}

    put(tenant, {"url": f"{faraway.url}/sse", "transport": "sse", "headers": headers})
    faraway.forget()
    wait_for(lambda: initialized(tenant) == 200 and is_sse(faraway), 15, what="the other address")
    told = converse("python-legacy", tenant.endpoint("elsewhere"), tenant.mcp_key, steps)
    assert text_of(told.answers[1]) == "42"
    health = remote_of(tenant).replace("/remote", "/health")
    wait_for(lambda: rest.get(health)["state"] == "healthy", 45, what="the monitors to see it well")

    done = tenant.finished(rest.delete(f"/tenants/{tenant.slug}/servers/elsewhere", status=202))
    assert done["state"] == "succeeded", done
    assert initialized(tenant) == 404
    assert rest.get(f"/tenants/{tenant.slug}/servers/elsewhere")["state"] == "retired"
    assert CANARY not in platform.log_path.read_text()


def is_sse(faraway: FarawayProcess) -> bool:
    return any(entry["path"] == "/sse" for entry in faraway.seen)


def test_a_private_address_is_refused_at_the_door(tenant: TenantDoors) -> None:
    tenant.rest.post(f"/tenants/{tenant.slug}/servers", {"slug": "elsewhere", "kind": "remote"})
    for url in ("https://127.0.0.2/mcp", "https://169.254.169.254/", "http://example.com/mcp"):
        refused = tenant.rest.ask("PUT", remote_of(tenant), json={"url": url})
        assert refused.status_code == 422, url
        assert refused.headers["content-type"].startswith("application/problem+json")
