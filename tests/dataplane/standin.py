"""The gateway's other side, as a process of its own: a dispatcher that believes only valid assertions, and servers behind it.

`python -m tests.dataplane.standin --port P --raw-port R` with SMCP_STANDIN_KEYS (public keys as `kid:base64url`) and
SMCP_STANDIN_AUD. The script's name chooses the server:

    scripted-…   answers as the call's arguments ask it to, in both eras, keeping sessions where its name ends in `-stateful`
    legacy-…     speaks legacy revisions only (`legacy_standin.py`)
    official     the official Python SDK's server, both eras, with sessions
    modern-…, official-modern    as `modern_standin.py` says: the modern era only
    asking       the same SDK's, with tools that ask their client something; legacy revisions only
    broken       on the raw port: whatever bytes the control door was given, sent as they are

What arrived is told at `/_control/seen`; a scripted stream sends its next event when `/_control/go` says so.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types import SamplingMessage, TextContent
from pydantic import BaseModel

from hosting.dataplane.contract import unb64url, verify_assertion
from tests.dataplane.legacy_standin import LegacyOnly
from tests.dataplane.modern_standin import REVISION, ModernScripted, official_modern

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

MODERN_META = "io.modelcontextprotocol/protocolVersion"


def official() -> MCPServer:
    server = MCPServer("official")

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


class Control:
    """What tests see and steer."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.permits: dict[str, asyncio.Semaphore] = {}
        self.raw_answer = b""
        self.raw_stays_open = False
        self.raw_reads_nothing = False
        self.raw_more = b""
        self.raw_every_s = 0.0
        self.raw_open = 0
        self.raw_seen: list[str] = []
        self.legacy_only = LegacyOnly(self.permit)

    def permit(self, name: str) -> asyncio.Semaphore:
        return self.permits.setdefault(name, asyncio.Semaphore(0))

    async def __call__(self, path: str, body: bytes) -> Any:
        match path:
            case "/_control/seen":
                return self.seen
            case "/_control/forget":
                self.seen.clear()
                self.raw_seen.clear()
                return {}
            case "/_control/go":
                asked = json.loads(body)
                for _ in range(asked.get("times", 1)):
                    self.permit(asked["name"]).release()
                return {}
            case "/_control/raw":
                asked = json.loads(body)
                self.raw_answer = asked["answer"].encode("latin-1")
                self.raw_stays_open = asked.get("stays_open", False)
                self.raw_reads_nothing = asked.get("reads_nothing", False)
                self.raw_more = asked.get("more", "").encode("latin-1")
                self.raw_every_s = asked.get("every_s", 0.0)
                return {}
            case "/_control/raw_open":
                return self.raw_open
            case "/_control/broadcast":
                asked = json.loads(body)
                return {"streams": self.legacy_only.broadcast(asked["script"], asked["message"])}
            case "/_control/forget_sessions":
                return {"sessions": self.legacy_only.forget(json.loads(body)["script"])}
            case "/_control/raw_seen":
                return self.raw_seen
        return None


