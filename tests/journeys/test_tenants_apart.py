"""Two tenants with the same server: neither reaches anything of the other, from outside or from inside their Workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clients import ClientFailed, call_tool, list_tools, text_of
from tests.journeys.platform import Platform, TenantDoors, converse
from tests.waiting import wait_for

CODE = (Path(__file__).parent / "worker.js").read_text()
STORAGE = [
    {"type": "kv_namespace", "name": "NOTES"},
    {"type": "r2_bucket", "name": "FILES"},
    {"type": "d1", "name": "ROWS"},
]
COUNTER = {"type": "durable_object_namespace", "name": "COUNTER", "class_name": "Counter"}
MIGRATIONS = {"new_tag": "v1", "steps": [{"new_sqlite_classes": ["Counter"]}]}


def ask(doors: TenantDoors, endpoint: str, tool: str, **arguments: Any) -> str:
    said = converse("python-legacy", endpoint, doors.mcp_key, [call_tool(tool, **arguments)])
    return text_of(said.answers[0])


@pytest.mark.acceptance("S4.5", "S4.9", "S4.10", "S4.11", "S4.32")
def test_the_same_key_in_each_tenants_storage_holds_its_own_value(
    tenant: TenantDoors, other_tenant: TenantDoors
):
    mine = tenant.serve("vault", CODE, bindings=[*STORAGE, COUNTER], migrations=MIGRATIONS)
    theirs = other_tenant.serve("vault", CODE, bindings=[*STORAGE, COUNTER], migrations=MIGRATIONS)
    ask(tenant, mine, "put", key="k", value="mine")
    assert json.loads(ask(other_tenant, theirs, "get", key="k")) == [None, None, None]
    ask(other_tenant, theirs, "put", key="k", value="theirs")
    assert json.loads(ask(tenant, mine, "get", key="k")) == ["mine"] * 3
    assert [ask(tenant, mine, "count") for _ in range(2)] == ["1", "2"]
    assert ask(other_tenant, theirs, "count") == "1"


@pytest.mark.acceptance("S4.5", "S4.19", "S4.25")
def test_one_tenants_keys_open_nothing_of_the_other(tenant: TenantDoors, other_tenant: TenantDoors):
    theirs = other_tenant.serve("vault", CODE)
    with pytest.raises(ClientFailed):
        converse("python-legacy", theirs, tenant.mcp_key, [list_tools()])
    missing = tenant.rest.get("/tenants/nobody-has-this/servers", status=404)
    hidden = tenant.rest.get(f"/tenants/{other_tenant.slug}/servers", status=404)
    assert {**hidden, "instance": "", "detail": ""}.keys() == {**missing, "instance": "", "detail": ""}.keys()
    assert hidden["type"] == missing["type"]
    operation = other_tenant.rest.get(f"/tenants/{other_tenant.slug}/operations")["items"][0]["id"]
    tenant.rest.get(f"/tenants/{tenant.slug}/operations/{operation}", status=404)
    for path in ("", "/versions", "/versions/1", "/environments/production"):
        tenant.rest.get(f"/tenants/{tenant.slug}/servers/vault{path}", status=404)


@pytest.mark.acceptance("S4.5", "S4.19")
def test_from_inside_a_worker_there_is_no_way_to_the_platform_or_to_another_tenant(
    platform: Platform, tenant: TenantDoors, other_tenant: TenantDoors
):
    theirs = other_tenant.serve("vault", CODE, bindings=STORAGE)
    ask(other_tenant, theirs, "put", key="k", value="theirs")
    mine = tenant.serve("vault", CODE, bindings=STORAGE)
    resources = other_tenant.rest.get(f"/tenants/{other_tenant.slug}/resources")["items"]
    namespace = next(r["name"] for r in resources if r["kind"] == "kv_namespace")
    listed = {each["title"]: each["id"] for each in platform.account("storage/kv/namespaces")}
    forged = {
        "x-edge-resource": f"kv/{listed[namespace]}",
        "x-edge-script": "smcp",
        "smcp-assertion": "v1.dev.e30.AA",
    }
    ports = platform.ports
    for url in (
        *(f"http://127.0.0.1:{port}/" for port in ports.values()),
        f"http://localhost:{ports['edge_api']}/healthz",
        f"http://[::1]:{ports['redis']}/",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/",
        "http://edge/k",
        "http://kv/k",
    ):
        said = ask(tenant, mine, "reach", url=url, headers=forged)
        assert "theirs" not in said
        assert not said.startswith("2"), f"{url} was reached: {said}"
    assert json.loads(ask(tenant, mine, "bindings")) == ["FILES", "NOTES", "ROWS"]


@pytest.mark.acceptance("S4.5")
def test_a_deploy_of_one_tenant_drops_no_open_stream_of_another(
    tenant: TenantDoors, other_tenant: TenantDoors
):
    endpoint = other_tenant.serve("streamer", CODE)
    tenant.serve("busy", CODE)
    body = {
        "jsonrpc": "2.0",
        "id": 7,
        "method": "tools/call",
        "params": {"name": "stream", "arguments": {"seconds": 6}},
    }
    headers = {
        "authorization": f"Bearer {other_tenant.mcp_key}",
        "accept": "application/json, text/event-stream",
    }
    beats: list[Any] = []
    deployed_after = -1
    with httpx.Client(timeout=30) as http:
        opened = http.post(
            endpoint,
            headers=headers,
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
        assert opened.status_code == 200, opened.text
        headers |= {"mcp-session-id": opened.headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}
        with http.stream("POST", endpoint, headers=headers, json=body) as answer:
            assert answer.status_code == 200
            for line in answer.iter_lines():
                if not line.startswith("data:") or not line[5:].strip():
                    continue
                message = json.loads(line[5:])
                beats.append(message)
                if len(beats) == 5:
                    tenant.upload("busy", CODE + "\n// the second edition\n")
                    assert tenant.deploy("busy", (2, 100))["state"] == "succeeded"
                    deployed_after = len(beats)
    assert deployed_after == 5
    assert [m["params"]["data"] for m in beats[:-1]] == list(range(60))
    assert beats[-1]["result"]["content"][0]["text"] == "ended"


@pytest.mark.acceptance("S4.5")
def test_a_suspended_tenant_is_answered_403_with_the_reason_within_a_second_and_loses_nothing(
    platform: Platform, tenant: TenantDoors
):
    endpoint = tenant.serve("vault", CODE, bindings=STORAGE)
    ask(tenant, endpoint, "put", key="k", value="kept")
    operator = platform.rest(platform.facts["operator"]["api_key"])
    headers = {"authorization": f"Bearer {tenant.mcp_key}", "accept": "application/json, text/event-stream"}

    def ping() -> httpx.Response:
        return httpx.post(endpoint, headers=headers, json={"jsonrpc": "2.0", "id": 1, "method": "ping"})

    def refusal() -> httpx.Response | None:
        answer = ping()
        return answer if answer.status_code == 403 else None

    operator.post(f"/tenants/{tenant.slug}/suspend", {"reason": "The invoice is overdue."})
    assert "The invoice is overdue." in wait_for(refusal, 1.0, what="the endpoint to answer 403").text
    operator.post(f"/tenants/{tenant.slug}/resume")
    wait_for(lambda: ping().status_code != 403, 5.0, what="the endpoint to answer again")
    assert json.loads(ask(tenant, endpoint, "get", key="k")) == ["kept"] * 3
