"""That a request costs the same however much the gateway knows: CPU for each with one published Route and with MANY, with one session id
and with a different one each time.

Rounds alternate between the few and the many, so that whatever else the machine does falls on both; the ratio of the medians counts. The
sessions are young: of older ones each use that is a minute after the last is told to Redis and the control plane, which is a cost by the
minute and not by the session. What that adds where every request is such a use is reported without a goal.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import repeat
from pathlib import Path

import httpx
import psutil

from hosting.dataplane.contract import Dispatch, Limits, Route, parse_keyring
from hosting.dataplane.sessions.session import Sessions, opened
from tests.bench import figure
from tests.bench.peers import start_stub
from tests.bench.peers.smcp import start_world
from tests.bench.peers.words import requests
from tests.bench.proxy import load
from tests.dataplane.harness import AUDIENCE, TENANT, GatewayProcess, World
from tests.waiting import wait_for

MANY = 100_000
AT_ONCE = 1_000  # facts published in one call
SPREAD = 1_000  # Routes that are asked in turn
ROUNDS, REQUESTS, CONNECTIONS = 7, 3_000, 32
FOLLOW_S = 300.0
AHEAD_S, AGE_S = 45, 3600  # how young and how old sessions are
GOAL = 1.15
KEY_ID = "b" * 26


def main() -> None:
    """Reports the figures."""
    with ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="smcp-bench-"))
        stack.callback(shutil.rmtree, directory)
        upstream = start_stub(stack, directory)
        few, many = (_Side(stack, directory / name, upstream) for name in ("few", "many"))
        routes = many.publish(MANY)
        one = (few.gateway, repeat(few.modern(few.route)))
        _compare("routes", one, (many.gateway, repeat(many.modern(many.route))), goal=GOAL)
        chosen = [many.modern(route) for route in routes[:SPREAD]]
        _compare(f"routes.spread_over_{SPREAD}", one, (many.gateway, _shuffled(chosen)), goal=None)
        one = (few.gateway, repeat(next(few.legacy(1, issued_in_s=AHEAD_S))))
        young = few.legacy(MANY, issued_in_s=AHEAD_S)
        _compare("sessions", one, (few.gateway, young), goal=GOAL)
        old = few.legacy(MANY, issued_in_s=-AGE_S)
        _compare("sessions.told_each_time", one, (few.gateway, old), goal=None)


_Asked = tuple[GatewayProcess, Iterator[bytes]]


def _compare(name: str, few: _Asked, many: _Asked, *, goal: float | None) -> None:
    spent: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for cpu_us, asked in zip(spent, (few, many), strict=True):
            cpu_us.append(_cpu_us(*asked))
    of_few, of_many = (statistics.median(each[1:]) for each in spent)  # the first ones warm up
    figure(f"scale.{name}.one_cpu_us", of_few, "µs")
    figure(f"scale.{name}.many_cpu_us", of_many, "µs")
    figure(f"scale.{name}.ratio", of_many / of_few, "×", goal=goal)


def _cpu_us(gateway: GatewayProcess, asked: Iterator[bytes]) -> float:
    process = psutil.Process(gateway.pid)
    before = process.cpu_times()
    count = len(asyncio.run(load(gateway.port, asked, CONNECTIONS, REQUESTS)))
    after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) / count * 1e6


def _shuffled(chosen: list[bytes]) -> Iterator[bytes]:
    while True:
        yield random.choice(chosen)


class _Side:
    """A gateway with one Route, and more when they are published."""

    def __init__(self, stack: ExitStack, directory: Path, upstream: str) -> None:
        directory.mkdir()
        self._world: World = start_world(stack, directory)
        self._dispatch = Dispatch(url=upstream, audience=AUDIENCE)
        target = self._world.target(issues_sessions=True)
        self.route = self._world.server("bench", target, dispatch=self._dispatch)
        self._key = {"authorization": f"Bearer {self._world.key(id=KEY_ID)}"}
        self.gateway = self._world.gateway

    def publish(self, count: int) -> list[Route]:
        """As many Routes more, and waits until the gateway knows them."""
        routes = [
            Route(
                tenant=TENANT,
                version=1,
                environment=f"env-many-{number}",
                tenant_slug="acme",
                server_slug=f"many-{number}",
                environment_slug="production",
                targets=self.route.targets,
                dispatch=self._dispatch,
                limits=Limits(),
            )
            for number in range(count)
        ]
        for at in range(0, count, AT_ONCE):
            self._world.publisher.publish(*routes[at : at + AT_ONCE])

        def knows_all() -> bool:
            try:
                return self.gateway.metric("smcp_gateway_facts", kind="routes") > count
            except httpx.TransportError:  # it is busy
                return False

        wait_for(knows_all, FOLLOW_S, what="the gateway to know all Routes")
        return routes

    def modern(self, route: Route) -> bytes:
        return requests(self._path(route), "modern", **self._key)["modern", "json"]

    def legacy(self, count: int, *, issued_in_s: int) -> Iterator[bytes]:
        """A call under each of so many sessions, whose ids are sealed here with the gateway's own key."""
        sessions = Sessions(parse_keyring(self.gateway.sealing_ring))
        for _ in range(count):
            session = sessions.new(principal=f"key:{KEY_ID}", now=time.time() + issued_in_s, capabilities=0)
            session = opened(
                session,
                revision="2025-11-25",
                release=self.route.targets[0].release,
                upstream_id="kept-by-the-stub",
            )
            headers = {"mcp-session-id": sessions.mint(session, self.route)}
            yield requests(self._path(self.route), "legacy", **self._key, **headers)["legacy", "json"]

    def _path(self, route: Route) -> str:
        return self._world.url(route).removeprefix(self.gateway.url)


if __name__ == "__main__":
    main()
