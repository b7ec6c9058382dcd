"""Servers of the stand-in that speak the modern era and nothing else.

    modern-…            does as the arguments of a call ask it to. `-cached`: may be kept for a minute; `-plain`: no logging, no
                        subscriptions; `-private`: kept for one caller; `-strict`: wants the header of its annotated tool
    official-modern     the official Python SDK's server, asking through its dependencies

Every request is judged by the official SDK's own rules for the modern era (`mcp.shared.inbound`), so what the gateway writes is checked by
somebody else's reading of the specification.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any, Protocol

from mcp.shared.inbound import InboundLadderRejection, classify_inbound_request, validate_mcp_param_headers

from tests.dataplane.asgi import Receive, Send, answer, begin_stream, end_stream, error, event, until_gone

REVISION = "2026-07-28"
META = "io.modelcontextprotocol/"
SUBSCRIPTION = f"{META}subscriptionId"
LEVELS = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]


class Permits(Protocol):
    def permit(self, name: str) -> asyncio.Semaphore: ...


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": {"type": "object"}, **more}


def annotated(*properties: tuple[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties)}


REGION = annotated(
    ("region", {"type": "string", "x-mcp-header": "Region"}),
    ("count", {"type": "integer", "x-mcp-header": "Count"}),
    ("where", annotated(("zone", {"type": "string", "x-mcp-header": "Zone"}))),
)
POINTS = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "array",
    "items": {"$ref": "#/$defs/point"},
    "$defs": {"point": {"type": "object", "properties": {"next": {"$ref": "#"}}}},
}
TOOLS = [
    tool("echo"),
    tool("region", inputSchema=REGION),
    tool("bad", inputSchema=annotated(("a", {"type": "object", "x-mcp-header": "A"}))),
    tool("worse", inputSchema={"type": "object", "items": {"type": "string", "x-mcp-header": "B"}}),
    tool("points", outputSchema=POINTS),
    tool("either", outputSchema={"anyOf": [{"type": "object"}, {"type": "string"}]}),
    tool("fine", outputSchema={"type": "object"}),
]


class ModernScripted:
    """A server that does as it is told."""

    def __init__(self, control: Permits) -> None:
        self._control = control
        self._lists = itertools.count(1)

    async def __call__(
        self, script: str, entry: dict[str, Any], body: bytes, receive: Receive, send: Send
    ) -> None:
        if entry["method"] != "POST":
            await answer(send, 405, b"")
            return
        message = json.loads(body)
        params = message.get("params", {})
        verdict = classify_inbound_request(message, headers=entry["headers"])
        if isinstance(verdict, InboundLadderRejection):
            status = 400 if "method" in message and message["method"] != "initialize" else 404
            await self._error(send, message, verdict.code, verdict.message, status=status)
            return
        entry["message"] = message
        match message["method"]:
            case "server/discover":
                await self._result(send, message, self._introduction(script))
            case "tools/call":
                await self._call(script, message, params, entry, receive, send)
            case "tools/list":
                await self._list(script, message, params, send)
            case "prompts/get" | "resources/read":
                await self._ask_or(message, params, send, self._content(message["method"], params))
            case "completion/complete":
                await self._result(send, message, {"completion": {"values": ["a", "b"]}})
            case "subscriptions/listen":
                await self._listen(script, message, params, entry, receive, send)
            case str(name) if name.endswith("/list"):
                key = "resourceTemplates" if "templates" in name else name.partition("/")[0]
                await self._result(send, message, {key: [], "ttlMs": 5, "cacheScope": "public"})
            case _:
                await self._error(send, message, -32601, "Method not found", status=404)

    def _introduction(self, script: str) -> dict[str, Any]:
        capabilities: dict[str, Any] = {"tools": {}} if "-plain" in script else {
            "tools": {"listChanged": True},
            "prompts": {"listChanged": True},
            "resources": {"listChanged": True, "subscribe": True},
            "logging": {},
            "completions": {},
            "tasks": {},
            "extensions": {f"{META}tasks": {}, "com.example/kept": {}},
        }  # fmt: skip
        kept = "-cached" in script or "-private" in script
        return {
            "supportedVersions": [REVISION],
            "capabilities": capabilities,
            "instructions": "be kind",
            "ttlMs": 60_000 if kept else 0,
            "cacheScope": "private" if "-private" in script else "public",
            "_meta": {f"{META}serverInfo": {"name": "modern", "version": "7"}, "com.example/kept": 1},
        }

    async def _list(self, script: str, message: dict[str, Any], params: dict[str, Any], send: Send) -> None:
        if "-paged" in script:
            at = int(params.get("cursor", "0"))
            more = {"nextCursor": str(at + 1)} if at + 1 < len(TOOLS) else {}
            await self._result(send, message, {"tools": [TOOLS[at]], **more})
        else:
            await self._result(send, message, {"tools": TOOLS, "ttlMs": 1, "cacheScope": "private"})

    def _content(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        told = json.dumps({"answers": params.get("inputResponses"), "state": params.get("requestState")})
        if method == "prompts/get":
            return {"messages": [{"role": "user", "content": {"type": "text", "text": told}}]}
        return {"contents": [{"uri": params["uri"], "text": told}], "ttlMs": 1, "cacheScope": "private"}

    async def _call(
        self,
        script: str,
        message: dict[str, Any],
        params: dict[str, Any],
        entry: dict[str, Any],
        receive: Receive,
        send: Send,
    ) -> None:
        asked = params.get("arguments", {})
        match params.get("name"):
            case "echo":
                await self._text(send, message, str(asked.get("text", "")))
            case "region":
                problem = validate_mcp_param_headers(REGION, asked, entry["headers"])
                if problem is not None:
                    await self._error(send, message, problem.code, problem.message, status=400)
                else:
                    await self._text(send, message, "there")
            case "points":
                await self._result(send, message, {"content": [], "structuredContent": [{"next": []}]})
            case "either":
                await self._result(send, message, {"content": [], "structuredContent": {"a": 1}})
            case "fine":
                blocks = [{"type": "text", "text": "as text"}]
                await self._result(send, message, {"content": blocks, "structuredContent": {"a": 1}})
            case "status":
                told = asked.get("body", "").encode()
                if "error" in asked:
                    told = json.dumps(
                        {"jsonrpc": "2.0", "id": message["id"], "error": asked["error"]}
                    ).encode()
                await answer(send, asked["status"], told, extra=asked.get("headers", []))
            case "kind":
                await self._result(send, message, {"content": [], **asked["result"]})
            case "stream":
                await self._stream(message, params, asked, entry, receive, send)
            case "wait":
                await self._wait(message, asked, entry, receive, send)
            case "ask":
                text = json.dumps(
                    {"answers": params.get("inputResponses"), "state": params.get("requestState")}
                )
                done = {"content": [{"type": "text", "text": text}]}
                await self._ask_or(message, {**params, **asked}, send, done)
            case "forever":
                await self._result(send, message, {"resultType": "input_required", "requestState": "more"})

    async def _ask_or(
        self, message: dict[str, Any], params: dict[str, Any], send: Send, done: dict[str, Any]
    ) -> None:
        """Asks as `rounds` (of the arguments, or of a prompt's) say, one after the other, counted by the state; then `done`."""
        rounds = params.get("rounds") or json.loads(params.get("arguments", {}).get("rounds", "[]"))
        state = params.get("requestState")
        at = 0 if state is None else int(state.split()[0])
        if at < len(rounds):
            told = {"resultType": "input_required", "requestState": f'{at + 1} "é\\ \t/ {"s" * 10}'}
            if rounds[at]:
                told["inputRequests"] = rounds[at]
            await self._result(send, message, told)
        else:
            await self._result(send, message, done)

    async def _stream(
        self,
        message: dict[str, Any],
        params: dict[str, Any],
        asked: dict[str, Any],
        entry: dict[str, Any],
        receive: Receive,
        send: Send,
    ) -> None:
        await begin_stream(send)
        token = params["_meta"].get("progressToken")
        for at in range(asked.get("count", 1)):
            if "permit" in asked:
                await self._control.permit(asked["permit"]).acquire()
            if token is not None:
                progress = {"progressToken": token, "progress": at}
                await self._event(send, {"method": "notifications/progress", "params": progress})
            level = params["_meta"].get(f"{META}logLevel")
            for said in LEVELS[LEVELS.index(level) :] if level else []:
                note = {"level": said, "data": at}
                await self._event(send, {"method": "notifications/message", "params": note})
        if (rounds := asked.get("rounds")) and params.get("requestState") is None:
            told = {"resultType": "input_required", "inputRequests": rounds[0], "requestState": "s"}
            await self._event(send, {"id": message["id"], "result": told})
            await end_stream(send)
            return
        result = {"resultType": "complete", "content": [{"type": "text", "text": "streamed"}]}
        await self._event(send, {"id": message["id"], "result": result})
        entry["finished"] = True
        await end_stream(send)

    async def _wait(
        self,
        message: dict[str, Any],
        asked: dict[str, Any],
        entry: dict[str, Any],
        receive: Receive,
        send: Send,
    ) -> None:
        if asked.get("as") == "sse":
            await begin_stream(send)
        taking = asyncio.create_task(self._control.permit(asked["permit"]).acquire())
        gone = asyncio.create_task(until_gone(receive))
        await asyncio.wait([taking, gone], return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            taking.cancel()
            entry["disconnected"] = True
            return
        gone.cancel()
        entry["finished"] = True
        if asked.get("as") == "sse":
            result = {"resultType": "complete", "content": []}
            await self._event(send, {"id": message["id"], "result": result})
            await end_stream(send)
        else:
            await self._text(send, message, "waited")

    async def _listen(
        self,
        script: str,
        message: dict[str, Any],
        params: dict[str, Any],
        entry: dict[str, Any],
        receive: Receive,
        send: Send,
    ) -> None:
        """Says what was asked for, all of it, whenever `listen` is permitted; `listen-end` ends it."""
        if "-deaf" in script:
            await self._error(send, message, -32601, "Method not found", status=404)
            return
        wanted = params["notifications"]
        await begin_stream(send)
        mark = {SUBSCRIPTION: message["id"]}
        ack = {"notifications": wanted, "_meta": mark}
        await self._event(send, {"method": "notifications/subscriptions/acknowledged", "params": ack})
        entry["acknowledged"] = True
        gone = asyncio.create_task(until_gone(receive))
        ending = asyncio.create_task(self._control.permit("listen-end").acquire())
        while True:
            taking = asyncio.create_task(self._control.permit("listen").acquire())
            await asyncio.wait([taking, gone, ending], return_when=asyncio.FIRST_COMPLETED)
            if gone.done() or ending.done():
                if taking.done():
                    self._control.permit("listen").release()
                taking.cancel()
                break
            for name, method in (("toolsListChanged", "tools"), ("promptsListChanged", "prompts")):
                if wanted.get(name):
                    note = {"method": f"notifications/{method}/list_changed", "params": {"_meta": mark}}
                    await self._event(send, note)
            for uri in wanted.get("resourceSubscriptions", []):
                told = {"uri": uri, "_meta": {**mark, "com.example/kept": 1}}
                await self._event(send, {"method": "notifications/resources/updated", "params": told})
        if gone.done():
            ending.cancel()
            entry["disconnected"] = True
            return
        gone.cancel()
        await self._event(send, {"id": message["id"], "result": {"resultType": "complete", "_meta": mark}})
        await end_stream(send)

    async def _text(self, send: Send, message: dict[str, Any], text: str) -> None:
        meta = {f"{META}serverInfo": {"name": "x", "version": "1"}, "com.example/kept": 1}
        await self._result(send, message, {"content": [{"type": "text", "text": text}], "_meta": meta})

    async def _result(self, send: Send, message: dict[str, Any], told: dict[str, Any]) -> None:
        result = {"resultType": "complete", **told}
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}, ensure_ascii=False)
        await answer(send, 200, body.encode())

    async def _error(
        self, send: Send, message: dict[str, Any], code: int, text: str, *, status: int = 200
    ) -> None:
        await answer(send, status, error(message.get("id"), code, text))

    async def _event(self, send: Send, message: dict[str, Any]) -> None:
        await event(send, {"jsonrpc": "2.0", **message})
