"""An MCP server that does as it is told by the arguments of a call."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from typing import Any

from tests.dataplane.asgi import (
    Receive,
    Send,
    answer,
    begin_stream,
    end_stream,
    error,
    event,
    result,
    result_body,
)
from tests.dataplane.control import Control

MODERN_META = "io.modelcontextprotocol/protocolVersion"


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
