"""Servers written with the official Python SDK, as the stand-in serves them."""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.resolve import Elicit, ListRoots, Resolve, Sample
from mcp_types import CreateMessageResult, ListRootsResult, SamplingMessage, TextContent
from pydantic import BaseModel


def _with_basics(name: str) -> MCPServer:
    """What any server has: a tool, one that reports progress, a resource."""
    server = MCPServer(name)

    @server.tool()
    def add(a: int, b: int) -> int:
        return a + b

    @server.tool()
    async def count(ctx: Context, to: int) -> str:
        for at in range(to):
            await ctx.report_progress(at + 1, to)
        return f"counted to {to}"

    @server.resource("test://greeting")
    def greeting() -> str:
        return "hello"

    return server


def official() -> MCPServer:
    """Both eras, with sessions."""
    return _with_basics("official")


class Name(BaseModel):
    name: str


def asking() -> MCPServer:
    server = MCPServer("asking")

    @server.tool()
    async def greet(ctx: Context) -> str:
        await ctx.report_progress(1, 2)
        answer = await ctx.elicit("who are you?", Name)
        await ctx.report_progress(2, 2)
        return f"hello {answer.data.name}" if answer.action == "accept" else answer.action

    @server.tool()
    async def sign_in(ctx: Context) -> str:
        return (await ctx.elicit_url("sign in", "https://sign.test/in", "e-1")).action

    @server.tool()
    async def think(ctx: Context) -> str:
        message = SamplingMessage(role="user", content=TextContent(type="text", text="2 + 2?"))
        thought = await ctx.session.create_message([message], max_tokens=10)
        return thought.content.text if isinstance(thought.content, TextContent) else ""

    @server.tool()
    async def look(ctx: Context) -> str:
        return ", ".join(str(root.uri) for root in (await ctx.session.list_roots()).roots)

    @server.tool()
    async def grow(ctx: Context) -> str:
        await ctx.session.send_tool_list_changed()
        return "grown"

    return server


def _who() -> Elicit[Name]:
    return Elicit("who are you?", Name)


def _thought() -> Sample:
    asked = SamplingMessage(role="user", content=TextContent(type="text", text="think"))
    return Sample([asked], max_tokens=10)


def _roots() -> ListRoots:
    return ListRoots()


def official_modern() -> MCPServer:
    """The official SDK's server, asking for everything a client can be asked for."""
    server = _with_basics("official-modern")

    @server.tool()
    def greet(who: Annotated[Name, Resolve(_who)]) -> str:
        return f"hello {who.name}"

    @server.tool()
    def everything(
        who: Annotated[Name, Resolve(_who)],
        thought: Annotated[CreateMessageResult, Resolve(_thought)],
        roots: Annotated[ListRootsResult, Resolve(_roots)],
    ) -> str:
        text = thought.content.text if isinstance(thought.content, TextContent) else ""
        return f"{who.name} {text} {roots.roots[0].uri}"

    @server.tool()
    async def touch(ctx: Context) -> str:
        await ctx.notify_resource_updated("test://greeting")
        await ctx.notify_tools_changed()
        return "touched"

    return server
