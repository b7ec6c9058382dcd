from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.stage import Stage, open_stage
from tests.hosting.workers.conftest import Account, open_account
from tests.parts import PlatformEdge


@pytest.fixture(scope="package")
def account(edge: PlatformEdge) -> Iterator[Account]:
    with open_account(edge, "conformance") as opened:
        yield opened


@pytest.fixture(scope="package")
def stage(account: Account, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with open_stage(account, tmp_path_factory.mktemp("conformance")) as opened:
        yield opened


@pytest.fixture(scope="package")
def everything(stage: Stage) -> str:
    """The endpoint of the everything server as a Worker that speaks both eras."""
    script = stage.upload("everything", ERAS="both")
    return stage.publish("everything", script, "both", has_sessions=True)
