"""One conversation with an MCP server in a Python library that has an environment of its own (`mcp-1.txt`, `fastmcp.txt`).

`python talk.py` with one JSON object on stdin, as `tests/node/talk.js` takes it: {library: "mcp1" | "fastmcp", era, url, headers,
steps, answer}; out comes what that gives: {protocolVersion, server, answers, progress, asked}. Who cannot connect ends with exit
code 1 and one line on stderr. Nothing of the checkout is imported: this runs in neither of its environments.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

MODERN = "2026-07-28"
ASKED = json.load(sys.stdin)
progress: list[float] = []
questions: list[str] = []


async def on_progress(done: float, total: float | None, message: str | None) -> None:
    progress.append(done)


def whole(result: Any) -> dict[str, Any]:
    return dict(result.model_dump(mode="json", by_alias=True, exclude_none=True))


@asynccontextmanager
async def connect_mcp1() -> AsyncIterator[tuple[Any, Any]]:
    from mcp.client.sse import sse_client
    from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client

    if ASKED["era"] == "sse":
        async with sse_client(ASKED["url"], headers=ASKED["headers"]) as (read, write):
            yield read, write
        return
    async with (
        create_mcp_http_client(headers=ASKED["headers"]) as http,
        streamable_http_client(ASKED["url"], http_client=http) as (read, write, _),
    ):
        yield read, write


@asynccontextmanager
async def open_mcp1() -> AsyncIterator[tuple[Any, dict[str, Any]]]:
    from mcp import ClientSession
    from mcp.types import ElicitRequestParams, ElicitResult

    async def elicit(context: Any, params: ElicitRequestParams) -> ElicitResult:
        questions.append(params.message)
        return ElicitResult(action="accept", content=ASKED["answer"])

    async with (
        connect_mcp1() as (read, write),
        ClientSession(read, write, elicitation_callback=elicit) as session,
    ):
        opened = await session.initialize()
        yield session, {"protocolVersion": opened.protocolVersion, "server": {"name": opened.serverInfo.name}}


async def step_mcp1(session: Any, method: str, params: dict[str, Any]) -> dict[str, Any]:
    from mcp import McpError

    try:
        match method:
            case "tools/list":
                return whole(await session.list_tools())
            case "resources/list":
                return whole(await session.list_resources())
            case "resources/read":
                return whole(await session.read_resource(params["uri"]))
        called = session.call_tool(params["name"], params["arguments"], progress_callback=on_progress)
        return whole(await called)
    except McpError as exc:
        return {"error": exc.error.model_dump(mode="json")}


@asynccontextmanager
async def open_fastmcp() -> AsyncIterator[tuple[Any, dict[str, Any]]]:
    from fastmcp import Client
    from fastmcp.client.elicitation import ElicitResult
    from fastmcp.client.transports import StreamableHttpTransport

    async def elicit(message: str, response_type: Any, params: Any, context: Any) -> Any:
        questions.append(message)
        return ElicitResult(action="accept", content=ASKED["answer"])

    transport = StreamableHttpTransport(ASKED["url"], headers=ASKED["headers"])
    mode = "auto" if ASKED["era"] == "modern" else "legacy"
    handlers = {"elicitation_handler": elicit, "progress_handler": on_progress}
    async with Client(transport, mode=mode, **handlers) as client:
        version = client.protocol_version
        if ASKED["era"] == "modern" and version != MODERN:
            raise ConnectionError(f"the server settled on {version}")
        yield client, {"protocolVersion": version, "server": {"name": client.server_info.name}}


async def step_fastmcp(client: Any, method: str, params: dict[str, Any]) -> dict[str, Any]:
    from mcp import MCPError

    try:
        match method:
            case "tools/list":
                return {"tools": [whole(tool) for tool in await client.list_tools()]}
            case "resources/list":
                return {"resources": [whole(one) for one in await client.list_resources()]}
            case "resources/read":
                return {"contents": [whole(one) for one in await client.read_resource(params["uri"])]}
        called = await client.call_tool_mcp(params["name"], params["arguments"])
        return whole(called)
    except MCPError as exc:
        return {"error": exc.error.model_dump(mode="json")}


async def main() -> None:
    opening, step = {"mcp1": (open_mcp1, step_mcp1), "fastmcp": (open_fastmcp, step_fastmcp)}[
        ASKED["library"]
    ]
    async with opening() as (client, told):
        answers = [await step(client, one["method"], one["params"]) for one in ASKED["steps"]]
    json.dump({**told, "answers": answers, "progress": progress, "asked": questions}, sys.stdout)


def reason(failed: BaseException) -> str:
    inner = failed.exceptions[0] if isinstance(failed, BaseExceptionGroup) else failed
    return reason(inner) if inner is not failed else f"{type(failed).__name__}: {failed}"


try:
    asyncio.run(main())
except Exception as exc:
    sys.stderr.write(f"{reason(exc)}\n")
    sys.exit(1)
