"""What the gateway asks a server on its own account: who it is, and what its tools need. Kept as the server allows.

An introduction is kept for its `ttlMs`: a public one for everybody at the Release, a private one for its Principal. Beyond that the last
one heard still says whether the server logs or can be subscribed to, which is asked for before every request.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict

import msgspec

from hosting.dataplane.bridges.to_modern.asked import Asked, Fields, own_request
from hosting.dataplane.bridges.to_modern.introduction import Introduction, read_introduction
from hosting.dataplane.bridges.to_modern.toolbook import Book, Books, rewrite_list
from hosting.dataplane.bridges.to_modern.way import Attempt, Way, Ways
from hosting.dataplane.forwarding.conversation import Said
from hosting.dataplane.forwarding.upstream import UpstreamFailure
from hosting.dataplane.protocol.errors import ANSWER_CUT, ANSWER_TOO_LARGE, BROKEN_ANSWER, Refusal

ERRAND_S = 30.0  # for one answer
HELD_MESSAGE_BYTES = 512  # what a message costs besides its bytes
MAX_KEPT = 2000  # introductions
MAX_INTRODUCTION_BYTES = 256 * 1024
MAX_PAGES = 20  # of a list that is read for its schemas
_NOT_MODERN = frozenset({400, 404, 405, 406, 415, 422})


class NotModern(Exception):
    """The server does not know `server/discover`: it speaks no modern revision."""


class Errands:
    """One per process."""

    def __init__(self, ways: Ways, books: Books) -> None:
        self._ways = ways
        self._books = books
        self._kept: OrderedDict[tuple[str, str, str], tuple[float, Introduction]] = OrderedDict()

    def last_heard(self, way: Way) -> Introduction | None:
        """However old; None when this node has never heard one."""
        found = self._find(way)
        return None if found is None else found[1]

    async def introduction(self, way: Way) -> Introduction:
        """Raises NotModern, Refusal."""
        found = self._find(way)
        if found is not None and time.monotonic() < found[0]:
            return found[1]
        told = await self._ask_introduction(way)
        key = self._key(way, is_public=told.is_public)
        self._kept[key] = (time.monotonic() + told.kept_s, told)
        self._kept.move_to_end(key)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return told

    async def learn_tools(self, way: Way) -> Book:
        """The whole list, read anew. What goes wrong leaves the book as it was, and not whole."""
        book = self._books.of(way.call.route.environment, way.target.release)
        cursor: dict[str, object] = {}
        for _ in range(MAX_PAGES):
            try:
                fields = await self._result(way, "tools/list", cursor)
                rewrite_list(fields, book)
                if "nextCursor" not in fields:
                    book.is_whole = True
                    break
                cursor = {"cursor": msgspec.json.decode(fields["nextCursor"], type=str)}
            except (NotModern, msgspec.MsgspecError, RecursionError):
                break
        return book

    async def _ask_introduction(self, way: Way) -> Introduction:
        fields = await self._result(way, "server/discover", {})
        said = msgspec.json.encode(fields)
        if len(said) > MAX_INTRODUCTION_BYTES:
            raise Refusal(ANSWER_TOO_LARGE, "the server's introduction is too large")
        try:
            told = read_introduction(said)
        except msgspec.MsgspecError:
            raise Refusal(BROKEN_ANSWER, "the server's introduction is not MCP") from None
        if not told.is_modern:
            raise NotModern
        return told

    async def _result(self, way: Way, method: str, params: dict[str, object]) -> Fields:
        """Of a complete result. Raises NotModern for an error of the server's own."""
        asked = own_request(method, params)
        attempt = await self._ways.ask(way, asked)
        is_refused = attempt.answer.status in _NOT_MODERN and not attempt.answer.dispatch_error
        try:
            with self._ways.counted(way, attempt.plan, attempt.started):
                said = await self._answer_to(asked, way, attempt)
        except Refusal as refusal:
            if is_refused and refusal.kind is BROKEN_ANSWER:  # an error without JSON-RPC
                raise NotModern from None
            raise
        finally:
            attempt.close()
        self._ways.answered(way, attempt, len(said.raw))
        return _fields_of(said)

    async def _answer_to(self, asked: Asked, way: Way, attempt: Attempt) -> Said:
        """Bounded, whatever the server says before it. Raises UpstreamFailure (timeout, too_large), Refusal."""
        limits, heard_bytes = way.call.route.limits, 0
        try:
            async with asyncio.timeout(way.call.within_budget(min(limits.answer_timeout_s, ERRAND_S))):
                async for said in attempt.conversation.messages():
                    if said.spoken.answers(asked.upstream_id) or said.status != 200:
                        return said
                    heard_bytes += len(said.raw) + HELD_MESSAGE_BYTES
                    if heard_bytes > limits.event_bytes:
                        raise UpstreamFailure("too_large")
        except TimeoutError:
            raise UpstreamFailure("timeout") from None
        raise Refusal(ANSWER_CUT)

    def _find(self, way: Way) -> tuple[float, Introduction] | None:
        public = self._kept.get(self._key(way, is_public=True))
        return public or self._kept.get(self._key(way, is_public=False))

    def _key(self, way: Way, *, is_public: bool) -> tuple[str, str, str]:
        principal = "" if is_public else way.call.caller.principal
        return way.call.route.environment, way.target.release, principal


def _fields_of(said: Said) -> Fields:
    """Raises NotModern for anything but a complete result."""
    if not isinstance(said.spoken.result, msgspec.Raw):
        raise NotModern
    try:
        fields = msgspec.json.decode(said.spoken.result, type=Fields)
    except msgspec.MsgspecError:
        raise Refusal(BROKEN_ANSWER) from None
    return fields
