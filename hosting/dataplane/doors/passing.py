"""A server's own paths, on its own hosts, where its Environment allows them: requests and answers go through as they come.

Both bodies are streams with bounds and the slower side's pace. Headers pass by allow-lists (`headers.py`). A server's 401 and 403
never reach a client: it would take them for the gateway's. Whoever leaves ends the other side's request. Nothing is sent twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Literal

from hosting.dataplane.call import Call, Plan
from hosting.dataplane.door.auth import KEY_PREFIX
from hosting.dataplane.door.exchange import ClientGone
from hosting.dataplane.doors.headers import (
    answer_headers,
    check_path,
    check_query,
    is_method,
    request_headers,
)
from hosting.dataplane.doors.policy import is_still_allowed
from hosting.dataplane.facts.buckets import choose_target
from hosting.dataplane.facts.routes import Table
from hosting.dataplane.forwarding.passage import Passage, PassedAnswer
from hosting.dataplane.forwarding.proxy import Proxy
from hosting.dataplane.forwarding.streams import StopReason, Streams, end_with_key
from hosting.dataplane.forwarding.upstream import UpstreamFailure
from hosting.dataplane.forwarding.verdicts import FAILURES, refuse_dispatch
from hosting.dataplane.protocol.errors import (
    METHOD_NOT_ALLOWED,
    PROBE_ONLY_LOOKS,
    TOO_LARGE,
    UPSTREAM_DENIED,
    UPSTREAM_FAILED,
    Refusal,
)
from hosting.dataplane.settings import Settings


class Passing:
    """One per process."""

    def __init__(self, *, settings: Settings, passage: Passage, proxy: Proxy, streams: Streams) -> None:
        self._settings = settings
        self._passage = passage
        self._proxy = proxy
        self._streams = streams

    async def carry(self, call: Call, path: str) -> None:
        """Answers the call with the server's answer. Raises Refusal, ClientGone."""
        if call.is_probe:
            raise Refusal(PROBE_ONLY_LOOKS)
        if not is_method(call.exchange.method):
            raise Refusal(METHOD_NOT_ALLOWED)
        check_path(path, call.route.targets)
        check_query(call.exchange.query, KEY_PREFIX)
        declared, limit = call.headers.get("content-length", "0"), call.route.limits.request_bytes
        if not declared.isdigit() or int(declared) > limit:
            raise Refusal(TOO_LARGE, f"the request is larger than {limit} bytes")
        target = choose_target(call.route, sticky=call.caller.sticky)
        plan = Plan(target=target, method="GET", headers={}, body=None)
        await _Passed(self, call, plan, path).run()

    async def open(
        self, call: Call, plan: Plan, path: str, body: AsyncIterator[bytes] | None
    ) -> PassedAnswer:
        """The head of the server's answer. Raises UpstreamFailure, Refusal."""
        headers = request_headers(call.headers)
        if body is not None and "content-length" in call.headers:
            headers["content-length"] = call.headers["content-length"]
        whole = f"{path}?{call.exchange.query}" if call.exchange.query else path
        return await self._passage.send(call, plan.target, whole, headers=headers, body=body)

    @property
    def settings(self) -> Settings:
        return self._settings

    @property
    def streams(self) -> Streams:
        return self._streams

    def recorded(self, call: Call, plan: Plan, *, started: float, failure: str, size: int) -> None:
        latency_ms = (time.perf_counter() - started) * 1000
        self._proxy.recorded(call, plan, latency_ms=latency_ms, failure=failure, response_bytes=size)


