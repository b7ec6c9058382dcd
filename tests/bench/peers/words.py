"""The calls every peer is asked, in both eras."""

from __future__ import annotations

import json

from tests.bench.peers import HEADERS, Era, Kind, raw
from tests.dataplane.harness import call_of, modern_request

TOOLS: dict[Kind, str] = {"json": "add", "sse": "events"}
ARGUMENTS = {"a": 1, "b": 41}


def call(era: Era, kind: Kind, *, prefix: str = "") -> tuple[bytes, dict[str, str]]:
    """Body and headers of a call whose answer is JSON or a stream. `prefix` of the tool's name, where a peer adds one."""
    tool = prefix + TOOLS[kind]
    if era == "legacy":
        return json.dumps(call_of(tool, **ARGUMENTS)).encode(), dict(HEADERS)
    body, more = modern_request("tools/call", {"name": tool, "arguments": ARGUMENTS})
    return json.dumps(body).encode(), HEADERS | {
        name.replace("_", "-"): value for name, value in more.items()
    }


def requests(path: str, *eras: Era, prefix: str = "", **headers: str) -> dict[tuple[Era, Kind], bytes]:
    """Whole requests, for a peer that speaks `eras`."""
    made = {}
    for era in eras:
        for kind in TOOLS:
            body, own = call(era, kind, prefix=prefix)
            made[era, kind] = raw(path, body, own | headers)
    return made
