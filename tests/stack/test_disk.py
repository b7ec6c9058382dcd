"""A disk that is full, or becomes full: a real one, small, mounted for the test where the machine lets us.

Where it does not (a container without the right to mount), `/dev/shm` is the small disk: containers get 64 MB of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.stack.harness import StackRun

MB = 1024 * 1024


@contextmanager
def mounted(folder: Path, size_mb: int) -> Iterator[bool]:
    """A disk of that size at `folder`; whether the machine let us."""
    folder.mkdir()
    command = ("mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=755", "smcp-test", str(folder))
    is_mounted = (
        shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0
    )
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(("umount", "--lazy", str(folder)), check=True)


def can_mount() -> bool:
    if os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as folder, mounted(Path(folder) / "disk", 1) as is_mounted:
        return is_mounted


@contextmanager
def small_disk(folder: Path, size_mb: int) -> Iterator[Path]:
    with mounted(folder, size_mb) as is_mounted:
        if is_mounted:
            yield folder
            return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as shared:
        assert shutil.disk_usage(shared).free < 256 * MB, "no small disk on this machine"
        yield Path(shared)


def test_a_disk_too_small_to_start_on_is_one_sentence(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 16) as disk:
        run = StackRun(disk / "var")
        run.log_path = tmp_path / "log"
        assert run.begin().wait() == 1
        assert "is full: " in run.last_words()
        assert "256 MB are needed" in run.last_words()
        assert run.leftovers() == []


if can_mount():

    @pytest.mark.timeout(240)
    def test_a_disk_that_fills_up_ends_everything_with_a_sentence(tmp_path: Path) -> None:
        with small_disk(tmp_path / "disk", 420) as disk:
            run = StackRun(disk / "var")
            run.log_path = tmp_path / "log"
            run.start()
            room = shutil.disk_usage(disk).free - 8 * MB
            with (disk / "filler").open("wb") as filler:
                os.posix_fallocate(filler.fileno(), 0, room)
            assert run.wait() == 1
            assert "The disk that holds" in run.last_words()
            run.wait_gone(10)
