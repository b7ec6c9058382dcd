"""Real MCP clients, all talked to in one way: `await talk(client, url, token, steps)`.

    python-legacy, python-modern          PyPI `mcp` 2.x
    mcp1-legacy, mcp1-sse                 PyPI `mcp` 1.x; what ends in -sse speaks HTTP+SSE
    fastmcp-legacy, fastmcp-modern        PyPI `fastmcp`
    sdk-legacy, sdk-sse                   npm `@modelcontextprotocol/sdk` 1.x
    client-legacy, client-modern          npm `@modelcontextprotocol/client` 2.x
    remote-legacy                         npm `mcp-remote`, with the 1.x SDK on its stdio
    inspector-legacy, inspector-modern    npm `@modelcontextprotocol/inspector` 2.x, `--cli`

A conversation is a list of steps; every step's answer is the result as JSON, or `{"error": {"code", "message", "data"}}` for a
JSON-RPC error. A client that cannot connect raises ClientFailed; so does the Inspector for a JSON-RPC error, which it does not tell
apart. The Inspector connects anew for each step and can be asked nothing, the others connect once and answer with ANSWER. What is not
in the checkout's own environment is installed on first use.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

import httpx2
import mcp
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.dispatcher import ProgressFnT
from mcp.types import ElicitRequestParams, ElicitResult

from tests.toolchain import NODE, NODE_PACKAGES, PYTHONS, ensure_packages, ensure_python, environment

ClientName = Literal[
    "python-legacy",
    "python-modern",
    "mcp1-legacy",
    "mcp1-sse",
    "fastmcp-legacy",
    "fastmcp-modern",
    "sdk-legacy",
    "sdk-sse",
    "client-legacy",
    "client-modern",
    "remote-legacy",
    "inspector-legacy",
    "inspector-modern",
]
CLIENTS: Final[tuple[ClientName, ...]] = get_args(ClientName)
STREAMABLE: Final = tuple(client for client in CLIENTS if not client.endswith("-sse"))  # need no gateway
ANSWER: Final[Mapping[str, Any]] = {"name": "Ada"}  # what every client's user says when asked
PINNED: Final = {"mcp1": "mcp-1", "fastmcp": "fastmcp"}  # tests/python/<name>.txt
MODERN: Final = "2026-07-28"
TIMEOUT_S: Final = 60.0

Answer = dict[str, Any]


class ClientFailed(Exception):
    """The client could not connect, or gave up. The text is what it told its user."""


@dataclass(frozen=True)
class Step:
    """One request of a client."""

    method: Literal["tools/list", "tools/call", "resources/list", "resources/read"]
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """What a conversation brought. `progress` is what the server reported of it, `asked` what it asked the user. Not every client tells
    the first two (they are empty then), and the Inspector only the answers."""

    protocol_version: str
    server: str
    answers: Sequence[Answer]
    progress: Sequence[float] = ()
    asked: Sequence[str] = ()


def list_tools() -> Step:
    return Step("tools/list")


def call_tool(name: str, /, **arguments: Any) -> Step:
    return Step("tools/call", {"name": name, "arguments": arguments})


def list_resources() -> Step:
    return Step("resources/list")


def read_resource(uri: str) -> Step:
    return Step("resources/read", {"uri": uri})


def tool_names(answer: Answer) -> list[str]:
    """Of an answer to `list_tools`."""
    return [tool["name"] for tool in answer["tools"]]


def text_of(answer: Answer) -> str:
    """The first text of an answer to `call_tool` or `read_resource`."""
    return str((answer.get("content") or answer["contents"])[0]["text"])


async def talk(
    client: ClientName,
    url: str,
    token: str | None,
    steps: Sequence[Step],
    *,
    headers: Mapping[str, str] | None = None,
) -> Transcript:
    """Connects to an endpoint (HTTP+SSE has its own address beside it), takes the steps in order, closes.

    Raises ClientFailed, TimeoutError after TIMEOUT_S.
    """
    if client.endswith("-sse"):
        url = f"{url.removesuffix('/mcp').removesuffix('/sse')}/sse"
    sent = dict(headers or {})
    if token is not None:
        sent["Authorization"] = f"Bearer {token}"
    library, _, era = client.partition("-")
    program = await asyncio.to_thread(_program, library)
    async with asyncio.timeout(TIMEOUT_S):
        if library == "python":
            return await _talk_python(era, url, sent, steps)
        if library == "inspector":
            return await _talk_inspector(era, url, sent, steps)
        return await _talk_elsewhere(program, library, era, url, sent, steps)


def _program(library: str) -> tuple[str, ...]:
    """What a library's conversations run in; made ready on first use."""
    if library in PINNED:
        return str(ensure_python(PINNED[library])), str(PYTHONS / "talk.py")
    if library != "python":
        ensure_packages(NODE_PACKAGES)
    return str(NODE), str(NODE_PACKAGES / "talk.js")


