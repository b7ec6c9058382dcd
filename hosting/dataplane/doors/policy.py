"""Whether a server's own paths and its WebSocket are open to a caller: what its Environment says, now and while something lasts."""

from __future__ import annotations

from hosting.dataplane.call import Call
from hosting.dataplane.contract import Route
from hosting.dataplane.facts.addresses import Knock
from hosting.dataplane.facts.routes import Table
from hosting.dataplane.forwarding.streams import is_admitted

OWN_DOORS = frozenset({"ws", "other"})  # no MCP is spoken there, so no policy about MCP holds


def is_allowed(route: Route, knock: Knock) -> bool:
    return route.other_paths or knock.door not in OWN_DOORS


def is_still_allowed(call: Call, table: Table) -> bool:
    now = table.route_now(call.route)
    return now is not None and now.other_paths and is_admitted(call, None, table)
