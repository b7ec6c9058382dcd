"""What a running Worker's KV, R2 and D1 bindings talk to: workerd's own protocols, over the unix socket of its script.

workerd names the resource in `x-edge-resource` (it replaces what a Worker may send under that name); the script's grants are what its
upload declared. Anything else is 403, so even a confused workerd reaches nothing but its own.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from edge.bindings import d1, kv, r2
from edge.container import Edge
from edge.faults import drop_connection

log = logging.getLogger(__name__)
RESOURCE_HEADER = "x-edge-resource"
Protocol = Callable[[web.Request, Edge, str, str], Awaitable[web.StreamResponse]]
PROTOCOLS: Mapping[str, Protocol] = {"kv": kv.answer, "r2": r2.answer, "d1": d1.answer}


async def handle(
    request: web.Request, edge: Edge, account: str, grants: frozenset[str]
) -> web.StreamResponse:
    """Answer one request of a binding. `grants` holds `kv/<namespace id>`, `r2/<bucket>`, `d1/<database id>`."""
    resource = request.headers.get(RESOURCE_HEADER, "")
    if resource not in grants:
        return web.Response(status=403, text="This script has no such binding.")
    kind, _, name = resource.partition("/")
    protocol = PROTOCOLS.get(kind)
    if protocol is None:
        return web.Response(status=403, text="There is no such kind of binding.")
    try:
        return await protocol(request, edge, account, name)
    except ConnectionError:
        raise
    except Exception:
        log.exception("binding.surprise", extra={"kind": kind, "method": request.method})
        if request.writer.output_size:
            drop_connection(request)
        return web.Response(status=500, text="We encountered an internal error. Please try again.")
