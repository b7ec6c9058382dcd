"""What tests see and steer of the stand-in."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.dataplane.legacy_standin import LegacyOnly


class Control:
    """What tests see and steer."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.permits: dict[str, asyncio.Semaphore] = {}
        self.raw_answer = b""
        self.raw_stays_open = False
        self.raw_reads_nothing = False
        self.raw_more = b""
        self.raw_every_s = 0.0
        self.raw_open = 0
        self.raw_seen: list[str] = []
        self.legacy_only = LegacyOnly(self.permit)

    def permit(self, name: str) -> asyncio.Semaphore:
        return self.permits.setdefault(name, asyncio.Semaphore(0))

    async def __call__(self, path: str, body: bytes) -> Any:
        match path:
            case "/_control/seen":
                return self.seen
            case "/_control/forget":
                self.seen.clear()
                self.raw_seen.clear()
                return {}
            case "/_control/go":
                asked = json.loads(body)
                for _ in range(asked.get("times", 1)):
                    self.permit(asked["name"]).release()
                return {}
            case "/_control/raw":
                asked = json.loads(body)
                self.raw_answer = asked["answer"].encode("latin-1")
                self.raw_stays_open = asked.get("stays_open", False)
                self.raw_reads_nothing = asked.get("reads_nothing", False)
                self.raw_more = asked.get("more", "").encode("latin-1")
                self.raw_every_s = asked.get("every_s", 0.0)
                return {}
            case "/_control/raw_open":
                return self.raw_open
            case "/_control/broadcast":
                asked = json.loads(body)
                return {"streams": self.legacy_only.broadcast(asked["script"], asked["message"])}
            case "/_control/forget_sessions":
                return {"sessions": self.legacy_only.forget(json.loads(body)["script"])}
            case "/_control/raw_seen":
                return self.raw_seen
        return None
