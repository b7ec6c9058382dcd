from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.dataplane.harness import (
    GatewayProcess,
    Publisher,
    RedisProcess,
    SiteProcess,
    StandInProcess,
    World,
)
from tests.parts import free_port


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
def own_redis(directory: Path) -> Iterator[RedisProcess]:
    process = RedisProcess(directory / "redis", free_port())
    process.start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def standin(directory: Path) -> Iterator[StandInProcess]:
    process = StandInProcess(directory)
    process.start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def site(directory: Path, standin: StandInProcess) -> Iterator[SiteProcess]:
    process = SiteProcess(directory, standin)
    process.start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def knobs() -> dict[str, str]:
    """SMCP_GATEWAY_* of the module's gateway."""
    return {}


@pytest.fixture(scope="module")
def world(
    directory: Path, own_redis: RedisProcess, standin: StandInProcess, knobs: dict[str, str]
) -> Iterator[World]:
    """One gateway for the module. Servers and keys are published as tests need them."""
    publisher = Publisher(own_redis.url)
    publisher.new_epoch()
    gateway = GatewayProcess(directory, redis_url=own_redis.url, dispatch_ring=standin.dispatch_ring, **knobs)
    gateway.start()
    with httpx.Client(timeout=20) as http:
        yield World(gateway, standin, publisher, http)
    gateway.stop()
    publisher.close()


@pytest.fixture(scope="module")
def other_node(
    world: World, own_redis: RedisProcess, tmp_path_factory: pytest.TempPathFactory, knobs: dict[str, str]
) -> Iterator[GatewayProcess]:
    """A second gateway with the same keys, as behind one load balancer."""
    directory = tmp_path_factory.mktemp("other-node")
    gateway = world.gateway.sibling(directory, redis_url=own_redis.url, **knobs)
    gateway.start()
    yield gateway
    gateway.stop()