class _Passed:
    """One request on its way through. Ended from outside, its connection is cut: what the client has looks as unfinished as it is."""

    def __init__(self, passing: Passing, call: Call, plan: Plan, path: str) -> None:
        self._passing = passing
        self._call = call
        self._plan = plan
        self._path = path
        self.is_listening = False  # an endless answer: nobody is owed its end
        self._problem: Refusal | None = None  # of the request's body, while it is on its way
        self._task: asyncio.Task[object] | None = None
        self._stop: StopReason | Literal[""] = ""

    def is_admitted(self, table: Table) -> bool:
        return is_still_allowed(self._call, table)

    def stop(self, reason: StopReason) -> None:
        if not self._stop and self._task is not None:
            self._stop = reason
            self._task.cancel()

    async def run(self) -> None:
        """Raises Refusal, ClientGone."""
        self._task = asyncio.current_task()
        forget = self._call.exchange.when_gone(partial(self.stop, "client_gone"))
        expiry = end_with_key(self._call, self)
        try:
            await self._carry()
        except asyncio.CancelledError:
            if not self._stop:
                raise
            if self._task is not None:
                self._task.uncancel()
            raise ClientGone from None
        finally:
            self._task = None
            forget()
            if expiry is not None:
                expiry.cancel()

    async def _carry(self) -> None:
        call, started = self._call, time.perf_counter()
        failure, size = "", 0
        try:
            answer = await self._passing.open(call, self._plan, self._path, self._body())
            try:
                _check(answer)
                failure = UPSTREAM_FAILED.outcome if answer.status >= 500 else ""
                async with self._passing.streams.open(call, self._plan.target.release, self):
                    size = await self._answer_with(answer)
            finally:
                answer.close()
        except UpstreamFailure as exc:
            if self._problem is not None:
                raise self._problem from exc
            failure = FAILURES[exc.kind].outcome
            raise Refusal(FAILURES[exc.kind]) from exc
        except Refusal as refusal:
            failure = refusal.kind.outcome if refusal.kind.status >= 500 else ""
            raise
        finally:
            self._passing.recorded(call, self._plan, started=started, failure=failure, size=size)

    def _body(self) -> AsyncIterator[bytes] | None:
        if (
            self._call.headers.get("content-length", "0") == "0"
            and "transfer-encoding" not in self._call.headers
        ):
            return None
        return self._body_pieces()

    async def _body_pieces(self) -> AsyncIterator[bytes]:
        limit, timeout_s = self._call.route.limits.request_bytes, self._passing.settings.body_timeout_s
        try:
            async for piece in self._call.exchange.body_pieces(limit=limit, timeout_s=timeout_s):
                yield piece
        except Refusal as refusal:
            self._problem = refusal
            raise

    async def _answer_with(self, answer: PassedAnswer) -> int:
        """How many bytes the body had. Raises UpstreamFailure, ClientGone, Refusal."""
        call, limits = self._call, self._call.route.limits
        assert call.route.dispatch is not None
        headers = answer_headers(
            answer.headers.items(),
            status=answer.status,
            host=call.headers["host"],
            dispatch=call.route.dispatch,
        )
        has_body = call.exchange.method != "HEAD" and answer.status not in {204, 304}
        is_endless = self.is_listening = answer.content_type == "text/event-stream"
        if answer.size is not None and answer.status != 204:
            headers = (*headers, ("content-length", str(answer.size)))
        if not is_endless and has_body and (answer.size or 0) > limits.response_bytes:
            raise UpstreamFailure("too_large")
        await call.exchange.begin(answer.status, (*headers, *call.extra))
        size = 0
        while has_body:
            piece = await answer.next_piece(timeout_s=limits.stream_idle_s)
            if piece is None:
                raise UpstreamFailure("silent")
            if not piece:
                break
            size += len(piece)
            if not is_endless and size > limits.response_bytes:
                raise UpstreamFailure("too_large")
            await call.exchange.send(piece, timeout_s=self._passing.settings.stalled_client_s)
        await call.exchange.end()
        return size


def _check(answer: PassedAnswer) -> None:
    """Raises Refusal for what is not the server's own answer, or must not be taken for the gateway's."""
    if answer.dispatch_error:
        raise refuse_dispatch(answer.dispatch_error, answer.status, answer.retry_after)
    if answer.status in {401, 403} or not 200 <= answer.status <= 599:
        raise Refusal(UPSTREAM_DENIED, data={"status": answer.status})
