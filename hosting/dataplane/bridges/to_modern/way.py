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
from hosting.dataplane.forwarding.breaker import is_hurried
from hosting.dataplane.forwarding.conversation import Conversation
from hosting.dataplane.forwarding.proxy import Proxy
from hosting.dataplane.forwarding.streams import Streams
from hosting.dataplane.forwarding.upstream import Answer, UpstreamFailure
from hosting.dataplane.forwarding.verdicts import NOT_ITS_FAULT, refuse_failure
from hosting.dataplane.protocol.errors import CIRCUIT_OPEN, Refusal
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
        """Until the head of the answer. Raises Refusal, which is counted."""
        plan = Plan(
            target=way.target,
            method="POST",
            headers=asked.headers(headers or {}),
            body=asked.body(way.client, level=level),
            messages=[Message("request", asked.upstream_id, asked.method, {})],
            is_listening=is_listening,
        )
        started = time.monotonic()
        with self.counted(way, plan, started):
            plan, answer = await self._asker.ask(way.call, plan)
        if answer.has_request:
            plan.body, plan.sent_bytes = None, len(plan.body or b"")
        pace = self._streams.pace_of(way.call.route.tenant, way.call.route.environment)
        return Attempt(plan, answer, Conversation(way.call, plan, answer, pace=pace), started)

    @contextmanager
    def counted(self, way: Way, plan: Plan, started: float) -> Iterator[None]:
        """Counts what fails inside for the server's health. Raises Refusal in the place of UpstreamFailure."""
        try:
            yield
        except UpstreamFailure as exc:
            refusal = refuse_failure(exc.kind, plan, is_hurried=is_hurried(way.call, started))
            self._failed(way, plan, started, refusal)
            raise refusal from exc
        except Refusal as refusal:
            self._failed(way, plan, started, refusal)
            raise

    def _failed(self, way: Way, plan: Plan, started: float, refusal: Refusal) -> None:
        outcome = refusal.kind.outcome
        if refusal.kind is not CIRCUIT_OPEN:  # which never reached the server
            self._record(way, plan, started, failure="" if outcome in NOT_ITS_FAULT else outcome)

    def answered(self, way: Way, attempt: Attempt, size: int) -> None:
        """Counts an answer of `size` bytes."""
        self._record(way, attempt.plan, attempt.started, size=size)

    def _record(self, way: Way, plan: Plan, started: float, *, failure: str = "", size: int = 0) -> None:
        latency_ms = (time.monotonic() - started) * 1000
        self._proxy.recorded(way.call, plan, latency_ms=latency_ms, failure=failure, response_bytes=size)
