"""What a server wants to know, as requests to a legacy client; and where the client's answers belong. Pure, but for random ids.

A question's id is sealed for the client's session: it says which node waits for the answer, in which Box, and which question it is.
Whoever holds it can answer that question, once, and nothing else.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from hosting.dataplane.bridges.to_modern.answers import Error, Unanswerable
from hosting.dataplane.bridges.to_modern.asked import Fields
from hosting.dataplane.contract import Route
from hosting.dataplane.sessions.seal import NotSealed, Seal
from hosting.dataplane.sessions.session import Session, capabilities_of

MAX_QUESTION_ID = 512
_encode = msgspec.json.Encoder().encode


class Waiter(msgspec.Struct, frozen=True, array_like=True):
    """Who waits for an answer: a Box of a node, and there the question's number."""

    node: str
    box: str
    number: int


class _Question(msgspec.Struct):
    method: str
    params: Fields = {}


class _Answer(msgspec.Struct):
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: Error | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True)
class Question:
    """One entry of a round. `key` is the server's name for it."""

    key: str
    id: str
    message: bytes


class Questions:
    """Mints and opens the ids."""

    def __init__(self, ring: Mapping[str, bytes]) -> None:
        self._seal = Seal(ring, "question")

    def write(self, key: str, raw: msgspec.Raw, waiter: Waiter, session: Session, route: Route) -> Question:
        """Raises Unanswerable: the client has not said that it can answer this."""
        try:
            asked = _questions.decode(raw)
        except msgspec.MsgspecError:
            raise Unanswerable("the server asked something that is not MCP") from None
        check_capability(asked.method, asked.params, session.capabilities)
        params = dict(asked.params)
        if _text(params, "mode") == "url":
            params["elicitationId"] = msgspec.Raw(_encode(secrets.token_hex(16)))
        question_id = self._seal.seal(msgspec.msgpack.encode(waiter), _context(session, route))
        message = {"jsonrpc": "2.0", "id": question_id, "method": asked.method, "params": params}
        return Question(key, question_id, _encode(message))

    def waiter_of(self, question_id: object, session: Session, route: Route) -> Waiter | None:
        """None for an id that this session was never asked under."""
        if not isinstance(question_id, str) or len(question_id) > MAX_QUESTION_ID:
            return None
        try:
            plain = self._seal.open(question_id, _context(session, route))
        except NotSealed:
            return None
        return msgspec.msgpack.decode(plain, type=Waiter)


def check_capability(method: str, params: Fields, bits: int) -> None:
    """Raises Unanswerable."""
    declared = capabilities_of(bits)
    needed = {
        "elicitation/create": "elicitation",
        "sampling/createMessage": "sampling",
        "roots/list": "roots",
    }
    name = needed.get(method, "")
    if name not in declared:
        raise Unanswerable(f"the server asked for {method[:64]!r}, which this client has not declared")
    of = declared[name]
    if name == "elicitation":
        mode = _text(params, "mode") or "form"
        if mode not in of and not (mode == "form" and "url" not in of):
            raise Unanswerable(
                f"the server asked in the mode {mode[:16]!r}, which this client has not declared"
            )
    elif name == "sampling" and ("tools" in params or "toolChoice" in params) and "tools" not in of:
        raise Unanswerable("the server wants to sample with tools, which this client has not declared")


def read_answer(raw: bytes) -> msgspec.Raw:
    """A client's result. Raises Unanswerable for its error."""
    try:
        answer = _answers.decode(raw)
    except msgspec.MsgspecError:
        raise Unanswerable("the client's answer is not JSON-RPC") from None
    if isinstance(answer.result, msgspec.UnsetType):
        said = answer.error.message if isinstance(answer.error, Error) else ""
        raise Unanswerable(f"the client refused: {said[:500]}")
    return answer.result


def withdrawal(question: Question, reason: str) -> bytes:
    params = {"requestId": question.id, "reason": reason}
    return _encode({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})


def _text(params: Fields, name: str) -> str:
    try:
        return msgspec.json.decode(params[name], type=str) if name in params else ""
    except msgspec.MsgspecError:
        return ""


def _context(session: Session, route: Route) -> bytes:
    return f"ask\0{route.tenant}\0{route.environment}\0{session.handle}".encode()


_questions = msgspec.json.Decoder(_Question)
_answers = msgspec.json.Decoder(_Answer)
