"""An Operation as server-sent events: where it stands at once, then every change until it has ended.

The stream lives on the event loop and asks the database now and then from the shared threads, so a reader costs neither a
thread nor a connection. Whoever is cut off comes back and gets the present state again: `Last-Event-ID` needs no look-up.
Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Final

from django.http import HttpRequest, StreamingHttpResponse
from ninja import Router

from hosting.queries.operations import get_operation
from hosting.schemas.deployments import OperationOut
from smcp.common.errors import TooMany
from smcp.common.tenancy import as_tenant
from tenants.auth import READ, NeedsInLoop, off_loop
from tenants.door import call_of

router = Router(tags=["operations"])

LOOK_EVERY_S: Final = 0.5
KEEP_ALIVE_S: Final = 15.0
LIFE_S: Final = 300.0
STREAMS_MAX: Final = 20  # of one tenant in one process
ENDED: Final = frozenset({"succeeded", "failed"})

_open_streams: Counter[str] = Counter()


class TooManyStreams(TooMany):
    code = "too-many-streams"
    title = "Too many event streams are open"


@router.get(
    "/tenants/{tenant}/operations/{operation}/events",
    response={200: None},
    auth=NeedsInLoop(READ),
    openapi_extra={
        "responses": {
            200: {"content": {"text/event-stream": {"schema": {"$ref": "#/components/schemas/OperationOut"}}}}
        }
    },
)
async def follow_operation(request: HttpRequest, tenant: str, operation: str) -> StreamingHttpResponse:
    """Events named `operation`, each a whole Operation. Ends with it, or after five minutes: then connect again."""
    tenant_id = call_of(request).tenant_id
    first = await off_loop(_look, tenant_id, operation)
    if _open_streams[tenant_id] >= STREAMS_MAX:
        raise TooManyStreams(f"At most {STREAMS_MAX} at a time.", retry_after_s=5)
    return StreamingHttpResponse(
        _events(tenant_id, operation, first),
        content_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _events(tenant_id: str, operation_id: str, shown: OperationOut) -> AsyncIterator[bytes]:
    _open_streams[tenant_id] += 1
    try:
        until = time.monotonic() + LIFE_S
        spoken_at = time.monotonic()
        yield b"retry: 1000\n\n" + _event(shown)
        while shown.state not in ENDED and time.monotonic() < until:
            await asyncio.sleep(LOOK_EVERY_S)
            now = await off_loop(_look, tenant_id, operation_id)
            if now != shown:
                shown, spoken_at = now, time.monotonic()
                yield _event(shown)
            elif time.monotonic() - spoken_at > KEEP_ALIVE_S:
                spoken_at = time.monotonic()
                yield b": still here\n\n"
    finally:
        _open_streams[tenant_id] -= 1
        if not _open_streams[tenant_id]:
            del _open_streams[tenant_id]


def _look(tenant_id: str, operation_id: str) -> OperationOut:
    with as_tenant(tenant_id):
        return OperationOut.of(get_operation(tenant_id=tenant_id, operation_id=operation_id))


def _event(operation: OperationOut) -> bytes:
    data = operation.model_dump_json()
    event_id = hashlib.sha256(data.encode()).hexdigest()[:16]
    return f"id: {event_id}\nevent: operation\ndata: {data}\n\n".encode()
