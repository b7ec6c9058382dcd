"""One edge for the whole run (no limits on rates, faults on), and edges of their own for the tests that stop or starve one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.edge.harness import ACCOUNT_A, ACCOUNT_B, EdgeClient, EdgeProcess
from tests.edge.scripts import Stage


@pytest.fixture(scope="session")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeProcess]:
    flags = ("--rate-limit", "0", "--kv-write-interval", "0", "--faults")
    process = EdgeProcess(tmp_path_factory.mktemp("edge") / "data", *flags).start()
    yield process
    assert process.stop() == 0


@pytest.fixture
def own_edge(tmp_path: Path) -> Iterator[Callable[..., EdgeProcess]]:
    """Starts an edge with the flags given; it is stopped after the test, whatever happened to it."""
    started: list[EdgeProcess] = []

    def start(*flags: str, environ: dict[str, str] | None = None) -> EdgeProcess:
        started.append(EdgeProcess(tmp_path / f"data{len(started)}", *flags, environ=environ))
        return started[-1].start()

    yield start
    for process in started:
        if process.process is not None and process.process.poll() is None:
            process.stop()


@pytest.fixture
def api(edge: EdgeProcess) -> Iterator[EdgeClient]:
    with edge.client(ACCOUNT_A) as client:
        yield client


@pytest.fixture
def other_api(edge: EdgeProcess) -> Iterator[EdgeClient]:
    with edge.client(ACCOUNT_B) as client:
        yield client


@pytest.fixture(scope="session")
def stage(edge: EdgeProcess) -> Iterator[Stage]:
    with edge.client(ACCOUNT_A) as client:
        yield Stage(edge, client)


@pytest.fixture(scope="session")
def other_stage(edge: EdgeProcess) -> Iterator[Stage]:
    with edge.client(ACCOUNT_B) as client:
        yield Stage(edge, client)
