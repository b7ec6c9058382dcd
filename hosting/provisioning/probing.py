"""Does exactly this script speak MCP, and which of the protocol's eras? Asked once, before it gets traffic.

Modern (2026-07-28) is asked with `server/discover`, legacy with `initialize`; a session opened for asking is ended again.
Source: https://modelcontextprotocol.io/specification/ (basic/transports, server/discover).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from hosting.provisioning.dispatching import Dispatcher, DispatchError, calling

MODERN: Final = "2026-07-28"
LEGACY: Final = "2025-11-25"
ANSWER_MAX: Final = 256 * 1024
CLIENT: Final = {"name": "smcp", "version": "1"}


class NotAnMcpServer(Exception):
    """It answered, and not as an MCP server. The message says what it did instead."""


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """What a script speaks. `issues_sessions`: its answer to `initialize` carries an `Mcp-Session-Id`."""

    eras: tuple[str, ...]
    issues_sessions: bool


def ask(dispatcher: Dispatcher, script: str, path: str) -> Spoken:
    """Raises NotAnMcpServer, DispatchError."""
    legacy, session, complaint = _initialize(dispatcher, script, path)
    modern = _discover(dispatcher, script, path)
    eras = (*(("legacy",) if legacy else ()), *(("modern",) if modern else ()))
    if not eras:
        raise NotAnMcpServer(f"It does not answer as an MCP server at {path}: {complaint}.")
    return Spoken(eras=eras, issues_sessions=bool(session))


def _initialize(dispatcher: Dispatcher, script: str, path: str) -> tuple[bool, str, str]:
    params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": CLIENT}
    result, session, complaint = _call(dispatcher, script, path, "initialize", params, {})
    if session:
        _end_session(dispatcher, script, path, session, result)
    return "protocolVersion" in result, session, complaint


def _end_session(
    dispatcher: Dispatcher, script: str, path: str, session: str, result: Mapping[str, Any]
) -> None:
    version = str(result.get("protocolVersion", LEGACY))
    headers = {"mcp-session-id": session, "mcp-protocol-version": version}
    try:
        with calling(dispatcher, script, method="DELETE", path=path, headers=headers):
            return  # 405 is fine: the server ends its sessions itself
    except DispatchError:
        return  # the answer we came for is known; the session expires


def _discover(dispatcher: Dispatcher, script: str, path: str) -> bool:
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": CLIENT,
    }
    headers = {"mcp-protocol-version": MODERN, "mcp-method": "server/discover"}
    result, _, _ = _call(dispatcher, script, path, "server/discover", {"_meta": meta}, headers)
    supported = result.get("supportedVersions")
    return isinstance(supported, list) and MODERN in supported


def _call(
    dispatcher: Dispatcher,
    script: str,
    path: str,
    method: str,
    params: Mapping[str, Any],
    headers: Mapping[str, str],
) -> tuple[dict[str, Any], str, str]:
    """The result (empty when there is none), the session it opened, and what was wrong with the answer."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    sent = {
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        **headers,
    }
    with calling(dispatcher, script, path=path, headers=sent, content=body) as answer:
        session = answer.headers.get("mcp-session-id", "")
        message = _message(answer)
        status = answer.status_code
    if message is None:
        return {}, session, f"it answered {status} without a JSON-RPC message"
    result = message.get("result")
    if isinstance(result, dict):
        return result, session, ""
    error = message.get("error")
    said = str(error.get("message", ""))[:200] if isinstance(error, dict) else ""
    return {}, session, f"it answered {status} with the error “{said}”"


def _message(answer: httpx.Response) -> dict[str, Any] | None:
    """The JSON-RPC answer to request 1, from a JSON body or the first event that is one."""
    content_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if content_type != "text/event-stream":
            body = bytearray()
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) > ANSWER_MAX:
                    return None
            return _answer_in(bytes(body))
        return _answer_in_stream(answer)
    except (ValueError, RecursionError):
        return None


def _answer_in_stream(answer: httpx.Response) -> dict[str, Any] | None:
    data: list[str] = []
    read = 0
    for line in answer.iter_lines():
        read += len(line)
        if read > ANSWER_MAX:
            return None
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            message = _answer_in("\n".join(data))
            if message is not None:
                return message
            data.clear()
    return None


def _answer_in(text: str | bytes) -> dict[str, Any] | None:
    message = json.loads(text)
    is_answer = isinstance(message, dict) and message.get("jsonrpc") == "2.0" and message.get("id") == 1
    return message if is_answer else None
