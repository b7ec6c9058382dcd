"""The conformance suite, against the everything server itself and through the gateway: to be the same, check for check.

The counts are those of a correct server. They are exact, so that a scenario which no longer runs is noticed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.stage import Stage, everything_process
from tests.conformance.suite import Revision, assert_score, score_server

PASSED: dict[Revision, int] = {"2025-11-25": 84, "2026-07-28": 152}


@pytest.mark.parametrize("revision", PASSED)
async def test_the_everything_server_itself_is_correct(revision: Revision, tmp_path: Path) -> None:
    with everything_process("both") as url:
        score = await score_server(url, revision, tmp_path / "results")
    assert_score(score, PASSED[revision])


@pytest.mark.acceptance("S3.2", "S4.2", "S4.3")
@pytest.mark.parametrize("revision", PASSED)
async def test_the_same_server_as_a_worker_behind_the_gateway_is_correct(
    stage: Stage, everything: str, revision: Revision, tmp_path: Path
) -> None:
    score = await score_server(everything, revision, tmp_path / "results")
    assert_score(score, PASSED[revision])
