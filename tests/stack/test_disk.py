"""A disk that is full, or becomes full: a real one, small, which only the stack under test sees (`smalldisk`).

A container may forbid that even to root. It has a small disk then: its `/dev/shm` of 64 MB, enough for a stack that has started before
and keeps its databases elsewhere. Where there is neither, these tests fail and say what to allow: they are never left out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parts import ROOT
from tests.stack.harness import StackRun
from tests.stack.smalldisk import CANNOT, seen_from_outside

MB = 1024 * 1024
SHARED_MEMORY = Path("/dev/shm")
SMALL_BYTES = 1024 * MB  # what a test may fill up: on a machine of one's own it is memory


def on_small_disk(folder: Path, size_mb: int) -> tuple[str, ...]:
    """What to put before a command so that `folder` is a small disk for it."""
    return (sys.executable, "-m", "tests.stack.smalldisk", str(folder), str(size_mb))


def can_mount(folder: Path) -> bool:
    done = subprocess.run((*on_small_disk(folder, 1), sys.executable, "-c", ""), cwd=ROOT)
    assert done.returncode in {0, CANNOT}
    return done.returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Where a disk may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


@pytest.fixture
def shared_memory() -> Iterator[Path]:
    """A folder on a small disk that is there already."""
    assert SHARED_MEMORY.is_dir(), "no mount namespaces, and no /dev/shm"
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as folder:
        assert shutil.disk_usage(folder).total <= SMALL_BYTES, (
            "No small disk on this machine. Run the tests as root, allow user namespaces, or give the container a /dev/shm of 64 MB."
        )
        yield Path(folder)


def test_a_disk_too_small_to_start_on_is_one_sentence(
    tmp_path: Path, disk: Path, request: pytest.FixtureRequest
) -> None:
    if can_mount(disk):
        run = StackRun(disk / "var")
        run.command = (*on_small_disk(disk, 16), *run.command)
    else:
        run = StackRun(request.getfixturevalue("shared_memory") / "var")
        assert shutil.disk_usage(run.var.parent).free < 256 * MB
    run.log_path = tmp_path / "log"
    assert run.begin().wait() == 1
    assert "is full: " in run.last_words()
    assert "256 MB are needed" in run.last_words()
    assert run.leftovers() == []


@pytest.mark.timeout(240)
def test_a_disk_that_fills_up_ends_everything_with_a_sentence(
    tmp_path: Path, disk: Path, request: pytest.FixtureRequest
) -> None:
    if can_mount(disk):
        run = StackRun(disk / "var")
        run.command = (*on_small_disk(disk, 420), *run.command)
    else:
        run = moved(request.getfixturevalue("shared_memory") / "var", StackRun(tmp_path / "var"))
    run.log_path = tmp_path / "log"
    run.start()
    filling = seen_from_outside(run.var.parent, run.popen.pid)
    room = shutil.disk_usage(filling).free - 8 * MB
    with (filling / "filler").open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, room)
    assert run.wait() == 1
    assert "The disk that holds" in run.last_words()
    run.wait_gone(10)


def moved(var: Path, first: StackRun) -> StackRun:
    """A stack on `var` that has started before: what the first one made is linked, what is written anew will be on `var`."""
    first.start()
    assert first.end() == 0
    var.mkdir()
    for entry in first.var.iterdir():
        (var / entry.name).symlink_to(entry)
    run = StackRun(var)
    run.environ, run.ports = {**first.environ, "SMCP_VAR_DIR": str(var)}, first.ports
    return run
