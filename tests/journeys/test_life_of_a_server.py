"""From upload to retirement through the tenant's own doors."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from tests.clients import list_tools
from tests.journeys.platform import Platform, TenantDoors, converse
from tests.waiting import wait_for

CODE = (Path(__file__).parent / "worker.js").read_text()


def edition_of(tenant: TenantDoors, endpoint: str) -> str:
    answer = httpx.post(
        endpoint,
        headers={
            "authorization": f"Bearer {tenant.mcp_key}",
            "accept": "application/json, text/event-stream",
        },
        json={
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "t", "version": "1"},
            },
        },
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["result"]["serverInfo"]["version"])


@pytest.mark.acceptance("S0.31", "S0.32", "S4.1")
def test_a_second_version_goes_live_and_the_first_comes_back_by_rolling_back(tenant: TenantDoors):
    endpoint = tenant.serve("weather", CODE)
    assert edition_of(tenant, endpoint) == "1"
    tenant.upload("weather", CODE.replace('env.EDITION ?? "1"', '"2"'))
    assert tenant.deploy("weather", (2, 100))["state"] == "succeeded"
    wait_for(lambda: edition_of(tenant, endpoint) == "2", 5, what="version 2 to answer")
    assert tenant.deploy("weather", (1, 100))["state"] == "succeeded"
    wait_for(lambda: edition_of(tenant, endpoint) == "1", 5, what="version 1 to answer again")
    listed = tenant.rest.get(f"/tenants/{tenant.slug}/servers/weather/environments/production/deployments")
    assert [d["is_active"] for d in listed["items"]] == [True, False, False]


@pytest.mark.acceptance("S0.29", "S2.35")
def test_environments_of_one_server_are_apart(tenant: TenantDoors):
    tenant.serve("weather", CODE)
    base = f"/tenants/{tenant.slug}/servers/weather/environments"
    tenant.rest.post(base, {"slug": "staging"})
    tenant.rest.patch(f"{base}/staging", {"variables": {"EDITION": "staged"}})
    assert tenant.deploy("weather", environment="staging")["state"] == "succeeded"
    assert edition_of(tenant, tenant.endpoint("weather", "staging")) == "staged"
    assert edition_of(tenant, tenant.endpoint("weather")) == "1"


@pytest.mark.acceptance("P8")
def test_a_version_that_is_no_mcp_server_never_serves_and_leaves_nothing_behind(tenant: TenantDoors):
    endpoint = tenant.serve("weather", CODE)
    tenant.upload("weather", "export default { fetch() { return new Response('hello') } }")
    failed = tenant.deploy("weather", (2, 100))
    assert failed["state"] == "failed"
    assert failed["error"]["message"]
    assert failed["error"]["step"] in {step["name"] for step in failed["steps"]}
    assert edition_of(tenant, endpoint) == "1"
    resources = tenant.rest.get(f"/tenants/{tenant.slug}/servers/weather/environments/production/resources")
    assert [r["state"] for r in resources["items"] if r["kind"] == "script"].count("live") == 1


@pytest.mark.acceptance("S0.4", "S4.15", "S4.34")
@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("export default { fetch( }", "SyntaxError"),
        ("import './nope.js'; export default { fetch() {} }", "nope.js"),
        ("throw new Error('at the top'); export default { fetch() {} }", "at the top"),
        ("for (;;) {}; export default { fetch() {} }", ""),
        ("export const nothing = 1", ""),
        (
            "import { StdioServerTransport } from '@modelcontextprotocol/sdk/server/stdio.js'; new StdioServerTransport()",
            "stdio",
        ),
    ],
)
def test_a_bad_bundle_is_refused_with_the_reason_and_leaves_nothing_behind(tenant: TenantDoors, code, says):
    tenant.rest.post(f"/tenants/{tenant.slug}/servers", {"slug": "weather", "name": "weather"})
    described = {"main_module": "worker.js", "compatibility_date": "2026-11-01"}
    files = {
        "metadata": (None, json.dumps(described), "application/json"),
        "worker.js": ("worker.js", code, "application/javascript+module"),
    }
    path = f"/tenants/{tenant.slug}/servers/weather/versions"
    answer = tenant.rest.ask("POST", path, files=files)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert says in answer.text
    assert tenant.rest.get(path)["items"] == []
    blobs = tenant.platform.var / "blobs"
    tenant_id = tenant.rest.get(f"/tenants/{tenant.slug}")["id"]
    assert not [file for file in (blobs / tenant_id).rglob("*") if file.is_file()]


@pytest.mark.acceptance("P8")
def test_a_retired_server_is_gone_from_the_endpoint_the_account_and_the_ledger(
    platform: Platform, tenant: TenantDoors
):
    endpoint = tenant.serve_starter()
    converse("python-modern", endpoint, tenant.mcp_key, [list_tools()])
    path = f"/tenants/{tenant.slug}/servers/starter"
    before = tenant.rest.get(f"{path}/environments/production/resources")["items"]
    assert {r["kind"] for r in before if r["state"] == "live"} == {
        "script",
        "kv_namespace",
        "r2_bucket",
        "d1_database",
    }
    done = tenant.finished(tenant.rest.delete(path, status=202))
    assert done["state"] == "succeeded", done
    headers = {"authorization": f"Bearer {tenant.mcp_key}"}
    assert httpx.post(endpoint, headers=headers, json={}).status_code == 404
    assert tenant.rest.get(f"{path}/environments/production/resources")["items"] == []
    after = tenant.rest.get(f"{path}/environments/production/resources?deleted=true")["items"]
    assert len(after) == len(before)
    assert {r["state"] for r in after} == {"deleted"}
    assert platform.account_names().isdisjoint(r["name"] for r in after)
    tenant.rest.post(f"/tenants/{tenant.slug}/servers", {"slug": "starter", "name": "again"}, status=409)


@pytest.mark.acceptance("S4.7", "P3")
def test_a_fresh_server_turns_healthy_by_itself(tenant: TenantDoors):
    tenant.serve_starter()
    path = f"/tenants/{tenant.slug}/servers/starter/environments/production/health"
    health = wait_for(
        lambda: h if (h := tenant.rest.get(path))["state"] == "healthy" else None,
        45,
        what="the server to turn healthy",
    )
    assert health["last_latency_ms"] > 0
