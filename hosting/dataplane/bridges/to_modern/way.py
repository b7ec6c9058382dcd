"""The way from a bridged request to its server: one attempt, counted, with its answer's head."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from hosting.dataplane.bridges.to_modern.asked import Asked, Client
from hosting.dataplane.call import Call, Plan
from hosting.dataplane.contract import Target
from hosting.dataplane.forwarding.asking import Asker
from hosting.dataplane.forwarding.conversation import Conversation
from hosting.dataplane.forwarding.proxy import Proxy
from hosting.dataplane.forwarding.streams import Streams
from hosting.dataplane.forwarding.upstream import Answer, UpstreamFailure
from hosting.dataplane.forwarding.verdicts import FAILURES, NOT_ITS_FAULT
from hosting.dataplane.protocol.errors import Refusal
from hosting.dataplane.protocol.jsonrpc import Message


@dataclass(frozen=True, slots=True)
class Way:
    """From one call to the server it belongs to."""

    call: Call
    target: Target
    client: Client


@dataclass(slots=True)
class Attempt:
    """One request at its server. Close it in `finally`."""

    plan: Plan
    answer: Answer
    conversation: Conversation
    started: float

    @property
    def is_stream(self) -> bool:
        return self.answer.status == 200 and self.answer.content_type == "text/event-stream"

    def close(self) -> None:
        self.answer.close()


class Ways:
    """One per process."""

    def __init__(self, *, asker: Asker, streams: Streams, proxy: Proxy) -> None:
        self._asker = asker
        self._streams = streams
        self._proxy = proxy

    async def ask(
        self,
        way: Way,
        asked: Asked,
        *,
        level: str = "",
        headers: Mapping[str, str] | None = None,
        is_listening: bool = False,
    ) -> Attempt:
        """Until the head of the answer. Raises Refusal, UpstreamFailure; these are counted."""
        plan = Plan(
            target=way.target,
            method="POST",
            headers=asked.headers(headers or {}),
            body=asked.body(way.client, level=level),
            messages=[Message("request", asked.upstream_id, asked.method, {})],
            is_listening=is_listening,
        )
        started = time.perf_counter()
        with self.counted(way, plan, started):
            plan, answer = await self._asker.ask(way.call, plan)
        if answer.has_request:
            plan.body, plan.sent_bytes = None, len(plan.body or b"")
        pace = self._streams.pace_of(way.call.route.tenant, way.call.route.environment)
        return Attempt(plan, answer, Conversation(way.call, plan, answer, pace=pace), started)

    @contextmanager
    def counted(self, way: Way, plan: Plan, started: float) -> Iterator[None]:
        """Counts what fails inside for the server's health."""
        try:
            yield
        except UpstreamFailure as exc:
            self._record(way, plan, started, failure=FAILURES[exc.kind].outcome)
            raise
        except Refusal as refusal:
            outcome = refusal.kind.outcome
            self._record(way, plan, started, failure="" if outcome in NOT_ITS_FAULT else outcome)
            raise

    def answered(self, way: Way, attempt: Attempt, size: int) -> None:
        """Counts an answer of `size` bytes."""
        self._record(way, attempt.plan, attempt.started, size=size)

    def _record(self, way: Way, plan: Plan, started: float, *, failure: str = "", size: int = 0) -> None:
        latency_ms = (time.perf_counter() - started) * 1000
        self._proxy.recorded(way.call, plan, latency_ms=latency_ms, failure=failure, response_bytes=size)
