"""What we say to an MCP server to learn how it is, and how its answer is read. Pure: whoever asks brings the connection.

Two eras: modern (2026-07-28) is asked with `server/discover`; legacy with `initialize`, which may open a session that is then pinged
and ended. Answers come from strangers: they are read up to ANSWER_MAX and believed only where they have the right shape.
Source: https://modelcontextprotocol.io/specification/ (basic/transports, server/discover); event streams:
https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

MODERN: Final = "2026-07-28"
LEGACY: Final = "2025-11-25"
ANSWER_MAX: Final = 256 * 1024
ID: Final = 1  # of every request: a connection carries one
SESSION_HEADER: Final = "mcp-session-id"
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, kw_only=True)
class Question:
    """One request to POST."""

    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Session:
    """What a legacy server opened. `headers` name it, in a ping and in the DELETE that ends it."""

    id: str
    version: str

    @property
    def headers(self) -> dict[str, str]:
        return {SESSION_HEADER: self.id, "mcp-protocol-version": self.version}


def discover(client: Mapping[str, str]) -> Question:
    """`client`: name and version of whoever asks."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": client,
    }
    headers = {"mcp-protocol-version": MODERN, "mcp-method": "server/discover"}
    return _question("server/discover", {"_meta": meta}, headers)


def initialize(client: Mapping[str, str]) -> Question:
    """`client`: name and version of whoever asks."""
    return _question("initialize", {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": client}, {})


def ping(session: Session) -> Question:
    return _question("ping", None, session.headers)


def session_of(headers: Mapping[str, str], result: Mapping[str, Any]) -> Session | None:
    """The session that the answer to `initialize` opened, if it did. `headers` know no case."""
    session_id = headers.get(SESSION_HEADER, "")
    if not session_id:
        return None
    return Session(id=session_id, version=str(result.get("protocolVersion", LEGACY)))


@dataclass
class Answer:
    """The body of an answer, as it arrives. Feed it pieces until it is over; then `message` is the JSON-RPC answer, or None."""

    content_type: str
    message: dict[str, Any] | None = None
    _read: int = 0
    _rest: bytearray = field(
        default_factory=bytearray
    )  # JSON: all of it; a stream: the line that has not ended
    _data: list[bytes] = field(default_factory=list)
    _is_after_cr: bool = False

    @property
    def _is_stream(self) -> bool:
        return self.content_type.partition(";")[0].strip().lower() == "text/event-stream"

    def feed(self, piece: bytes) -> bool:
        """Whether it is over: the answer is found, or there will be none. What follows need not be read."""
        self._read += len(piece)
        if self._read > ANSWER_MAX:
            return True
        if not self._is_stream:
            self._rest += piece
            return False
        if self._is_after_cr:  # the second half of a line's end
            piece = piece.removeprefix(b"\n")
        self._is_after_cr = piece.endswith(b"\r")
        try:
            # Only what is new is looked at: a server that sends byte by byte must not cost more than one that does not.
            *ended, rest = _LINE_END.split(piece)
            for last in ended:
                self._rest += last
                line, self._rest = bytes(self._rest), bytearray()
                if self._end_line(line):
                    return True
        except (ValueError, RecursionError):
            return True
        self._rest += rest
        return False

    def end(self) -> None:
        """There are no more pieces."""
        if self._is_stream or self._read > ANSWER_MAX:
            return
        try:
            self.message = _answer_in(bytes(self._rest))
        except (ValueError, RecursionError):
            self.message = None

    def _end_line(self, line: bytes) -> bool:
        """Whether it ends the event that carries the answer. Raises ValueError, RecursionError."""
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        elif not line and self._data:
            self.message = _answer_in(b"\n".join(self._data))
            self._data.clear()
        return self.message is not None


def result_of(message: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The result, where there is one."""
    result = message.get("result") if message is not None else None
    return result if isinstance(result, dict) else None


def _question(method: str, params: Mapping[str, Any] | None, headers: Mapping[str, str]) -> Question:
    body = {
        "jsonrpc": "2.0",
        "id": ID,
        "method": method,
        **({"params": params} if params is not None else {}),
    }
    return Question(
        headers={
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            **headers,
        },
        body=json.dumps(body).encode(),
    )


def _answer_in(text: bytes) -> dict[str, Any] | None:
    """Raises ValueError for what is no JSON, RecursionError for what is too deep."""
    message = json.loads(text)
    is_answer = isinstance(message, dict) and message.get("jsonrpc") == "2.0" and message.get("id") == ID
    return message if is_answer else None
