"""Real legacy clients at the official SDK's server, which here answers modern requests only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import mcp
import mcp_types as types
import pytest
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.exceptions import MCPDeprecationWarning

from tests.clients import (
    ClientName,
    call_tool,
    list_resources,
    list_tools,
    read_resource,
    talk,
    text_of,
    tool_names,
)
from tests.dataplane.harness import World
from tests.waiting import wait_until

pytestmark = pytest.mark.acceptance("P1")

LEGACY_CLIENTS: tuple[ClientName, ...] = ("python-legacy", "sdk-legacy", "client-legacy", "inspector-legacy")


def url(world: World, slug: str) -> str:
    target = world.target("official-modern", eras=("modern",), issues_sessions=False)
    return world.url(world.server(slug, target))


@asynccontextmanager
async def legacy_client(world: World, slug: str, **callbacks: Any) -> AsyncIterator[mcp.Client]:
    async with create_mcp_http_client(headers={"Authorization": f"Bearer {world.key()}"}) as http:
        transport = streamable_http_client(url(world, slug), http_client=http)
        async with mcp.Client(transport, mode="legacy", **callbacks) as client:
            yield client


def text(result: types.CallToolResult) -> str:
    (block,) = result.content
    assert isinstance(block, types.TextContent)
    return block.text


@pytest.mark.parametrize("client", LEGACY_CLIENTS)
async def test_a_real_client_lists_calls_and_reads(world: World, client: ClientName) -> None:
    steps = [
        list_tools(),
        call_tool("add", a=2, b=40),
        call_tool("count", to=3),
        list_resources(),
        read_resource("test://greeting"),
    ]
    told = (await talk(client, url(world, "bridge-clients"), world.key(), steps)).answers
    assert tool_names(told[0]) == ["add", "count", "greet", "everything", "touch"]
    assert text_of(told[1]) == "42"
    assert text_of(told[2]) == "counted to 3"
    assert text_of(told[4]) == "hello"
    assert {entry["headers"]["mcp-protocol-version"] for entry in world.standin.seen} == {"2026-07-28"}


async def test_a_real_client_is_asked_for_everything_it_can_give(world: World) -> None:
    async def elicit(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        assert params.message == "who are you?"
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    async def sample(context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
        content = types.TextContent(type="text", text="42")
        return types.CreateMessageResult(role="assistant", content=content, model="m")

    async def roots(context: Any) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[types.Root(uri="file:///home")])  # type: ignore[arg-type]

    callbacks = {"elicitation_callback": elicit, "sampling_callback": sample, "list_roots_callback": roots}
    async with legacy_client(world, "bridge-asks", **callbacks) as client:
        assert client.protocol_version == "2025-11-25"
        assert text(await client.call_tool("greet", {})) == "hello Ada"
        assert text(await client.call_tool("everything", {})) == "Ada 42 file:///home"


async def test_a_real_client_that_declines_or_cannot_is_told(world: World) -> None:
    async def decline(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        return types.ElicitResult(action="decline")

    async with legacy_client(world, "bridge-declines", elicitation_callback=decline) as client:
        assert (await client.call_tool("greet", {})).is_error
        assert (await client.call_tool("everything", {})).is_error  # it cannot sample
    async with legacy_client(world, "bridge-cannot") as client:
        assert (await client.call_tool("greet", {})).is_error
        assert text(await client.call_tool("add", {"a": 1, "b": 2})) == "3"


async def test_a_real_client_hears_of_progress_and_of_what_it_watches(world: World) -> None:
    heard: list[Any] = []
    done: list[float] = []

    async def on_message(message: Any) -> None:
        heard.append(message)

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        done.append(progress)

    async with legacy_client(world, "bridge-watches", message_handler=on_message) as client:
        await client.call_tool("count", {"to": 3}, progress_callback=on_progress)
        assert done == [1, 2, 3]
        with pytest.warns(MCPDeprecationWarning):  # there is no other way for a client of its revision
            await client.subscribe_resource("test://greeting")

        def is_listening() -> bool:
            return any(
                entry["headers"].get("mcp-method") == "subscriptions/listen" for entry in world.standin.seen
            )

        await wait_until(is_listening, what="the client's stream to stand")
        await client.call_tool("touch", {})

        def is_told() -> bool:
            names = {type(getattr(message, "root", message)).__name__ for message in heard}
            return {"ResourceUpdatedNotification", "ToolListChangedNotification"} <= names

        await wait_until(is_told, what="the client to be told")
