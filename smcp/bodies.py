"""No request body is larger or slower than its door allows. Django would write all of it to disk before any view could object.

A refused request is answered at once; then Django is told that the client has gone, and drops what it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

from hosting.uploads import BODY_BYTES_MAX, BODY_MOST
from smcp.common.correlation import correlation_id
from smcp.common.middleware import REQUEST_ID, request_id_of
from smcp.common.problems import CONTENT_TYPE, problem_body
from smcp.common.wording import size

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]

PLAIN_BYTES_MAX: Final = 1024 * 1024
TIMEOUT_S: Final = 60.0


class BoundedBodies:
    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await self._app(scope, _Bounded(scope, receive, send).receive, send)


class _Bounded:
    """One request's body on its way in."""

    def __init__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        # Versions are uploaded there, and nowhere else is a body large.
        self._is_upload = scope["path"].endswith("/versions")
        self._most = BODY_BYTES_MAX if self._is_upload else PLAIN_BYTES_MAX
        self._seen = 0
        self._is_complete = False
        self._until = asyncio.get_running_loop().time() + TIMEOUT_S

    async def receive(self) -> Message:
        if self._is_complete:
            return await self._receive()  # a disconnect, whenever it comes
        if self._announced() > self._most:
            return await self._refuse_size()
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            return await self._refuse(408, "too-slow", "Too slow", f"Send it within {TIMEOUT_S:g} seconds.")
        self._seen += len(message.get("body", b""))
        if self._seen > self._most:
            return await self._refuse_size()
        self._is_complete = not message.get("more_body", False)
        return message

    def _announced(self) -> int:
        length = self._header(b"content-length")
        return int(length) if length.isdigit() else 0

    def _header(self, wanted: bytes) -> bytes:
        return next((bytes(value) for name, value in self._scope["headers"] if name == wanted), b"")

    async def _refuse_size(self) -> Message:
        most = BODY_MOST if self._is_upload else f"At most {size(PLAIN_BYTES_MAX)}."
        return await self._refuse(413, "too-large", "Too large", most)

    async def _refuse(self, status: int, code: str, title: str, detail: str) -> Message:
        # Nobody has given this request an id yet: Django would, once it had the body.
        correlation_id.set(request_id_of(self._header(REQUEST_ID.lower().encode()).decode("latin-1")))
        body = problem_body(
            status=status, code=code, title=title, detail=detail, instance=self._scope["path"]
        )
        headers = [
            (b"content-type", CONTENT_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            (REQUEST_ID.lower().encode(), correlation_id.get().encode()),
            (b"connection", b"close"),
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})
        self._is_complete = True
        return {"type": "http.disconnect"}
