"""Nothing is left out in CI; elsewhere only what needs a browser or nginx, and it is said."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.parts import ROOT

FILES = ("tests/dataplane/test_setups.py", "tests/common/test_docs.py", "tests/common/test_pagination.py")
NGINX_TEST = "test_requests_go_to_one_node_after_the_other"
BROWSER_TEST = "test_the_reference_shows_every_noun_and_asks_nobody_else"


@pytest.mark.parametrize("ci", ["", "true"])
def test_without_a_program_its_tests_are_left_out_except_in_ci_which_fails(ci: str) -> None:
    environ = {
        **{name: value for name, value in os.environ.items() if name != "SMCP_CHROMIUM"},
        "PATH": "/nowhere",
        "SMCP_NGINX": "/nowhere/nginx",
        "CI": ci,
    }
    done = subprocess.run(
        (sys.executable, "-m", "tests.checks", "test", "--collect-only", "-q", *FILES),
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
    )
    assert "There is no Chromium on this machine" in done.stdout
    assert "There is no nginx on this machine" in done.stdout
    assert (BROWSER_TEST in done.stdout) == bool(ci)
    assert (NGINX_TEST in done.stdout) == bool(ci)
    assert (done.returncode != 0) == bool(ci), done.stdout + done.stderr
