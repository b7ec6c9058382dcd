"""Failing on request, so that clients can be tested against a Cloudflare that misbehaves. Only with `--faults`.

A fault names an operation and fires around its handler: `latency` waits, `status` answers with an error and does nothing, `drop`
closes the connection and does nothing, `lost_answer` carries the request out and closes the connection instead of answering,
`late` carries it out and waits before it answers, until its time is up or the fault is deleted.
Faults belong to the account whose token made them and live in memory.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

from aiohttp import web

from edge.envelope import ApiError, BadRequest

KINDS = ("latency", "status", "drop", "lost_answer", "late")
LOST = "edge.answer_is_lost"
LATE = "edge.answer_is_late"


@dataclass(kw_only=True)
class Fault:
    """One planned failure: skip `after` matching requests, then strike `times` (None: until it is deleted).

    `contains` narrows it to requests whose path has that text. `delay_s` may accompany every kind. `fired` counts the requests
    it struck, `waiting` those of a `late` one that are carried out and not answered yet.
    """

    operation: str
    kind: str
    status: int = 500
    code: int = 10013
    message: str = "An unknown error has occurred. If this error persists, please report it."
    delay_s: float = 0.0
    retry_after_s: int | None = None
    after: int = 0
    times: int | None = 1
    contains: str = ""
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    seen: int = 0
    fired: int = 0
    waiting: int = 0


class Faults:
    def __init__(self) -> None:
        self._faults: dict[str, list[Fault]] = {}
        self._deleted: dict[str, asyncio.Event] = {}  # by the id of a fault that is there

    def plan(self, account_id: str, body: Any, operations: frozenset[str]) -> Fault:
        """Add a fault from its JSON. Raises BadRequest."""
        fault = _parse(body, operations)
        self._faults.setdefault(account_id, []).append(fault)
        self._deleted[fault.id] = asyncio.Event()
        return fault

    def list_faults(self, account_id: str) -> list[dict[str, Any]]:
        return [asdict(fault) for fault in self._faults.get(account_id, [])]

    def clear(self, account_id: str, fault_id: str | None = None) -> int:
        """Delete one fault, or all of the account; how many there were."""
        faults = self._faults.get(account_id, [])
        kept = [fault for fault in faults if fault_id is not None and fault.id != fault_id]
        self._faults[account_id] = kept
        for fault in faults:
            if fault not in kept:
                self._deleted.pop(fault.id).set()
        return len(faults) - len(kept)

    async def around(
        self,
        request: web.Request,
        account_id: str | None,
        operation: str,
        carry_out: Callable[[], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        """Carry the request out, unless a fault of the account says otherwise."""
        fault = self._match(account_id, operation, request.path) if account_id else None
        if fault is None:
            return await carry_out()
        if fault.kind == "late":
            request[LATE] = fault, self._deleted[fault.id]
            return await carry_out()
        await asyncio.sleep(fault.delay_s)
        if fault.kind == "drop":
            drop_connection(request)
        if fault.kind == "status":
            headers = {} if fault.retry_after_s is None else {"retry-after": str(fault.retry_after_s)}
            raise ApiError(fault.status, fault.code, fault.message, headers=headers)
        if fault.kind == "lost_answer":
            request[LOST] = True
            try:
                await carry_out()
            finally:
                drop_connection(request)
        return await carry_out()

    def _match(self, account_id: str, operation: str, path: str) -> Fault | None:
        for fault in self._faults.get(account_id, []):
            if fault.operation != operation or fault.contains not in path:
                continue
            if fault.times is not None and fault.fired >= fault.times:
                continue
            fault.seen += 1
            if fault.seen > fault.after:
                fault.fired += 1
                return fault
        return None


def drop_connection(request: web.Request) -> NoReturn:
    """Close the connection without a word. aiohttp takes the ConnectionError as a client gone away."""
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionResetError("the edge was told to drop this connection")


async def hold_answer(request: web.Request, _response: web.StreamResponse) -> None:
    """on_response_prepare: a handler that streams must not get its answer out either, or not yet."""
    if request.get(LOST):
        drop_connection(request)
    late: tuple[Fault, asyncio.Event] | None = request.get(LATE)
    if late is not None:
        fault, deleted = late
        fault.waiting += 1
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(fault.delay_s):
                    await deleted.wait()
        finally:
            fault.waiting -= 1


def _parse(body: Any, operations: frozenset[str]) -> Fault:
    if not isinstance(body, dict):
        raise BadRequest("A fault is a JSON object.")
    unknown = body.keys() - (Fault.__dataclass_fields__.keys() - {"id", "seen", "fired", "waiting"})
    if unknown:
        raise BadRequest(f"A fault has no {', '.join(sorted(map(str, unknown)))}.")
    if body.get("operation") not in operations:
        raise BadRequest(f"There is no operation {body.get('operation')!r}.")
    if body.get("kind") not in KINDS:
        raise BadRequest(f"kind must be one of {', '.join(KINDS)}.")
    for name, smallest, largest in (("status", 400, 599), ("code", 0, 2**31), ("after", 0, 2**31)):
        value = body.get(name, smallest)
        if type(value) is not int or not smallest <= value <= largest:
            raise BadRequest(f"{name} must be a whole number between {smallest} and {largest}.")
    for name in ("times", "retry_after_s"):
        value = body.get(name)
        if value is not None and (type(value) is not int or value < 0):
            raise BadRequest(f"{name} must be a whole number, or null.")
    delay_s = body.get("delay_s", 0)
    if type(delay_s) not in (int, float) or not 0 <= delay_s <= 600 or math.isnan(delay_s):
        raise BadRequest("delay_s must be between 0 and 600.")
    for name in ("message", "contains"):
        if not isinstance(body.get(name, ""), str):
            raise BadRequest(f"{name} must be a text.")
    return Fault(**body)