class Run:
    """A call that goes on whoever listens: its events stay, so that any connection can have what came after one of them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.events: list[dict[str, Any]] = []
        self.is_over = False
        self.news = asyncio.Condition()

    async def add(self, message: dict[str, Any], *, is_last: bool = False) -> None:
        async with self.news:
            self.events.append(message)
            self.is_over = is_last
            self.news.notify_all()

    async def tell(self, send: Send, *, after: int, most: int = 1_000_000) -> None:
        """At most `most` events after number `after`, as they come, with their numbers as ids."""
        at, end = after, after + most
        while at < end:
            async with self.news:
                while len(self.events) <= at and not self.is_over:
                    await self.news.wait()
            if at >= len(self.events):
                break
            at += 1
            await event(send, self.events[at - 1], event_id=f"{self.name} {at}")
        await end_stream(send)


class Scripted:
    """An MCP server that does as it is told by the arguments of a tool call."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._sessions: dict[str, str] = {}
        self._sessions_of: Counter[str] = Counter()
        self._runs: dict[str, Run] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)

    async def __call__(
        self, script: str, entry: dict[str, Any], body: bytes, receive: Receive, send: Send
    ) -> None:
        headers, method = entry["headers"], entry["method"]
        is_stateful = script.endswith("-stateful") and "mcp-method" not in headers
        session = headers.get("mcp-session-id")
        if method == "GET":
            await self._get(is_stateful, session, entry, receive, send)
        elif method == "DELETE":
            known = self._sessions.pop(session or "", None)
            await answer(send, 200 if known else 404, b"")
        else:
            parsed = json.loads(body)
            if isinstance(parsed, list):
                answers = [result(m["id"], {"batched": True}) for m in parsed if "id" in m and "method" in m]
                await answer(send, 200 if answers else 202, json.dumps(answers).encode() if answers else b"")
            elif is_stateful and parsed.get("method") != "initialize" and self._has_lost(script, session):
                await answer(send, 404, error(parsed.get("id"), -32001, "Session not found"))
            else:
                await self._message(is_stateful, parsed, entry, receive, send)

    def _has_lost(self, script: str, session: str | None) -> bool:
        return session not in self._sessions or "-forgetful" in script

    async def _get(
        self, is_stateful: bool, session: str | None, entry: dict[str, Any], receive: Receive, send: Send
    ) -> None:
        if not is_stateful:
            await answer(send, 405, b"", [("allow", "POST")])
            return
        if session not in self._sessions:
            await answer(send, 404, error(None, -32001, "Session not found"))
            return
        await begin_stream(send)
        last = entry["headers"].get("last-event-id")
        if last and (run := self._runs.get(last.partition(" ")[0])):
            await run.tell(send, after=int(last.partition(" ")[2]))
            return
        number = int(last.removeprefix("ev ")) + 1 if last else 1
        gone = asyncio.create_task(self._until_disconnect(entry, receive))
        while await self._may_go_on("get", gone):
            note = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": number}}
            await event(send, note, event_id=f"ev {number}")
            number += 1

    async def _may_go_on(self, permit: str, gone: asyncio.Task[None]) -> bool:
        """Waits for a permit; False when the caller left first. A permit is never taken for one who left."""
        taking = asyncio.create_task(self._control.permit(permit).acquire())
        await asyncio.wait([taking, gone], return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            if taking.done():
                self._control.permit(permit).release()
            taking.cancel()
        return not gone.done()

    async def _message(
        self, is_stateful: bool, message: dict[str, Any], entry: dict[str, Any], receive: Receive, send: Send
    ) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case None:
                await answer(send, 202, b"")
            case str(name) if name.startswith("notifications/"):
                await answer(send, 202, b"")
            case "initialize":
                revision = params.get("protocolVersion", "2025-11-25")
                if "-downgraded" in entry["script"] and self._sessions_of[entry["script"]]:
                    revision = "2025-03-26"
                self._sessions_of[entry["script"]] += 1
                told = {
                    "protocolVersion": revision,
                    "capabilities": {},
                    "serverInfo": {"name": "scripted", "version": "1"},
                }
                extra = []
                if is_stateful:
                    session = f"up-{next(self._numbers)}"
                    self._sessions[session] = revision
                    extra = [("mcp-session-id", session)]
                if params.get("_as") == "sse":
                    await begin_stream(send, extra)
                    await event(
                        send, {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "hi"}}
                    )
                    await event(send, json.loads(result_body(message["id"], told)))
                    await end_stream(send)
                else:
                    await answer(send, 200, result_body(message["id"], told), extra)
            case "tools/call":
                await self._call(message, params, entry, receive, send)
            case "ping" | "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe":
                await answer(send, 200, result_body(message["id"], {}))
            case str(name) if name.endswith("/list"):
                key = "resourceTemplates" if "templates" in name else name.partition("/")[0]
                await answer(send, 200, result_body(message["id"], {key: [], "resultType": "complete"}))
            case "server/discover" if "-undiscovered" not in entry["script"]:
                told = {"supportedVersions": ["2026-07-28"], "capabilities": {}, "resultType": "complete"}
                await answer(send, 200, result_body(message["id"], told))
            case "subscriptions/listen":
                await begin_stream(send)
                await event(
                    send,
                    {"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": {}},
                )
                await self._until_disconnect(entry, receive)
            case _:
                await answer(send, 404, error(message.get("id"), -32601, "Method not found"))

    async def _call(
        self,
        message: dict[str, Any],
        params: dict[str, Any],
        entry: dict[str, Any],
        receive: Receive,
        send: Send,
    ) -> None:
        asked = params.get("arguments", {})
        match params.get("name"):
            case "echo":
                text = {"content": [{"type": "text", "text": str(asked.get("text", ""))}]}
                await answer(send, 200, result_body(message["id"], text), asked.get("headers", []))
            case "status":
                told = asked.get("body", "").encode()
                if asked.get("error"):
                    told = error(message["id"], *asked["error"])
                content_type = asked.get("content_type", "application/json")
                await answer(send, asked["status"], told, asked.get("headers", []), content_type)
            case "big":
                text = {"content": [{"type": "text", "text": "x" * asked["size"]}]}
                await answer(send, 200, result_body(message["id"], text))
            case "hang":
                await self._until_disconnect(entry, receive)
            case "wait":
                await self._control.permit(asked["permit"]).acquire()
                entry["finished"] = True
                await answer(send, 200, result_body(message["id"], {"content": []}))
            case "stream":
                await self._stream(message, asked, entry, receive, send)
            case "durable":
                run = self._runs[asked["run"]] = Run(asked["run"])
                task = asyncio.create_task(self._carry_out(run, message["id"], asked))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
                await begin_stream(send)
                await run.tell(send, after=0, most=asked.get("closes_after", 1_000_000))
            case "raw_stream":
                await begin_stream(send, asked.get("headers", []))
                for piece in asked["pieces"]:
                    await send({"type": "http.response.body", "body": piece.encode(), "more_body": True})
                await end_stream(send)

    async def _stream(
        self,
        message: dict[str, Any],
        asked: dict[str, Any],
        entry: dict[str, Any],
        receive: Receive,
        send: Send,
    ) -> None:
        """`count` notifications, each on a permit where one is named, then the answer."""
        await begin_stream(send)
        gone = asyncio.create_task(self._until_disconnect(entry, receive))
        try:
            for at in range(asked["count"]):
                if (permit := asked.get("permit")) and not await self._may_go_on(permit, gone):
                    return
                note = {
                    "jsonrpc": "2.0",
                    "method": "notifications/progress",
                    "params": {"progressToken": 1, "progress": at, "filler": "x" * asked.get("filler", 0)},
                }
                await event(send, note, event_id=asked.get("id", "").format(at) or None)
                entry["sent"] = at + 1
                await asyncio.sleep(0)
                if gone.done():
                    return
            await event(send, json.loads(result_body(message["id"], {"content": []})))
            entry["finished"] = True
            await end_stream(send)
        finally:
            gone.cancel()

    async def _carry_out(self, run: Run, request_id: Any, asked: dict[str, Any]) -> None:
        """`count` notifications, each on a permit, then the answer."""
        for at in range(asked["count"]):
            await self._control.permit(run.name).acquire()
            params = {"progressToken": 1, "progress": at}
            await run.add({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
        await self._control.permit(run.name).acquire()
        text = [{"type": "text", "text": f"{run.name} is done"}]
        await run.add(result(request_id, {"content": text}), is_last=True)

    async def _until_disconnect(self, entry: dict[str, Any], receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        entry["disconnected"] = True


class StandIn:
    """The ASGI app: control door, dispatcher, servers."""

    def __init__(self, keys: dict[str, Ed25519PublicKey], audience: str, control: Control) -> None:
        self._keys = keys
        self._audience = audience
        self._control = control
        self._scripted = Scripted(control)
        self._modern = ModernScripted(control)
        security = TransportSecuritySettings(enable_dns_rebinding_protection=False)
        self._asking = asking().streamable_http_app(transport_security=security)
        self.official = official().streamable_http_app(transport_security=security)
        self.official_modern = official_modern().streamable_http_app(transport_security=security)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with (
            self.official.router.lifespan_context(self.official),
            self.official_modern.router.lifespan_context(self.official_modern),
            self._asking.router.lifespan_context(self._asking),
        ):
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith("/_control/"):
            told = await self._control(scope["path"], await read(receive))
            await answer(send, 404 if told is None else 200, json.dumps(told).encode())
            return
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            assertion = verify_assertion(headers.get("smcp-assertion", ""), keys=self._keys)
        except ValueError:
            await answer(send, 401, b"no valid assertion", content_type="text/plain")
            return
        if assertion.aud != self._audience:
            await answer(send, 401, b"another audience", content_type="text/plain")
            return
        entry = {
            "method": scope["method"],
            "path": scope["path"],
            "script": assertion.wrk,
            "tenant": assertion.ten,
            "headers": headers,
        }
        self._control.seen.append(entry)
        if assertion.wrk == "official":
            await self.official(scope, receive, send)  # type: ignore[arg-type]
        elif assertion.wrk == "official-modern":
            if headers.get("mcp-protocol-version") == REVISION:
                await self.official_modern(scope, receive, send)  # type: ignore[arg-type]
            else:
                await answer(
                    send, 405 if scope["method"] != "POST" else 404, error(None, -32601, "modern only")
                )
        elif assertion.wrk == "asking":
            if "mcp-method" in headers:
                await answer(send, 400, error(None, -32000, "legacy revisions only"))
            else:
                await self._asking(scope, receive, send)  # type: ignore[arg-type]
        elif assertion.wrk.startswith("legacy"):
            body = await read(receive)
            await self._control.legacy_only(assertion.wrk, entry, body, receive, send)
        elif assertion.wrk.startswith("scripted"):
            body = await read(receive)
            entry["body"] = body.decode()
            await self._scripted(assertion.wrk, entry, body, receive, send)
        elif assertion.wrk.startswith("modern-"):
            body = await read(receive)
            entry["body"] = body.decode()
            await self._modern(assertion.wrk, entry, body, receive, send)
        else:
            await answer(send, 404, b"no such script", [("smcp-dispatch-error", "not-found")], "text/plain")


async def read(receive: Receive) -> bytes:
    body: bytes = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


def result(request_id: Any, told: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "result": told}


def result_body(request_id: Any, told: Any) -> bytes:
    return json.dumps(result(request_id, told)).encode()


def error(request_id: Any, code: int, message: str) -> bytes:
    return json.dumps(
        {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message}}
    ).encode()


async def answer(
    send: Send, status: int, body: bytes, extra: Any = (), content_type: str = "application/json"
) -> None:
    headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), value.encode()) for name, value in extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def begin_stream(send: Send, extra: Any = ()) -> None:
    headers = [(b"content-type", b"text/event-stream")]
    headers += [(name.encode(), value.encode()) for name, value in extra]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": True})


