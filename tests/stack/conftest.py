"""One directory for all the starts and ends of a whole platform: only the first start has to make everything."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.stack.harness import StackRun


@pytest.fixture(scope="session")
def whole_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackRun]:
    """Not running between tests; `start` it and end it in the test."""
    run = StackRun(tmp_path_factory.mktemp("stack") / "var")
    yield run
    if run._popen is not None and run.popen.poll() is None:
        run.end()


@pytest.fixture
def running(whole_stack: StackRun) -> StackRun:
    """Ready to be used, and to be ended in whatever way the test is about."""
    return whole_stack.start()
