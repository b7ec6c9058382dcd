"""The gateway, doing all it does in production: address, API key, sealed session or the modern checks, bounds, re-framing, metrics, reports."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

import httpx

from hosting.dataplane.contract import Dispatch, Limits
from tests.bench.peers import Peer
from tests.bench.peers.words import requests
from tests.dataplane.harness import (
    AUDIENCE,
    GatewayProcess,
    Publisher,
    RedisProcess,
    StandInProcess,
    World,
)
from tests.parts import free_port


def start(stack: ExitStack, directory: Path, upstream: str) -> Peer:
    """The stub speaks both eras and keeps sessions: nothing is bridged."""
    world = start_world(stack, directory)
    target = world.target(issues_sessions=True)
    dispatch = Dispatch(url=upstream, audience=AUDIENCE)
    route = world.server("bench", target, dispatch=dispatch, limits=Limits(concurrency=10_000))
    caller = world.at(world.url(route), world.key())
    opened = caller.initialize()
    assert opened.status_code == 200, opened.text
    path = caller.url.removeprefix(world.gateway.url)
    key = {"authorization": caller.headers["authorization"]}
    session = {"mcp-session-id": caller.headers["mcp-session-id"]}
    made = requests(path, "legacy", **key, **session) | requests(path, "modern", **key)
    return Peer("smcp", world.gateway.pid, world.gateway.port, made)


def start_world(stack: ExitStack, directory: Path, **knobs: str) -> World:
    """A gateway with its Redis (synced as in production), `knobs` as in its environment. The stand-in is there for its control door alone."""
    redis = RedisProcess(directory / "redis", free_port(), appendfsync="everysec")
    redis.start()
    stack.callback(redis.stop)
    publisher = stack.enter_context(closing(Publisher(redis.url)))
    publisher.new_epoch()
    standin = StandInProcess(directory)
    standin.start()
    stack.callback(standin.stop)
    gateway = GatewayProcess(directory, redis_url=redis.url, dispatch_ring=standin.dispatch_ring, **knobs)
    gateway.start()
    stack.callback(gateway.stop)
    return World(gateway, standin, publisher, stack.enter_context(httpx.Client()))