async def event(send: Send, message: Any, *, event_id: str | None = None) -> None:
    lines = f"id: {event_id}\n" if event_id else ""
    body = f"{lines}data: {json.dumps(message)}\n\n".encode()
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def end_stream(send: Send) -> None:
    await send({"type": "http.response.body", "body": b""})


async def serve_raw(control: Control, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request in, the bytes the test asked for out, and `more` of them for as long as somebody listens."""
    control.raw_open += 1
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        control.raw_seen.append(head.decode("latin-1"))
        writer.write(control.raw_answer)
        await writer.drain()
        more, every_s = control.raw_more, control.raw_every_s
        while more:
            writer.write(more)
            await writer.drain()
            await asyncio.sleep(every_s)
        if control.raw_reads_nothing:
            await control.permit("raw").acquire()
        elif control.raw_stays_open:
            await reader.read()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        control.raw_open -= 1
        writer.close()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--raw-port", type=int, required=True)
    given = parser.parse_args()
    keys = {}
    for entry in os.environ["SMCP_STANDIN_KEYS"].split(","):
        kid, _, encoded = entry.partition(":")
        keys[kid] = Ed25519PublicKey.from_public_bytes(unb64url(encoded))
    control = Control()
    app = StandIn(keys, os.environ["SMCP_STANDIN_AUD"], control)
    raw = await asyncio.start_server(lambda r, w: serve_raw(control, r, w), "127.0.0.1", given.raw_port)
    config = uvicorn.Config(
        app,
        port=given.port,
        log_level="warning",
        timeout_graceful_shutdown=1,
        timeout_keep_alive=60,
        lifespan="off",
    )
    async with raw, app.running():
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    asyncio.run(main())
