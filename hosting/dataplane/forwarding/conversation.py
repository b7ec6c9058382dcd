"""What a server says to one request, message by message, whether it answers with JSON or with a stream.

For whoever must understand an answer before it goes on (the bridges between the eras); what only passes through is `relay.py`'s.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec

from hosting.dataplane.call import Errand, Plan
from hosting.dataplane.forwarding.asking import MAX_ERROR_BYTES
from hosting.dataplane.forwarding.pace import Pace
from hosting.dataplane.forwarding.upstream import Answer, UpstreamFailure
from hosting.dataplane.forwarding.verdicts import judge
from hosting.dataplane.protocol.era import Spoken, hear
from hosting.dataplane.protocol.errors import BROKEN_ANSWER, Refusal
from hosting.dataplane.protocol.sse import Event, EventParser, EventTooLarge

_NAMES = frozenset((b"message", b""))


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a server's. `raw` is its JSON; `status` the HTTP status it came with."""

    raw: bytes
    spoken: Spoken
    status: int = 200
    event_id: bytes | None = None


class Conversation:
    """Of one Answer, whose closing stays with whoever has it."""

    def __init__(self, call: Errand, plan: Plan, answer: Answer, *, pace: Pace) -> None:
        self._call = call
        self._plan = plan
        self._answer = answer
        self._pace = pace
        self._parser = EventParser(call.route.limits.event_bytes)
        self.last_id = b""  # of an event, with or without a message: where the server would take a broken stream up again
        self.retry_ms: int | None = None

    async def messages(self) -> AsyncIterator[Said]:
        """Until the server ends, or falls silent for too long; a listening Plan may be silent for ever.

        An error with a JSON-RPC body is a message. Raises Refusal for one without, and UpstreamFailure.
        """
        answer, limits = self._answer, self._call.route.limits
        if answer.status == 200 and answer.content_type == "text/event-stream":
            async for said in self._events():
                yield said
            return
        is_error = answer.status != 200
        body = await answer.read(
            limit=MAX_ERROR_BYTES if is_error else limits.response_bytes,
            timeout_s=self._call.within_budget(limits.answer_timeout_s),
            share=self._call.share,
        )
        if is_error:
            judge(self._call.era, self._plan, answer, body)
        elif answer.content_type != "application/json":
            raise Refusal(BROKEN_ANSWER, request_id=self._plan.first_id)
        for said in self._said(body):
            yield said

    async def _events(self) -> AsyncIterator[Said]:
        idle_s, heard_at = self._call.route.limits.stream_idle_s, time.monotonic()
        while True:
            await self._pace.rest()
            may_be_silent = self._plan.is_listening
            piece = await self._answer.next_piece(timeout_s=idle_s)
            if piece == b"":
                return
            if piece is None:
                if (
                    may_be_silent or self._plan.is_listening
                ):  # what is expected of it may have changed meanwhile
                    heard_at = time.monotonic()
                elif time.monotonic() - heard_at >= idle_s:
                    raise UpstreamFailure("silent")
                continue
            heard_at = time.monotonic()
            for event in self._parse(piece):
                self.last_id = event.id or self.last_id
                self.retry_ms = self.retry_ms if event.retry_ms is None else event.retry_ms
                if event.name in _NAMES and event.data:
                    for said in self._said(event.data, event.id):
                        yield said

    def _parse(self, piece: bytes) -> list[Event]:
        began = time.thread_time()
        try:
            return self._parser.feed(piece)
        except EventTooLarge as exc:
            raise UpstreamFailure("too_large") from exc
        finally:
            self._pace.charge(time.thread_time() - began)

    def _said(self, raw: bytes, event_id: bytes | None = None) -> list[Said]:
        """Raises Refusal for what is no JSON-RPC."""
        try:
            spoken = hear(raw)
            is_batch = raw.lstrip()[:1] == b"["
            parts = [bytes(part) for part in _raws.decode(raw)] if is_batch else [raw]
        except msgspec.MsgspecError:
            raise Refusal(BROKEN_ANSWER, request_id=self._plan.first_id) from None
        return [
            Said(part, message, self._answer.status, event_id)
            for part, message in zip(parts, spoken, strict=True)
        ]


_raws = msgspec.json.Decoder(list[msgspec.Raw])
