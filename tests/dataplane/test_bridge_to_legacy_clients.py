"""The official SDK's client in its modern era, before the same SDK's server that is only spoken to in the legacy one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import mcp
import mcp_types as types
import pytest
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from tests.clients import MODERN, call_tool, list_tools, talk, text_of, tool_names
from tests.dataplane.harness import World

pytestmark = pytest.mark.acceptance("P1")


class Person:
    """Who answers a client's questions."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def elicit(self, context: Any, params: Any) -> types.ElicitResult:
        self.asked.append(params.message)
        return types.ElicitResult(action="accept", content=None if params.mode == "url" else {"name": "Ada"})

    async def sample(
        self, context: Any, params: types.CreateMessageRequestParams
    ) -> types.CreateMessageResult:
        self.asked.append(params.messages[0].content.text)  # type: ignore[union-attr]
        return types.CreateMessageResult(
            role="assistant", content=types.TextContent(type="text", text="4"), model="none"
        )

    async def roots(self, context: Any) -> types.ListRootsResult:
        self.asked.append("roots")
        return types.ListRootsResult(roots=[types.Root(uri="file:///home/ada")])  # type: ignore[arg-type]


@asynccontextmanager
async def person_at(world: World, slug: str, person: Person) -> AsyncIterator[mcp.Client]:
    target = world.target("asking", eras=("legacy",), issues_sessions=True)
    route = world.server(slug, target, modern_clients="bridge")
    async with create_mcp_http_client(headers={"Authorization": f"Bearer {world.key()}"}) as http:
        transport = streamable_http_client(world.url(route), http_client=http)
        async with mcp.Client(
            transport,
            elicitation_callback=person.elicit,
            sampling_callback=person.sample,
            list_roots_callback=person.roots,
        ) as client:
            assert client.protocol_version == MODERN
            yield client


def text(result: Any) -> str:
    return str(result.content[0].text)


async def test_all_that_a_server_asks_is_answered_by_the_clients_own_means(world: World) -> None:
    person, heard = Person(), []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        heard.append(progress)

    async with person_at(world, "sdk", person) as client:
        assert client.server_info is not None
        assert client.server_info.name == "asking"
        greeting = await client.call_tool("greet", {}, progress_callback=on_progress)
        assert text(greeting) == "hello Ada"
        assert text(await client.call_tool("sign_in", {})) == "accept"
        assert text(await client.call_tool("think", {})) == "4"
        assert text(await client.call_tool("look", {})) == "file:///home/ada"
    assert heard == [1, 2]
    assert person.asked == ["who are you?", "sign in", "2 + 2?", "roots"]
    assert not any("mcp-method" in entry["headers"] for entry in world.standin.seen)


async def test_a_client_hears_that_the_tools_have_changed(world: World) -> None:
    target = world.target("legacy-heard", eras=("legacy",), issues_sessions=True)
    route = world.server("sdk-listens", target, modern_clients="bridge")
    async with create_mcp_http_client(headers={"Authorization": f"Bearer {world.key()}"}) as http:
        transport = streamable_http_client(world.url(route), http_client=http)
        async with (
            mcp.Client(transport) as client,
            client.listen(tools_list_changed=True, resource_subscriptions=["test://a"]) as changes,
        ):
            assert changes.honored.tools_list_changed
            for method, params in (
                ("notifications/tools/list_changed", {}),
                ("notifications/resources/updated", {"uri": "test://a"}),
            ):
                message = {"jsonrpc": "2.0", "method": method, "params": params}
                assert world.standin.broadcast("legacy-heard", message) == 1
            heard = [type(await anext(changes)).__name__ for _ in range(2)]
    assert sorted(heard) == ["ResourceUpdated", "ToolsListChanged"]


@pytest.mark.parametrize("client", ["python-modern", "client-modern", "inspector-modern"])
async def test_modern_clients_of_other_makers_list_and_call(world: World, client: Any) -> None:
    target = world.target("official", eras=("legacy",), issues_sessions=True)
    route = world.server("makers", target, modern_clients="bridge")
    told = await talk(client, world.url(route), world.key(), [list_tools(), call_tool("add", a=40, b=2)])
    assert tool_names(told.answers[0]) == ["add", "count"]
    assert text_of(told.answers[1]) == "42"
    assert all("mcp-method" not in entry["headers"] for entry in world.standin.seen)
