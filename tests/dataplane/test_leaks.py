"""Sessions that are opened and left behind cost nothing once they have expired: neither the gateway's memory nor Redis."""

from __future__ import annotations

import json
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from hosting.dataplane.contract import Limits, Route
from tests.dataplane.harness import World, call_of, request
from tests.waiting import wait_for

SESSIONS = 10_000
WARM = 1_000  # so that what a process keeps for good is there before: pools, caches, the allocator's own
CLIENTS = 4
IDLE_S = 8.0
EVERY_S = IDLE_S / 4  # younger sessions are not remembered at all
WITHIN_S = 120.0
MOST = 1.05


@pytest.fixture(scope="module")
def knobs() -> dict[str, str]:
    return {"session_idle_s": str(IDLE_S)}


def open_and_leave(world: World, route: Route, key: str, count: int) -> None:
    """Each is opened, used once when it is old enough to be remembered, and never closed."""
    place = urlsplit(world.url(route))
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    initialize = json.dumps(request("initialize", hello))
    call = json.dumps(call_of("echo"))
    headers = {"accept": "application/json, text/event-stream", "authorization": f"Bearer {key}"}

    def leave(share: int) -> None:
        connection = HTTPConnection(place.netloc, timeout=30)

        def send(body: str, **more: str) -> str:
            connection.request(
                "POST", place.path, body, {**headers, "content-type": "application/json", **more}
            )
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
            return answer.headers.get("mcp-session-id", "")

        opened: deque[tuple[float, str]] = deque()
        while share or opened:
            if share:
                opened.append((time.monotonic() + EVERY_S + 1, send(initialize)))
                share -= 1
            while opened and (not share or time.monotonic() >= opened[0][0]):
                usable_at, session = opened.popleft()
                time.sleep(max(0.0, usable_at - time.monotonic()))
                send(call, **{"mcp-session-id": session})
        connection.close()

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(leave, [count // CLIENTS] * CLIENTS))


def forget_reports(world: World) -> None:
    """As the control plane does with what it has read."""
    world.publisher.client.xtrim(world.publisher.keys.reports, maxlen=0, approximate=False)


def held(world: World) -> dict[str, int]:
    """Bytes of the gateway and of what Redis keeps, and how many keys there are."""
    forget_reports(world)
    status = Path(f"/proc/{world.gateway.pid}/status").read_text()
    redis: Any = world.publisher.client
    return {
        "gateway": int(status.partition("VmRSS:")[2].split()[0]) * 1024,
        "redis": int(redis.info("memory")["used_memory"]),
        "keys": int(redis.dbsize()),
    }


@pytest.mark.acceptance("S3.8", "S3.32")
@pytest.mark.timeout(600)  # a minute on a quiet machine
def test_ten_thousand_sessions_left_behind_cost_nothing_after_they_have_expired(world: World) -> None:
    route = world.server("leaks", world.target("scripted-stateful"), limits=Limits(concurrency=1024))
    key = world.key()
    redis: Any = world.publisher.client

    def is_forgotten() -> bool:
        is_clean = not redis.keys("*:session:*") and redis.dbsize() == len(
            redis.keys("*")
        )  # expired, and removed
        return is_clean and world.gateway.metric("smcp_gateway_sessions_seen") == 0

    open_and_leave(world, route, key, WARM)
    world.standin.forget()
    wait_for(is_forgotten, WITHIN_S, what="the first sessions to expire")
    before = held(world)
    open_and_leave(world, route, key, SESSIONS)
    most = held(world)
    assert most["keys"] > before["keys"] + SESSIONS // 20  # they were there
    wait_for(is_forgotten, WITHIN_S, what="the sessions to expire")

    def too_much() -> dict[str, tuple[int, int]]:
        now = held(world)
        return {name: (before[name], now[name]) for name in before if now[name] > before[name] * MOST}

    wait_for(lambda: not too_much(), WITHIN_S, what=f"{too_much()} to shrink")
