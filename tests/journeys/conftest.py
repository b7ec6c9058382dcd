"""One platform for all journeys of a run; every journey makes tenants of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.journeys.platform import Platform, TenantDoors


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    platform = Platform(tmp_path_factory.mktemp("platform") / "var")
    platform.start()
    yield platform
    assert platform.stop() == 0, platform.log_path.read_text()[-4000:]


@pytest.fixture
def tenant(platform: Platform) -> TenantDoors:
    return platform.make_tenant()


@pytest.fixture
def other_tenant(platform: Platform) -> TenantDoors:
    return platform.make_tenant()