@asynccontextmanager
async def python_client(
    era: str, url: str, token: str | None = None, *, headers: Mapping[str, str] | None = None, **more: Any
) -> AsyncIterator[mcp.Client]:
    """A connected `mcp.Client`, for tests that need more of it than steps. `era`: "legacy" or "modern"; `more` is the Client's.

    Raises ClientFailed if the server does not speak the modern era, and what the client raises otherwise.
    """
    sent = dict(headers or {})
    if token is not None:
        sent["Authorization"] = f"Bearer {token}"
    async with create_mcp_http_client(headers=sent) as http:
        transport = streamable_http_client(url, http_client=http)
        async with mcp.Client(transport, mode="auto" if era == "modern" else "legacy", **more) as client:
            if era == "modern" and client.protocol_version != MODERN:
                raise ClientFailed(f"the server settled on {client.protocol_version}")
            yield client


async def _talk_python(era: str, url: str, headers: Mapping[str, str], steps: Sequence[Step]) -> Transcript:
    reason: BaseException | None = None
    heard: list[float] = []
    asked: list[str] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        heard.append(progress)

    async def elicit(context: Any, params: ElicitRequestParams) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action="accept", content=dict(ANSWER))

    try:
        async with python_client(era, url, headers=headers, elicitation_callback=elicit) as client:
            answers = [await _step_python(client, step, on_progress) for step in steps]
            server = client.server_info.name if client.server_info else ""
            return Transcript(
                protocol_version=client.protocol_version,
                server=server,
                answers=answers,
                progress=heard,
                asked=asked,
            )
    except* (mcp.MCPError, httpx2.HTTPError, ClientFailed) as failed:
        reason = _first(
            failed
        )  # raised below: before 3.11.4, what is raised here comes out wrapped in a group
    raise ClientFailed(str(reason)) from reason


async def _step_python(client: mcp.Client, step: Step, on_progress: ProgressFnT) -> Answer:
    try:
        match step.method:
            case "tools/list":
                result: Any = await client.list_tools()
            case "tools/call":
                name, arguments = step.params["name"], step.params["arguments"]
                result = await client.call_tool(name, arguments, progress_callback=on_progress)
            case "resources/list":
                result = await client.list_resources()
            case "resources/read":
                result = await client.read_resource(step.params["uri"])
    except mcp.MCPError as exc:
        return {"error": {"code": exc.error.code, "message": exc.error.message, "data": exc.error.data}}
    return dict(result.model_dump(mode="json", by_alias=True, exclude_none=True))


def _first(failed: BaseExceptionGroup) -> BaseException:
    inner = failed.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


async def _talk_elsewhere(
    program: Sequence[str],
    library: str,
    era: str,
    url: str,
    headers: Mapping[str, str],
    steps: Sequence[Step],
) -> Transcript:
    asked = {
        "library": library,
        "era": era,
        "url": url,
        "headers": headers,
        "steps": [{"method": step.method, "params": step.params} for step in steps],
        "answer": ANSWER,
    }
    with tempfile.TemporaryDirectory() as home:  # mcp-remote keeps its settings there
        code, out, err = await _run(program, stdin=json.dumps(asked), HOME=home)
    if code:
        raise ClientFailed(err.strip())
    told = json.loads(out)
    return Transcript(
        protocol_version=told["protocolVersion"],
        server=(told.get("server") or {}).get("name", ""),
        answers=told["answers"],
        progress=told["progress"],
        asked=told["asked"],
    )


async def _talk_inspector(
    era: str, url: str, headers: Mapping[str, str], steps: Sequence[Step]
) -> Transcript:
    answers = [await _step_inspector(era, url, headers, step) for step in steps]
    return Transcript(protocol_version="", server="", answers=answers)


async def _step_inspector(era: str, url: str, headers: Mapping[str, str], step: Step) -> Answer:
    launcher = NODE_PACKAGES / "node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js"
    command = [
        str(NODE),
        str(launcher),
        "--cli",
        "--server-url",
        url,
        "--transport",
        "http",
        "--protocol-era",
        era,
    ]
    command += ["--method", step.method, "--format", "json", "--quiet", "--stored-auth-only"]
    for name, value in headers.items():
        command += ["--header", f"{name}: {value}"]
    if step.method == "tools/call":
        command += [
            "--tool-name",
            step.params["name"],
            "--tool-args-json",
            json.dumps(step.params["arguments"]),
        ]
    elif step.method == "resources/read":
        command += ["--uri", step.params["uri"]]
    with tempfile.TemporaryDirectory() as home:  # it keeps a catalog and tokens in the home directory
        code, out, err = await _run(command, HOME=home)
    if (
        not out.strip()
    ):  # a failed tool call has exit code 5 and a result; every other failure is told on stderr alone
        raise ClientFailed(f"exit code {code}: {err.strip()}")
    return dict(json.loads(out)["result"])


async def _run(command: Sequence[str], stdin: str = "", **variables: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environment(**variables),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await process.communicate(stdin.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()
