"""What a newcomer does first: start it, and talk to the demo server with the client they have."""

from __future__ import annotations

import httpx
import pytest

from tests.clients import (
    CLIENTS,
    ClientFailed,
    call_tool,
    list_tools,
    read_resource,
    text_of,
    tool_names,
)
from tests.journeys.platform import Platform, converse

TOOLS = {"calculator", "echo", "notes_put", "notes_get", "files_put", "files_get", "rows_query"}


@pytest.mark.acceptance("P12", "S4.1", "S4.2", "S2.18", "S2.19", "S2.20")
@pytest.mark.parametrize("client", CLIENTS)
def test_every_client_lists_and_calls_the_demo_servers_tools(platform: Platform, client):
    demo = platform.facts["demo"]
    said = converse(
        client,
        demo["endpoint"],
        demo["api_key"],
        [
            list_tools(),
            call_tool("calculator", operation="add", a=2, b=40),
            call_tool("notes_put", key=client, value="kept"),
            call_tool("notes_get", key=client),
            read_resource("system://info"),
        ],
    )
    tools, added, _, note, info = said.answers
    assert set(tool_names(tools)) == TOOLS
    assert "42" in text_of(added)
    assert "kept" in text_of(note)
    assert text_of(info)


@pytest.mark.acceptance("S4.25")
@pytest.mark.parametrize("key", [None, "", "smcp_nobody_nothing"])
def test_nobody_gets_in_without_a_key(platform: Platform, key):
    with pytest.raises(ClientFailed):
        converse("python-legacy", platform.facts["demo"]["endpoint"], key, [list_tools()])
    answer = httpx.post(
        platform.facts["demo"]["endpoint"], json={"jsonrpc": "2.0", "id": 1, "method": "ping"}
    )
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_every_door_says_that_it_is_well(platform: Platform):
    facts = platform.facts
    assert httpx.get(f"{facts['gateway_admin']}/readyz").status_code == 200
    assert "smcp_" in httpx.get(f"{facts['gateway_admin']}/metrics").text
    assert httpx.get(f"{facts['api']}/healthz").status_code == 200
    assert httpx.get(f"{facts['console']}/", follow_redirects=True).status_code == 200
