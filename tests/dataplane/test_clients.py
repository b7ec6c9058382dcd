"""Real MCP clients through the gateway, against the official server."""

from __future__ import annotations

import pytest

from tests.clients import (
    ClientFailed,
    ClientName,
    call_tool,
    list_resources,
    list_tools,
    python_client,
    read_resource,
    talk,
    text_of,
    tool_names,
)
from tests.dataplane.harness import World, error_of, request

# The others, and more servers, are in tests/conformance/test_clients.py.
AT_HAND: tuple[ClientName, ...] = (
    "python-legacy",
    "python-modern",
    "sdk-legacy",
    "client-legacy",
    "client-modern",
    "inspector-legacy",
    "inspector-modern",
)


@pytest.mark.acceptance("S4.2", "S0.2", "S2.17", "S2.18", "S2.19", "S2.20")
@pytest.mark.parametrize("client", AT_HAND)
async def test_a_real_client_lists_calls_and_reads(world: World, client: ClientName) -> None:
    route = world.server("clients", world.target("official"))
    steps = [
        list_tools(),
        call_tool("add", a=2, b=40),
        call_tool("count", to=3),
        list_resources(),
        read_resource("test://greeting"),
    ]
    told = (await talk(client, world.url(route), world.key(), steps)).answers
    assert tool_names(told[0]) == ["add", "count"]
    assert text_of(told[1]) == "42"
    assert text_of(told[2]) == "counted to 3"
    assert text_of(told[4]) == "hello"


@pytest.mark.parametrize("client", ["python-legacy", "python-modern", "client-modern", "sdk-legacy"])
async def test_a_real_client_with_a_wrong_key_is_told(world: World, client: ClientName) -> None:
    route = world.server("clients-refused", world.target("official"))
    with pytest.raises(ClientFailed):
        await talk(client, world.url(route), "smcp_" + "x" * 43, [list_tools()])
    assert world.standin.seen == []


@pytest.mark.acceptance("S0.18")
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_progress_reaches_a_real_client(world: World, era: str) -> None:
    route = world.server("clients-progress", world.target("official"))
    heard: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        heard.append(progress)

    async with python_client(era, world.url(route), world.key()) as client:
        await client.call_tool("count", {"to": 4}, progress_callback=on_progress)
    assert heard == [1, 2, 3, 4]


async def test_a_modern_client_falls_back_where_only_legacy_is_spoken(world: World) -> None:
    route = world.server("clients-fallback", world.target("official", eras=("legacy",), issues_sessions=True))
    with pytest.raises(BaseExceptionGroup) as failed:
        async with python_client("modern", world.url(route), world.key()):
            pass
    assert failed.group_contains(ClientFailed, match="2025-11-25")
    told = await talk("client-legacy", world.url(route), world.key(), [call_tool("add", a=1, b=1)])
    assert text_of(told.answers[0]) == "2"


@pytest.mark.acceptance("S4.5")
async def test_two_real_clients_have_sessions_of_their_own(world: World) -> None:
    route = world.server("clients-two", world.target("official"))
    async with (
        python_client("legacy", world.url(route), world.key()) as one,
        python_client("legacy", world.url(route), world.key()) as two,
    ):
        for client in (one, two):
            assert (await client.call_tool("add", {"a": 1, "b": 2})).content[0].text == "3"  # type: ignore[union-attr]
    ours = {entry["headers"].get("mcp-session-id") for entry in world.standin.seen} - {None}
    assert len(ours) == 2


def test_a_client_that_closes_its_session_leaves_nothing_at_the_server(world: World) -> None:
    caller = world.caller(world.server("clients-close", world.target("official")))
    assert caller.send("DELETE").status_code == 204
    assert [entry["method"] for entry in world.standin.seen] == ["DELETE"]
    assert error_of(caller.send(body=request("ping"))) == (404, -32001)
