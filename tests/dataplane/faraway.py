"""Servers that run elsewhere, as a process of their own: `python -m tests.dataplane.faraway --port P --tls-port T --cert FILE`.

On 127.0.0.1 over http and https:

    /mcp         the official Python SDK's server over Streamable HTTP, both eras, with sessions
    /sse         the same over HTTP+SSE
    /scripted    answers as the call's arguments ask it to (`standin.py`), keeping sessions
    /moved       sends whoever comes to the trap
    /old…        a server over HTTP+SSE that does as its tools are called; `/old-liar` names a stranger's place to post to, `/old-mute` none

On 127.0.0.2 and ::1, the same ports: the trap. Whoever connects there is told at `/_control/trapped`; what arrived elsewhere at
`/_control/seen`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
from contextlib import AsyncExitStack, suppress
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from mcp.server.transport_security import TransportSecuritySettings

from tests.dataplane.asgi import (
    Receive,
    Scope,
    Send,
    answer,
    begin_stream,
    end_stream,
    event,
    read,
    result,
)
from tests.dataplane.control import Control
from tests.dataplane.official import official
from tests.dataplane.scripted import Scripted

TRAPS = ("127.0.0.2", "::1")


class Old:
    """HTTP+SSE of 2024-11-05, by hand: one stream a session, answers on it."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._streams: dict[str, asyncio.Queue[Any]] = {}
        self._asked: dict[str, asyncio.Future[Any]] = {}
        self.ended = 0

    async def listen(self, path: str, receive: Receive, send: Send) -> None:
        session, queue = f"old-{next(self._numbers)}", asyncio.Queue[Any]()
        self._streams[session] = queue
        await begin_stream(send, [("set-cookie", "sticky=1; path=/")])
        where = f"{path}/post?session={session}"
        if path == "/old-liar":
            where = "http://127.0.0.2:9/post"
        if path != "/old-mute":
            told = f"event: endpoint\ndata: {where}\n\n".encode()
            await send({"type": "http.response.body", "body": told, "more_body": True})
        gone = asyncio.create_task(_gone(receive))
        try:
            while not gone.done():
                taking = asyncio.create_task(queue.get())
                await asyncio.wait([taking, gone], return_when=asyncio.FIRST_COMPLETED)
                if not taking.done():
                    taking.cancel()
                    break
                message = taking.result()
                if message is None:
                    break
                await event(send, message)
            await end_stream(send)
        finally:
            gone.cancel()
            self.ended += 1
            del self._streams[session]

    async def post(self, session: str, body: bytes, send: Send) -> None:
        queue = self._streams.get(session)
        if queue is None:
            await answer(send, 404, b"no such session")
            return
        await answer(send, 202, b"Accepted", content_type="text/plain")
        message = json.loads(body)
        if "method" not in message:
            self._asked.pop(message["id"]).set_result(message.get("result"))
        elif "id" in message:
            task = asyncio.create_task(self._answer(queue, message))
            _tasks.add(task)
            task.add_done_callback(_tasks.discard)

    async def _answer(self, queue: asyncio.Queue[Any], message: dict[str, Any]) -> None:
        params = message.get("params", {})
        told: Any = {}
        if message["method"] == "initialize":
            told = {
                "protocolVersion": params["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "old", "version": "1"},
            }
        elif message["method"] == "tools/call":
            told = {"content": [{"type": "text", "text": await self._call(queue, params)}]}
        queue.put_nowait(result(message["id"], told))

    async def _call(self, queue: asyncio.Queue[Any], params: dict[str, Any]) -> str:
        asked = params.get("arguments", {})
        match params["name"]:
            case "progress":
                for at in range(asked["count"]):
                    token = params["_meta"]["progressToken"]
                    queue.put_nowait(_note("notifications/progress", progressToken=token, progress=at))
            case "ask":
                future = self._asked["ask-1"] = asyncio.get_running_loop().create_future()
                queue.put_nowait({"jsonrpc": "2.0", "id": "ask-1", "method": "roots/list", "params": {}})
                return json.dumps(await future)
            case "later":
                asyncio.get_running_loop().call_later(
                    0.2, queue.put_nowait, _note("notifications/message", data=asked["data"])
                )
            case "end":
                queue.put_nowait(None)
                await asyncio.sleep(3600)
            case "big":
                return "x" * int(asked["size"])
        return str(asked.get("text", "done"))


_tasks: set[asyncio.Task[None]] = set()


def _note(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, "params": params}


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Faraway:
    """The ASGI app."""

    def __init__(self, control: Control, trapped: list[str]) -> None:
        security = TransportSecuritySettings(enable_dns_rebinding_protection=False)
        self._control = control
        self._trapped = trapped
        self._scripted = Scripted(control)
        self._old = Old()
        self._official = official().streamable_http_app(transport_security=security)
        self._official_sse = official().sse_app(transport_security=security)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._official(scope, receive, send)  # type: ignore[arg-type]
            return
        path = scope["path"]
        if path.startswith("/_control/"):
            counts: dict[str, Any] = {
                "/_control/trapped": self._trapped,
                "/_control/old_ended": self._old.ended,
            }
            told = counts[path] if path in counts else await self._control(path, await read(receive))
            await answer(send, 200, json.dumps(told).encode())
            return
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        entry = {"method": scope["method"], "path": path, "script": path, "headers": headers}
        self._control.seen.append(entry)
        await self._route(path, entry, scope, receive, send)

    async def _route(
        self, path: str, entry: dict[str, Any], scope: Scope, receive: Receive, send: Send
    ) -> None:
        if path == "/mcp":
            await self._official(scope, receive, send)  # type: ignore[arg-type]
        elif path == "/sse" or path.startswith("/messages"):
            await self._official_sse(scope, receive, send)  # type: ignore[arg-type]
        elif path == "/scripted":
            body = await read(receive)
            entry["body"] = body.decode()
            await self._scripted("scripted-stateful", entry, body, receive, send)
        elif path.startswith("/moved"):
            where = f"http://127.0.0.2:{scope['server'][1]}/mcp"
            await answer(send, 307, b"", [("location", where)])
        elif path.startswith("/old") and path.endswith("/post"):
            body = await read(receive)
            entry["body"] = body.decode()
            await self._old.post(parse_qs(scope["query_string"].decode())["session"][0], body, send)
        elif path.startswith("/old"):
            await self._old.listen(path, receive, send)
        else:
            await answer(send, 404, b"")


async def _open_traps(stack: AsyncExitStack, ports: list[int], trapped: list[str]) -> None:
    def trap(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        trapped.append(str(writer.get_extra_info("sockname")))
        writer.close()

    for host in TRAPS:
        for port in ports:
            with suppress(OSError):  # a machine without IPv6
                await stack.enter_async_context(await asyncio.start_server(trap, host, port))


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tls-port", type=int, required=True)
    parser.add_argument("--cert", required=True)
    given = parser.parse_args()
    trapped: list[str] = []
    app = Faraway(Control(), trapped)
    common: dict[str, Any] = {
        "log_level": "warning",
        "timeout_graceful_shutdown": 1,
        "timeout_keep_alive": 60,
    }
    plain = uvicorn.Server(uvicorn.Config(app, port=given.port, **common))
    tls = uvicorn.Server(
        uvicorn.Config(app, port=given.tls_port, ssl_certfile=given.cert, lifespan="off", **common)
    )
    async with AsyncExitStack() as stack:
        await _open_traps(stack, [given.port, given.tls_port], trapped)
        await asyncio.gather(plain.serve(), tls.serve())


if __name__ == "__main__":
    asyncio.run(main())
