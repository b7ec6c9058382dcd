"""What is left from an earlier start is found and ended; what only has the same pid is left alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from smcp.stack.guard import end_stale, remember
from smcp.stack.processes import Child, Process, spawn
from tests.waiting import wait_for


@pytest.fixture
def stubborn(tmp_path: Path) -> Iterator[Child]:
    """A process that does not end when it is asked to."""
    script = "trap '' TERM; echo deaf; while :; do sleep 60 & wait; done"
    process = Process(
        name="stubborn", command=("/bin/sh", "-c", script), environ={"PATH": os.defpath}, directory=tmp_path
    )
    child = spawn(process)
    wait_for(lambda: "deaf" in child.lines, 10)
    yield child
    child.kill_group()


def test_a_process_of_an_earlier_start_is_ended_even_when_it_does_not_listen(
    stubborn: Child, tmp_path: Path
) -> None:
    remember([stubborn], tmp_path)
    assert end_stale(tmp_path) == ["stubborn"]
    assert stubborn.exit_code() == -9


def test_a_program_that_got_the_pid_since_is_left_alone(stubborn: Child, tmp_path: Path) -> None:
    remember([stubborn], tmp_path)
    entries = json.loads((tmp_path / "processes.json").read_text())
    entries[0]["started"] = "1"
    (tmp_path / "processes.json").write_text(json.dumps(entries))
    assert end_stale(tmp_path) == []
    assert stubborn.exit_code() is None


def test_a_first_start_has_nothing_to_end(tmp_path: Path) -> None:
    assert end_stale(tmp_path) == []
