"""A server that speaks legacy revisions only, as a stand-in: sessions, a stream of its own, and tools that do as their arguments say.

The script's name says what it lacks: `legacy…` with `-sessionless`, `-streamless` (GET is 405), `-mute` (no logging), `-newsless` (no
listChanged, no subscribe). The tool `script` takes `steps`, one after the other, on the answer's event stream:

    {"say": message}           a notification; "$token" in it is the request's progress token
    {"ask": [id, method, params]}   a request to the client
    {"ask_aside": the same}    on the session's own stream
    {"await": n}               until n answers to requests have come in this call
    {"permit": name}           until `/_control/go` says so
    {"cut": id}                an event with this id and no data, then the stream ends; a GET with Last-Event-ID goes on
    {"error": {...}} | {"result": {...}}   the answer; without one it is what arrived: the call's params, and the answers
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]

TOOLS = [
    {"name": "script", "inputSchema": {"type": "object"}},
    {
        "name": "marked",
        "inputSchema": {
            "type": "object",
            "properties": {
                "region": {"type": "string", "x-mcp-header": "Region"},
                "count": {"type": "integer", "x-mcp-header": "Count"},
                "deep": {
                    "type": "object",
                    "properties": {"flag": {"type": "boolean", "x-mcp-header": "Flag"}},
                },
            },
        },
    },
    {"name": "tasked", "inputSchema": {"type": "object"}, "execution": {"taskSupport": "required"}},
    {"name": "maybe", "inputSchema": {"type": "object"}, "execution": {"taskSupport": "optional"}},
]
SERVER = {"name": "legacy only", "version": "7"}


@dataclass
class Conversation:
    """One call under way."""

    message: dict[str, Any]
    answers: dict[str, Any] = field(default_factory=dict)
    bell: asyncio.Event = field(default_factory=asyncio.Event)
    rest: list[dict[str, Any]] = field(default_factory=list)  # steps after a cut
    is_cancelled: bool = False


@dataclass
class Session:
    calls: dict[Any, Conversation] = field(default_factory=dict)
    asked: dict[str, Conversation] = field(default_factory=dict)
    news: asyncio.Queue[dict[str, Any]] | None = None


class LegacyOnly:
    """All servers of this kind. `permit` is the stand-in's."""

    def __init__(self, permit: Callable[[str], asyncio.Semaphore]) -> None:
        self._permit = permit
        self._sessions: dict[str, Session] = {}
        self._scripts: dict[str, str] = {}
        self._numbers = itertools.count(1)
        self._sessionless: dict[str, Session] = {}

    def broadcast(self, script: str, message: dict[str, Any]) -> int:
        """To every stream of a script; how many there were."""
        queues = [
            session.news
            for name, session in self._sessions.items()
            if self._scripts[name] == script and session.news is not None
        ]
        for queue in queues:
            queue.put_nowait(message)
        return len(queues)

    def forget(self, script: str) -> int:
        """All sessions of a script, as if it had restarted. Their streams end."""
        names = [name for name, of in self._scripts.items() if of == script and name in self._sessions]
        for name in names:
            session = self._sessions.pop(name)
            if session.news is not None:
                session.news.put_nowait({})
        return len(names)

    async def __call__(
        self, script: str, entry: dict[str, Any], body: bytes, receive: Receive, send: Send
    ) -> None:
        name = entry["headers"].get("mcp-session-id", "")
        if "-sessionless" in script:
            session: Session | None = self._sessionless.setdefault(script, Session())
        else:
            session = self._sessions.get(name)
        message = json.loads(body) if body else {}
        entry["message"] = message
        if message.get("method") == "initialize":
            await self._initialize(script, message, send)
        elif session is None:
            await _json(send, 404, _error(message.get("id"), -32001, "Session not found"))
        elif entry["method"] == "DELETE":
            self._sessions.pop(name, None)
            await _json(send, 200, {})
        elif entry["method"] == "GET":
            await self._get(script, session, entry, receive, send)
        else:
            await self._message(script, session, message, entry, receive, send)

    async def _initialize(self, script: str, message: dict[str, Any], send: Send) -> None:
        news = {} if "-newsless" in script else {"listChanged": True}
        capabilities: dict[str, Any] = {
            "tools": news,
            "prompts": news,
            "resources": {**news, **({} if "-newsless" in script else {"subscribe": True})},
            "completions": {},
            "tasks": {"list": {}},
            **({} if "-mute" in script else {"logging": {}}),
        }
        told = {
            "protocolVersion": message["params"]["protocolVersion"],
            "capabilities": capabilities,
            "serverInfo": SERVER,
            "instructions": "be kind",
        }
        headers = []
        if "-sessionless" not in script:
            name = f"lg-{next(self._numbers)}"
            self._sessions[name], self._scripts[name] = Session(), script
            headers = [(b"mcp-session-id", name.encode())]
        await _json(send, 200, _result(message["id"], told), headers)

    async def _get(
        self, script: str, session: Session, entry: dict[str, Any], receive: Receive, send: Send
    ) -> None:
        last = entry["headers"].get("last-event-id")
        if last is not None and last in session.asked:
            call = session.asked.pop(last)
            await _begin(send)
            await self._steps(call, session, call.rest, send)
            await send({"type": "http.response.body", "body": b""})
            return
        if "-streamless" in script:
            await _json(send, 405, {})
            return
        if session.news is not None:
            await _json(send, 409, _error(None, -32000, "one stream is enough"))
            return
        queue = session.news = asyncio.Queue()
        await _begin(send)
        gone = asyncio.create_task(_until_gone(entry, receive))
        try:
            while not gone.done():
                taking = asyncio.create_task(queue.get())
                await asyncio.wait([taking, gone], return_when=asyncio.FIRST_COMPLETED)
                if not taking.done():
                    taking.cancel()
                elif taking.result():
                    await _event(send, taking.result())
                else:
                    await send({"type": "http.response.body", "body": b""})
                    return
        finally:
            session.news = None
            gone.cancel()

    async def _message(
        self,
        script: str,
        session: Session,
        message: dict[str, Any],
        entry: dict[str, Any],
        receive: Receive,
        send: Send,
    ) -> None:
        method, params, request_id = message.get("method"), message.get("params", {}), message.get("id")
        if method is None:
            self._answered(session, message)
            await _json(send, 202, None)
            return
        if request_id is None:
            if method == "notifications/cancelled" and (call := session.calls.get(params.get("requestId"))):
                call.is_cancelled = True
                call.bell.set()
            await _json(send, 202, None)
            return
        match method:
            case "tools/list":
                await _json(send, 200, _result(request_id, {"tools": TOOLS}))
            case "tools/call" if params.get("name") == "script":
                await self._call(session, message, entry, receive, send)
            case "tools/call":
                await _json(send, 200, _result(request_id, _text(params)))
            case "prompts/get" | "resources/read" if str(params.get("name", params.get("uri"))).startswith(
                "test://script"
            ):
                await self._call(session, message, entry, receive, send)
            case "resources/read":
                await _json(send, 200, _error(request_id, -32002, "Resource not found"))
            case "completion/complete":
                steps: list[dict[str, Any]] = [
                    {"ask": ["c-1", "roots/list", {}]},
                    {"await": 1},
                    {"result": {"completion": {"values": ["red"]}}},
                ]
                call = session.calls[request_id] = Conversation(message)
                await _begin(send)
                await self._steps(call, session, steps, send)
                await send({"type": "http.response.body", "body": b""})
            case "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe" | "ping":
                await _json(send, 200, _result(request_id, {}))
            case _ if method.endswith("/list"):
                key = "resourceTemplates" if "templates" in method else method.partition("/")[0]
                await _json(send, 200, _result(request_id, {key: [], "_meta": {"vendor/kept": 1}}))
            case _:
                await _json(send, 200, _error(request_id, -32601, "Method not found"))

    async def _call(
        self, session: Session, message: dict[str, Any], entry: dict[str, Any], receive: Receive, send: Send
    ) -> None:
        call = session.calls[message["id"]] = Conversation(message)
        params = message["params"]
        text = params.get("arguments") or json.loads(params.get("uri", "test://script?{}").partition("?")[2])
        steps = text.get("steps", [])
        steps = json.loads(steps) if isinstance(steps, str) else steps
        gone = asyncio.create_task(_until_gone(entry, receive))
        try:
            await _begin(send)
            await self._steps(call, session, steps, send)
            entry["finished"] = not call.is_cancelled
            await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()

    async def _steps(
        self, call: Conversation, session: Session, steps: list[dict[str, Any]], send: Send
    ) -> None:
        request_id = call.message["id"]
        for at, step in enumerate(steps):
            ((what, given),) = step.items()
            if call.is_cancelled:
                return
            match what:
                case "say":
                    token = call.message["params"].get("_meta", {}).get("progressToken")
                    text = json.dumps(given).replace('"$token"', json.dumps(token))
                    await _event(send, json.loads(text))
                case "ask" | "ask_aside":
                    session.asked[json.dumps(given[0])] = call
                    asked = {"jsonrpc": "2.0", "id": given[0], "method": given[1], "params": given[2]}
                    if what == "ask":
                        await _event(send, asked)
                    elif session.news is not None:
                        session.news.put_nowait(asked)
                case "await":
                    while len(call.answers) < given and not call.is_cancelled:
                        call.bell.clear()
                        await call.bell.wait()
                case "permit":
                    await self._permit(given).acquire()
                case "cut":
                    call.rest = steps[at + 1 :]
                    session.asked[given] = call
                    body = f"id: {given}\nretry: 50\ndata:\n\n".encode()
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                    return
                case "result":
                    await _event(send, _result(request_id, given))
                    return
                case "error":
                    await _event(send, {"jsonrpc": "2.0", "id": request_id, "error": given})
                    return
        told = {"params": call.message["params"], "answers": call.answers}
        await _event(send, _result(request_id, _text(told)))

    def _answered(self, session: Session, message: dict[str, Any]) -> None:
        call = session.asked.pop(json.dumps(message["id"]), None)
        if call is not None:
            call.answers[json.dumps(message["id"])] = message.get("result", {"error": message.get("error")})
            call.bell.set()


def _text(told: Any) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": json.dumps(told)}]}


def _result(request_id: Any, told: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "result": told}


def _error(request_id: Any, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message}}


async def _json(send: Send, status: int, told: Any, extra: Any = ()) -> None:
    body = b"" if told is None else json.dumps(told).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _begin(send: Send) -> None:
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": True})


async def _event(send: Send, message: Any) -> None:
    body = f"data: {json.dumps(message)}\n\n".encode()
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _until_gone(entry: dict[str, Any], receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    entry["disconnected"] = True
