"""A client connects; its server's owner sees it, and ends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.journeys.platform import TenantDoors
from tests.waiting import wait_for

CODE = (Path(__file__).parent / "worker.js").read_text()


class Client:
    """A few words of MCP, so that its session stays open."""

    def __init__(self, tenant: TenantDoors, endpoint: str) -> None:
        self._endpoint = endpoint
        self._headers = {
            "authorization": f"Bearer {tenant.mcp_key}",
            "accept": "application/json, text/event-stream",
        }

    def ask(self, method: str, params: dict[str, Any] | None = None) -> httpx.Response:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}}
        return httpx.post(self._endpoint, json=body, headers=self._headers, timeout=30)

    def initialize(self) -> None:
        about = {"clientInfo": {"name": "few words", "version": "3"}, "capabilities": {}}
        answer = self.ask("initialize", {"protocolVersion": "2025-11-25", **about})
        assert answer.status_code == 200, answer.text
        self._headers["mcp-session-id"] = answer.headers["mcp-session-id"]


@pytest.mark.acceptance("S3.10", "S3.11")
def test_the_owner_sees_a_session_and_ends_it_and_later_all_of_them(tenant: TenantDoors):
    endpoint = tenant.serve("talk", CODE)
    path = f"/tenants/{tenant.slug}/servers/talk/environments/production/sessions"
    client, other = Client(tenant, endpoint), Client(tenant, endpoint)
    client.initialize()
    [seen] = wait_for(lambda: tenant.rest.get(path)["items"], 30, what="the session to be listed")
    assert (seen["client_name"], seen["client_version"], seen["state"]) == ("few words", "3", "open")
    assert seen["key_name"]
    tenant.rest.delete(f"{path}/{seen['id']}", status=204)
    wait_for(lambda: client.ask("tools/list").status_code == 404, 2, what="the session to be over")
    client.initialize()
    other.initialize()
    assert [each.ask("tools/list").status_code for each in (client, other)] == [200, 200]
    tenant.rest.delete(path)
    wait_for(lambda: client.ask("tools/list").status_code == 404, 2, what="all sessions to be over")
    assert other.ask("tools/list").status_code == 404
    client.initialize()
    assert client.ask("tools/list").status_code == 200
