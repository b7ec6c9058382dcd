"""Does exactly this script speak MCP, and which of the protocol's eras? Asked once, before it gets traffic.

Modern (2026-07-28) is asked with `server/discover`, legacy with `initialize`; a session opened for asking is ended again.
What is said and how answers are read: hosting/mcp.py. All of it is over in less time than a lease lasts, whatever the code does: a
question has QUESTION_S for its answer to begin and for each piece of it, and as long for the whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from hosting import mcp
from hosting.provisioning.dispatching import Dispatcher, DispatchError, calling, pieces_of

QUESTION_S: Final = 10.0
GOODBYE_S: Final = 5.0
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


def _initialize(dispatcher: Dispatcher, script: str, path: str) -> tuple[bool, mcp.Session | None, str]:
    """Whether it speaks legacy, the session it opened, and what was wrong with the answer."""
    result, session, complaint = _asked(dispatcher, script, path, mcp.initialize(CLIENT))
    if session:
        _end_session(dispatcher, script, path, session)
    return "protocolVersion" in result, session, complaint


def _end_session(dispatcher: Dispatcher, script: str, path: str, session: mcp.Session) -> None:
    try:
        with calling(
            dispatcher, script, method="DELETE", path=path, headers=session.headers, timeout_s=GOODBYE_S
        ):
            return  # 405 is fine: the server ends its sessions itself
    except DispatchError:
        return  # the answer we came for is known; the session expires


def _discover(dispatcher: Dispatcher, script: str, path: str) -> bool:
    result, _, _ = _asked(dispatcher, script, path, mcp.discover(CLIENT))
    supported = result.get("supportedVersions")
    return isinstance(supported, list) and mcp.MODERN in supported


def _asked(
    dispatcher: Dispatcher, script: str, path: str, question: mcp.Question
) -> tuple[dict[str, Any], mcp.Session | None, str]:
    """The result (empty when there is none), the session it opened, and what was wrong with the answer."""
    with calling(
        dispatcher, script, path=path, headers=question.headers, content=question.body, timeout_s=QUESTION_S
    ) as got:
        answer = mcp.Answer(content_type=got.headers.get("content-type", ""))
        if not any(answer.feed(piece) for piece in pieces_of(got, within_s=QUESTION_S)):
            answer.end()
        result = mcp.result_of(answer.message)
        session = mcp.session_of(got.headers, result or {})
    if result is not None:
        return result, session, ""
    if answer.message is None:
        return {}, session, f"it answered {got.status_code} without a JSON-RPC message"
    error = answer.message.get("error")
    said = str(error.get("message", ""))[:200] if isinstance(error, dict) else ""
    return {}, session, f"it answered {got.status_code} with the error “{said}”"
